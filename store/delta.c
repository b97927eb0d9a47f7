#include "store/delta.h"

#include "store/codec.h"
#include "store/tensor_table.h"

#include <inttypes.h>
#include <string.h>

static int bind_mixed_svd(const struct payload *p, struct linear_delta *ret, struct reason *reason)
{
	return codec_mixed_svd(p, &ret->svd, reason);
}

/* The codecs that a projection may have. */
static const struct projection_codec {
	enum tensor_codec codec;
	int (*bind)(const struct payload *p, struct linear_delta *ret, struct reason *reason);
} projection_codecs[] = {
	{CODEC_MIXED_SVD, bind_mixed_svd},
};

static struct linear_delta *projection_of(struct delta *d, enum tensor_role role, uint32_t layer)
{
	struct delta_layer *l = &d->layers[layer];

	switch (role) {
	case ROLE_Q:
		return &l->q;
	case ROLE_K:
		return &l->k;
	case ROLE_V:
		return &l->v;
	case ROLE_O:
		return &l->o;
	case ROLE_GATE:
		return &l->gate;
	case ROLE_UP:
		return &l->up;
	case ROLE_DOWN:
		return &l->down;
	case ROLE_EMBED:
	case ROLE_ATTN_NORM:
	case ROLE_Q_BIAS:
	case ROLE_K_BIAS:
	case ROLE_V_BIAS:
	case ROLE_Q_NORM:
	case ROLE_K_NORM:
	case ROLE_O_BIAS:
	case ROLE_FFN_NORM:
	case ROLE_GATE_BIAS:
	case ROLE_UP_BIAS:
	case ROLE_DOWN_BIAS:
	case ROLE_FINAL_NORM:
	case ROLE_HEAD:
	case N_ROLES:
		break;
	}
	return NULL;
}

static const float **vector_of(struct delta *d, enum tensor_role role, uint32_t layer)
{
	return role == ROLE_FINAL_NORM ? &d->final_norm
				       : layer_vector(&d->layers[layer].vectors, role);
}

static int bind_projection(const struct payload *p, struct linear_delta *ret, struct reason *reason)
{
	for (size_t i = 0; i < array_len(projection_codecs); i++) {
		int r;

		if (p->record->codec != projection_codecs[i].codec)
			continue;
		r = projection_codecs[i].bind(p, ret, reason);
		if (r == 0)
			ret->codec = p->record->codec;
		return r;
	}
	return reason_set(reason, -EOPNOTSUPP, "codec %" PRIu32 " is unknown for a projection",
		p->record->codec);
}

static int bind_tensor(struct delta *d, const struct payload *p, struct reason *reason)
{
	enum tensor_role role = (enum tensor_role)p->record->role;
	uint32_t layer = p->record->layer;

	if (tensor_role_is_projection(role))
		return bind_projection(p, projection_of(d, role, layer), reason);
	if (tensor_role_is_vector(role))
		return codec_vector_f32(p, vector_of(d, role, layer), reason);
	return codec_dense_rows(p, role == ROLE_EMBED ? &d->embed : &d->head, reason);
}

static int bind_tensors(struct delta *d, const struct tensor_table *t, struct reason *reason)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct payload p = {
			.record = &t->records[i],
			.bytes = t->bytes + t->records[i].offset,
		};
		int r = bind_tensor(d, &p, reason);

		if (r < 0)
			return tensor_reason(p.record, r, reason);
	}
	if (d->config.flags & MODEL_TIED_HEAD)
		d->head = d->embed;
	d->records = t->records;
	d->n_records = t->n;
	return 0;
}

