/*
 * Requests of the library that wait for their one reply.
 */
#include "client/handle.h"

#include <string.h>

struct deltad_models {
	size_t n;
	char *names; /* owned; all of them, terminated */
	struct deltad_model items[];
};

/* Sends a request and takes its reply, of op `expected`, into d->in; the caller ends that. */
static int call(struct deltad *d, struct proto_message *m, enum proto_op expected)
{
	const struct proto_message *reply = &d->in.message;
	int r;

	d->reason.text[0] = '\0';
	r = connection_call(d->connection, m, &d->in, &d->reason);
	if (r < 0)
		return r;
	if (reply->op == expected)
		return 0;
	if (reply->op == PROTO_ERROR)
		r = reason_set(&d->reason, status_errno(reply->error.status), "%.*s",
			(int)reply->error.words.n, reply->error.words.bytes);
	else
		r = reason_set(&d->reason, -EPROTO, "op %u: expected %u", reply->op, expected);
	wire_received_done(&d->in);
	return r;
}

static struct deltad_models *models_new(const struct proto_variants *variants)
{
	struct deltad_models *models;
	size_t bytes = 1;

	for (uint32_t i = 0; i < variants->n; i++)
		bytes += variants->items[i].name.n + 1;
	models = calloc(1, sizeof(*models) + variants->n * sizeof(models->items[0]));
	if (!models)
		return NULL;
	models->names = malloc(bytes);
	if (!models->names)
		return deltad_models_free(models);
	models->n = variants->n;
	return models;
}

static void models_fill(struct deltad_models *models, const struct proto_variants *variants)
{
	char *at = models->names;

	for (size_t i = 0; i < models->n; i++) {
		const struct proto_variant *v = &variants->items[i];
		struct deltad_model *m = &models->items[i];

		memcpy(at, v->name.bytes, v->name.n);
		at[v->name.n] = '\0';
		m->name = at;
		at += v->name.n + 1;
		m->residency = (enum deltad_residency)v->residency;
		m->is_base = !!(v->flags & PROTO_VARIANT_BASE);
		m->has_chat = !!(v->flags & PROTO_VARIANT_CHAT);
		m->file_bytes = v->file_bytes;
		m->memory_bytes = v->memory_bytes;
		memcpy(m->digest, v->digest.bytes, sizeof(m->digest));
		m->context = v->context;
		m->vocabulary = v->vocabulary;
	}
}

int deltad_models(struct deltad *d, struct deltad_models **ret)
{
	struct proto_message m = {.op = PROTO_MODELS};
	struct deltad_models *models;
	int r = call(d, &m, PROTO_MODELS_REPLY);

	if (r < 0)
		return r;
	models = models_new(&d->in.message.variants);
	if (models)
		models_fill(models, &d->in.message.variants);
	wire_received_done(&d->in);
	if (!models)
		return -ENOMEM;
	*ret = models;
	return 0;
}

size_t deltad_models_count(const struct deltad_models *models)
{
	return models->n;
}

const struct deltad_model *deltad_models_get(const struct deltad_models *models, size_t i)
{
	return i < models->n ? &models->items[i] : NULL;
}

struct deltad_models *deltad_models_free(struct deltad_models *models)
{
	if (!models)
		return NULL;
	free(models->names);
	free(models);
	return NULL;
}

int deltad_tokenize(struct deltad *d, const char *variant, const char *text, size_t n_text,
	uint32_t flags, uint32_t **ret, size_t *ret_n)
{
	struct proto_message m = {.op = PROTO_TOKENIZE};
	uint32_t *ids;
	size_t n;
	int r;

	if (n_text > PROTO_MAX_TEXT)
		return reason_set(&d->reason, -EINVAL, "text: too long");
	m.tokenize.variant = proto_str(variant);
	m.tokenize.flags = flags;
	m.tokenize.text = (struct proto_str){.bytes = text, .n = (uint32_t)n_text};
	r = call(d, &m, PROTO_TOKENIZE_REPLY);
	if (r < 0)
		return r;
	n = d->in.message.ids.n;
	ids = malloc(n * sizeof(*ids) + 1);
	if (ids && n > 0)
		memcpy(ids, d->in.message.ids.ids, n * sizeof(*ids));
	wire_received_done(&d->in);
	if (!ids)
		return -ENOMEM;
	*ret = ids;
	*ret_n = n;
	return 0;
}

int deltad_detokenize(struct deltad *d, const char *variant, const uint32_t *ids, size_t n_ids,
	uint32_t flags, char **ret, size_t *ret_n)
{
	struct proto_message m = {.op = PROTO_DETOKENIZE};
	size_t n;
	char *text;
	int r;

	if (n_ids > PROTO_MAX_IDS)
		return reason_set(&d->reason, -EINVAL, "ids: too many");
	m.detokenize.variant = proto_str(variant);
	m.detokenize.flags = flags;
	m.detokenize.n_ids = (uint32_t)n_ids;
	m.detokenize.ids = (uint32_t *)(uintptr_t)ids; /* only read by the encoder */
	r = call(d, &m, PROTO_DETOKENIZE_REPLY);
	if (r < 0)
		return r;
	n = d->in.message.text.text.n;
	text = malloc(n + 1);
	if (text) {
		memcpy(text, d->in.message.text.text.bytes, n);
		text[n] = '\0';
	}
	wire_received_done(&d->in);
	if (!text)
		return -ENOMEM;
	*ret = text;
	*ret_n = n;
	return 0;
}
