#include "daemon/variants.h"

#include "common/clock.h"
#include "common/file.h"
#include "daemon/log.h"
#include "daemon/server.h"
#include "daemon/session.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

struct list {
	struct proto_variants variants;
	size_t room;
	struct catalog_entry *catalog; /* names of what is not in memory point into it */
};

static void list_done(struct list *l)
{
	free(l->variants.items);
	free(l->catalog);
}

static struct proto_variant *list_add(struct list *l)
{
	struct proto_variants *v = &l->variants;

	if (v->n == l->room) {
		size_t room = l->room ? 2 * l->room : 16;
		struct proto_variant *items = reallocarray(v->items, room, sizeof(*items));

		if (!items)
			return NULL;
		v->items = items;
		l->room = room;
	}
	v->items[v->n] = (struct proto_variant){.residency = PROTO_RESIDENCY_DISK};
	return &v->items[v->n++];
}

static enum proto_residency residency_of(enum entry_state state)
{
	switch (state) {
	case ENTRY_STATE_ABSENT:
		return PROTO_RESIDENCY_DISK;
	case ENTRY_STATE_LOADING:
		return PROTO_RESIDENCY_LOADING;
	case ENTRY_STATE_RESIDENT:
		return PROTO_RESIDENCY_RESIDENT;
	case ENTRY_STATE_DRAINING:
		return PROTO_RESIDENCY_DRAINING;
	case ENTRY_STATE_FAILED:
		return PROTO_RESIDENCY_FAILED;
	}
	return PROTO_RESIDENCY_DISK;
}

static void describe_loaded(
	const struct server *server, const struct loaded *l, struct proto_variant *v)
{
	v->digest = l->image->header.root;
	v->context = (uint32_t)min_u64(loaded_context(l), server_kv_positions(server));
	v->vocabulary = variant_config(l->variant)->vocab;
	if (l->chat)
		v->flags |= PROTO_VARIANT_CHAT;
}

static void describe_entry(
	const struct server *server, const struct entry *e, struct proto_variant *v)
{
	uint64_t total;

	v->name = proto_str(e->name);
	v->residency = residency_of(e->state);
	v->flags |= e->pinned ? PROTO_VARIANT_PINNED : 0;
	v->flags |= e->file.is_base ? PROTO_VARIANT_BASE : 0;
	v->file_bytes = e->file.bytes;
	v->memory_bytes = e->memory_bytes;
	v->streams = (uint32_t)e->n_streams;
	v->requests = e->n_requests;
	v->generated = e->n_generated;
	if (e->state == ENTRY_STATE_LOADING)
		loader_progress(server->loader, e->id, &v->loaded_bytes, &total);
	if (e->state == ENTRY_STATE_RESIDENT && !e->n_streams)
		v->idle_ns = clock_ns() - e->used_ns;
	if (e->state == ENTRY_STATE_FAILED)
		v->words = proto_str(e->reason.text);
	if (e->loaded)
		describe_loaded(server, e->loaded, v);
}

/* The delta's own chat format, or else that of the base. */
static bool has_chat(const struct server *server, const struct format_header *h)
{
	for (uint32_t i = 0; i < h->n_sections; i++)
		if (h->sections[i].kind == SECTION_CHAT)
			return true;
	return server->base && server->base->loaded && server->base->loaded->chat;
}

static void describe_header(
	const struct server *server, const struct format_header *h, struct proto_variant *v)
{
	v->digest = h->root;
	if (has_chat(server, h))
		v->flags |= PROTO_VARIANT_CHAT;
}

static void describe_file(
	const struct server *server, const struct catalog_entry *c, struct proto_variant *v)
{
	_cleanup_(closep) int fd = -1;
	struct format_header header;

	v->name = proto_str(c->name);
	v->file_bytes = c->n_bytes;
	if (catalog_open_delta(server->catalog, c->name, &fd) == 0 &&
		image_peek(fd, &header, NULL) == 0)
		describe_header(server, &header, v);
}

static bool failed(const struct entry *e)
{
	return e->state == ENTRY_STATE_FAILED;
}

static bool in_memory(const struct entry *e)
{
	return e->state != ENTRY_STATE_ABSENT && !failed(e);
}

/* A variant that failed is listed with its file, as long as that is there. */
static int list_entries(const struct server *server, bool only_memory, struct list *l)
{
	for (const struct entry *e = registry_first(server->registry); e; e = e->next) {
		struct proto_variant *v;

		if (!in_memory(e) && (only_memory || !failed(e) || !e->file.is_base))
			continue;
		v = list_add(l);
		if (!v)
			return -ENOMEM;
		describe_entry(server, e, v);
	}
	return 0;
}