static int bind_certificate(struct delta *d, const struct image *image, struct reason *reason)
{
	uint64_t n_bytes, expected;
	const uint8_t *bytes = image_section(image, SECTION_CERTIFICATE, &n_bytes);
	const struct certificate *c = (const void *)bytes;

	if (!bytes)
		return 0;
	expected = sizeof(*c) + d->n_records * sizeof(struct tensor_quality);
	if (n_bytes != expected)
		return reason_set(reason, -EBADMSG,
			"certificate: has %" PRIu64 " bytes, %zu records make it %" PRIu64, n_bytes,
			d->n_records, expected);
	if (!is_printable_name(c->method, sizeof(c->method)))
		return reason_set(
			reason, -EBADMSG, "certificate: method has no end, or is not ASCII");
	d->certificate = c;
	d->qualities = (const void *)(bytes + sizeof(*c));
	return 0;
}

/* Rows ascend and are below the vocabulary, so the added ones are all there if they are the last.
 */
static int check_added_rows(const struct dense_rows *rows, const char *name, uint32_t vocab,
	uint32_t base_vocab, struct reason *reason)
{
	uint32_t n_added = vocab - base_vocab;

	if (n_added == 0)
		return 0;
	if (rows->n_rows < n_added || rows->rows[rows->n_rows - n_added] != base_vocab)
		return reason_set(reason, -EBADMSG,
			"%s: rows %" PRIu32 " to %" PRIu32 " of added tokens are not all there",
			name, base_vocab, vocab - 1);
	return 0;
}

static int check_partner(const struct image *image, const struct base *base, struct reason *reason)
{
	char found[DIGEST_HEX_SIZE], expected[DIGEST_HEX_SIZE];

	if (digest_equal(&image->header.model, base_model_digest(base)))
		return 0;
	digest_hex(&image->header.model, found);
	digest_hex(base_model_digest(base), expected);
	return reason_set(reason, -EMEDIUMTYPE,
		"made for the base with model digest %s, this base has %s", found, expected);
}

static int check_vocabulary(
	const struct delta *d, const struct model_config *base, struct reason *reason)
{
	int r = check_added_rows(&d->embed, "embed", d->config.vocab, base->vocab, reason);

	if (r < 0)
		return r;
	return check_added_rows(&d->head, "head", d->config.vocab, base->vocab, reason);
}

static int bind_contents(struct delta *d, const struct image *image, struct reason *reason)
{
	struct tensor_table table;
	int r = tensor_table_open(image, &d->config, &table, reason);

	if (r < 0)
		return r;
	d->layers = calloc(d->config.n_layers, sizeof(*d->layers));
	if (!d->layers)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = bind_tensors(d, &table, reason);
	if (r == 0)
		r = bind_certificate(d, image, reason);
	return r;
}

int delta_bind(
	struct image *image, const struct base *base, struct delta **ret, struct reason *reason)
{
	_cleanup_(deltap) struct delta *d = NULL;
	int r;

	if (image->kind != IMAGE_KIND_DELTA)
		return reason_set(reason, -EMEDIUMTYPE, "is a base image, expected a delta file");
	d = calloc(1, sizeof(*d));
	if (!d)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = base ? check_partner(image, base, reason) : 0;
	if (r == 0)
		r = tensor_table_config(image, &d->config, reason);
	if (r == 0 && base)
		r = model_config_fits(&d->config, &base->config, reason);
	if (r == 0)
		r = bind_contents(d, image, reason);
	if (r == 0 && base)
		r = check_vocabulary(d, &base->config, reason);
	if (r < 0)
		return r;
	d->image = image;
	*ret = take_ptr(d);
	return 0;
}

int delta_open(const char *path, const struct base *base, struct delta **ret,
	const struct progress *progress, struct reason *reason)
{
	_cleanup_(imagep) struct image *image = NULL;
	int r = image_load_path(path, &image, progress, reason);

	if (r < 0)
		return r;
	r = delta_bind(image, base, ret, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", path);
	take_ptr(image);
	return 0;
}

struct delta *delta_free(struct delta *delta)
{
	if (!delta)
		return NULL;
	image_free(delta->image);
	free(delta->layers);
	free(delta);
	return NULL;
}