/* Those of the catalog that the registry has not listed. */
static int list_catalog(const struct server *server, struct list *l)
{
	size_t n;
	int r;

	r = catalog_list(server->catalog, IMAGE_KIND_DELTA, &l->catalog, &n);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		const struct entry *e = registry_find(server->registry, l->catalog[i].name);
		struct proto_variant *v;

		if (e && in_memory(e))
			continue;
		v = list_add(l);
		if (!v)
			return -ENOMEM;
		if (e && failed(e))
			describe_entry(server, e, v);
		else
			describe_file(server, &l->catalog[i], v);
		v->requests = e ? e->n_requests : 0;
		v->generated = e ? e->n_generated : 0;
	}
	return 0;
}

static int by_name(const void *a, const void *b)
{
	const struct proto_variant *x = a, *y = b;
	bool x_base = x->flags & PROTO_VARIANT_BASE, y_base = y->flags & PROTO_VARIANT_BASE;
	int order;

	if (x_base != y_base)
		return x_base ? -1 : 1;
	order = memcmp(x->name.bytes, y->name.bytes, min_u64(x->name.n, y->name.n));
	return order ? order : (x->name.n > y->name.n) - (x->name.n < y->name.n);
}

/* What a client may know of the others' use. */
static void hide_use(struct proto_variants *v)
{
	for (uint32_t i = 0; i < v->n; i++) {
		v->items[i].streams = 0;
		v->items[i].requests = 0;
		v->items[i].generated = 0;
		v->items[i].idle_ns = 0;
	}
}

void variants_send(struct session *s, uint64_t request, enum proto_op reply)
{
	struct proto_message m = {.op = reply, .request = request};
	_cleanup_(list_done) struct list list = {.room = 0};
	struct reason reason;
	int r;

	r = list_entries(s->server, reply == PROTO_PS_REPLY, &list);
	if (r == 0 && reply != PROTO_PS_REPLY)
		r = list_catalog(s->server, &list);
	if (r < 0) {
		reason_set(&reason, 0, "the store cannot be listed: %s", strerror(-r));
		log_error("%s", reason.text);
		session_send_error(s, request, PROTO_STATUS_INTERNAL, &reason);
		return;
	}
	if (list.variants.n)
		qsort(list.variants.items, list.variants.n, sizeof(struct proto_variant), by_name);
	if (reply == PROTO_MODELS_REPLY)
		hide_use(&list.variants);
	m.variants = list.variants;
	session_send(s, &m);
}

static void add_certificate(const struct certificate *c, struct proto_show_reply *show)
{
	if (!c)
		return;
	show->method = (struct proto_str){c->method, (uint32_t)strnlen(c->method, 32)};
	show->calibration = c->calibration;
	show->n_calibration_tokens = c->n_calibration_tokens;
	show->n_eval_tokens = c->n_eval_tokens;
	show->kl = c->kl;
	show->agreement = c->agreement;
	show->perplexity_base = c->perplexity_base;
	show->perplexity_tuned = c->perplexity_tuned;
	show->perplexity_delta = c->perplexity_delta;
	show->projection_bytes = c->projection_bytes;
	show->projection_original_bytes = c->projection_original_bytes;
}

static void show_loaded(const struct loaded *l, struct proto_show_reply *show)
{
	show->model = l->image->header.model;
	show->tuned = l->image->header.tuned;
	if (l->chat)
		show->chat_format = proto_str(chat_format_name(l->chat));
	if (l->delta)
		add_certificate(l->delta->certificate, show);
}

/* Fills what the header of a file that is not in memory says. False if there is no such file. */
static bool show_file(const struct server *server, const char *name, struct proto_show_reply *show)
{
	_cleanup_(closep) int fd = -1;
	struct format_header header;
	struct stat st;

	if (catalog_open_delta(server->catalog, name, &fd) != 0)
		return false;
	if (fstat(fd, &st) == 0)
		show->variant.file_bytes = (uint64_t)st.st_size;
	if (image_peek(fd, &header, NULL) == 0) {
		describe_header(server, &header, &show->variant);
		show->model = header.model;
		show->tuned = header.tuned;
	}
	return true;
}

void variants_send_show(struct session *s, uint64_t request, struct proto_str name)
{
	struct proto_message m = {.op = PROTO_SHOW_REPLY, .request = request};
	struct proto_show_reply *show = &m.show_reply;
	char text[REGISTRY_MAX_NAME + 1] = "";
	const struct entry *e;
	struct reason reason;

	if (name.n <= REGISTRY_MAX_NAME)
		memcpy(text, name.bytes, name.n);
	show->variant.name = proto_str(text);
	show->kl = show->agreement = NAN;
	show->perplexity_base = show->perplexity_tuned = show->perplexity_delta = NAN;
	e = registry_find(s->server->registry, text);
	if (e)
		describe_entry(s->server, e, &show->variant);
	if (e && e->loaded) {
		show_loaded(e->loaded, show);
	} else if (!show_file(s->server, text, show) && (!e || !e->file.is_base)) {
		reason_set(&reason, 0, "there is no variant \"%s\"", text);
		session_send_error(s, request, PROTO_STATUS_UNKNOWN_VARIANT, &reason);
		return;
	}
	session_send(s, &m);
}
