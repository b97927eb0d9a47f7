#include "store/delta.h"

#include "store/codec.h"
#include "store/parallel.h"
#include "store/tensor_table.h"

#include <inttypes.h>
#include <string.h>

/* Below this, expanding is faster than starting threads. */
#define PARALLEL_BYTES (UINT64_C(1) << 20)

static struct linear_delta *matrix_of(struct delta *d, enum tensor_role role, uint32_t layer)
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
		return &d->embed;
	case ROLE_HEAD:
		return &d->head;
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

static bool lists_meet(const uint32_t *a, uint32_t n_a, const uint32_t *b, uint32_t n_b)
{
	while (n_a > 0 && n_b > 0) {
		if (*a == *b)
			return true;
		if (*a < *b) {
			a++;
			n_a--;
		} else {
			b++;
			n_b--;
		}
	}
	return false;
}

/* Parts add up, but a row that is replaced is replaced: nothing may be added to it. */
static int check_company(
	const struct linear_delta *m, const struct tensor_record *record, struct reason *reason)
{
	const struct delta_part *first = &m->parts[0], *last = &m->parts[m->n_parts - 1];
	const struct replaced_rows *replaced = &first->rows;

	if (m->n_parts < 2 || (first->codec != CODEC_ROWS && last->codec != CODEC_ROWS))
		return 0;
	if (last->codec == CODEC_ROWS)
		return reason_set(reason, -EBADMSG, "replaces rows after other parts");
	if (last->codec != CODEC_CODES || record->n == record->rows || !replaced->rows)
		return reason_set(reason, -EBADMSG, "adds to a matrix whose rows are replaced");
	if (last->codes.rows &&
		lists_meet(last->codes.rows, last->codes.q.rows, replaced->rows, replaced->n_rows))
		return reason_set(reason, -EBADMSG, "adds to a row that is replaced");
	return 0;
}

static uint32_t sum_of_ranks(const struct linear_delta *m)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < m->n_parts; i++)
		if (m->parts[i].codec == CODEC_FACTORS)
			sum += m->parts[i].factors.v.rows;
	return sum;
}

/* Takes its place among the parts of its matrix; factors that follow others in memory become one
 * with them. */
static int add_part(struct linear_delta *m, const struct payload *p, const struct delta_part *part,
	struct reason *reason)
{
	const struct tensor_record *record = p->record;
	uint64_t most = min_u64(record->rows, record->cols);

	if (p->joined.first > 0) {
		struct factors *all = &m->parts[m->n_parts - 1].factors;

		all->v.rows += part->factors.v.rows;
		all->u.rows += part->factors.u.rows;
	} else {
		m->parts[m->n_parts++] = *part;
	}
	if (sum_of_ranks(m) > most)
		return reason_set(reason, -EBADMSG,
			"has %" PRIu32 " components in all, a matrix of %" PRIu32 " by %" PRIu32
			" has %" PRIu64,
			sum_of_ranks(m), record->rows, record->cols, most);
	return check_company(m, record, reason);
}

/* One record on its way: checked and expanded, not yet in its place. */
struct binding {
	struct payload payload;
	struct delta_part part;
	const float *vector;
	struct reason reason;
	int error;
};

static void bind_one(void *arg, size_t i)
{
	struct binding *b = (struct binding *)arg + i;

	if (tensor_role_is_vector((enum tensor_role)b->payload.record->role))
		b->error = codec_vector_f32(&b->payload, &b->vector, &b->reason);
	else
		b->error = codec_part(&b->payload, &b->part, &b->reason);
}

static int put_in_place(struct delta *d, struct binding *b, struct reason *reason)
{
	const struct tensor_record *record = b->payload.record;
	enum tensor_role role = (enum tensor_role)record->role;
	int r = 0;

	if (b->error < 0) {
		if (reason)
			*reason = b->reason;
		r = b->error;
	} else if (tensor_role_is_vector(role)) {
		*vector_of(d, role, record->layer) = b->vector;
	} else {
		r = add_part(matrix_of(d, role, record->layer), &b->payload, &b->part, reason);
	}
	return r < 0 ? tensor_reason(record, r, reason) : 0;
}

/* Memory for what is not in the file as the kernels want it. A file that was cut has a part of it,
 * and no more than its header told whoever made room for it. */
static int make_room(struct delta *d, const struct image *image, const struct tensor_table *t,
	struct reason *reason)
{
	bool whole = image->n_levels == image->header.n_levels;
	uint64_t n = 0;

	for (size_t i = 0; i < t->n; i++)
		n += part_layout(&t->records[i]).expanded_bytes;
	if (n > image->header.expanded_bytes || (whole && n != image->header.expanded_bytes))
		return reason_set(reason, -EBADMSG,
			"header: %" PRIu64 " bytes when expanded, the records make it %" PRIu64,
			image->header.expanded_bytes, n);
	if (n == 0)
		return 0;
	d->expanded = aligned_alloc(FORMAT_PAGE, align_up(n, FORMAT_PAGE));
	if (!d->expanded)
		return reason_set(reason, -ENOMEM, "no memory to expand %" PRIu64 " bytes", n);
	d->expanded_bytes = n;
	return 0;
}

/* Expanding may take longer than reading: all processors do it. Trouble is told in the order of
 * the records. */
static int bind_tensors(struct delta *d, const struct tensor_table *t, const struct base *base,
	const struct digest *model, struct reason *reason)
{
	_cleanup_(freep) struct binding *bindings = calloc(t->n + 1, sizeof(*bindings));
	_cleanup_(freep) struct placement *places = calloc(t->n + 1, sizeof(*places));
	bool other_values = base && !digest_equal(model, base_served_digest(base));
	int r = bindings && places ? 0 : -ENOMEM;

	if (r == 0 && d->expanded)
		r = placement_plan(t, d->config.n_layers, places);
	if (r < 0)
		return reason_set(reason, r, "out of memory");
	for (size_t i = 0; i < t->n; i++) {
		const struct tensor_record *record = &t->records[i];

		bindings[i].payload = (struct payload){
			.record = record,
			.bytes = t->bytes + record->offset,
			.room = d->expanded ? d->expanded + places[i].at : NULL,
			.joined = places[i],
			.base = base ? base_matrix(
					       base, (enum tensor_role)record->role, record->layer)
				     : NULL,
			.other_values = other_values,
		};
	}
	if (d->expanded_bytes >= PARALLEL_BYTES)
		parallel_for(t->n, bind_one, bindings);
	else
		for (size_t i = 0; i < t->n; i++)
			bind_one(bindings, i);
	for (size_t i = 0; r == 0 && i < t->n; i++)
		r = put_in_place(d, &bindings[i], reason);
	if (d->config.flags & MODEL_TIED_HEAD)
		d->head = d->embed;
	d->records = t->records;
	d->n_records = t->n;
	return r;
}

static int bind_certificate(
	struct delta *d, const struct image *image, size_t n_all, struct reason *reason)
{
	uint64_t n_bytes, expected;
	const uint8_t *bytes = image_section(image, SECTION_CERTIFICATE, &n_bytes);
	const struct certificate *c = (const void *)bytes;

	if (!bytes)
		return 0;
	if (n_bytes < sizeof(*c) || c->n_points > FORMAT_MAX_POINTS)
		return reason_set(reason, -EBADMSG,
			"certificate: has %" PRIu64 " bytes, or more than %u points", n_bytes,
			FORMAT_MAX_POINTS);
	expected = sizeof(*c) + n_all * sizeof(*d->qualities) + c->n_points * sizeof(*d->points);
	if (n_bytes != expected && n_bytes != expected + sizeof(*d->tasks))
		return reason_set(reason, -EBADMSG,
			"certificate: has %" PRIu64 " bytes, %zu records and %" PRIu64
			" points make it %" PRIu64,
			n_bytes, n_all, c->n_points, expected);
	if (!is_printable_name(c->method, sizeof(c->method)))
		return reason_set(
			reason, -EBADMSG, "certificate: method has no end, or is not ASCII");
	d->certificate = c;
	d->qualities = (const void *)(bytes + sizeof(*c));
	if (c->n_points)
		d->points = (const void *)(d->qualities + n_all);
	if (n_bytes > expected)
		d->tasks = (const void *)(bytes + expected);
	if (d->tasks && (d->tasks->text > CERTIFICATE_RANDOM || d->tasks->reserved))
		return reason_set(reason, -EBADMSG, "certificate: text is %u, expected 0 to %u",
			d->tasks->text, CERTIFICATE_RANDOM);
	return 0;
}

/* Rows ascend and are below the vocabulary, so the added ones are all there if they are the last.
 * Only these may be past the base's. */
static int check_added_rows(const struct linear_delta *m, const char *name, uint32_t vocab,
	uint32_t base_vocab, struct reason *reason)
{
	const struct replaced_rows *rows = m->n_parts ? &m->parts[0].rows : NULL;
	uint32_t n_added = vocab - base_vocab;

	if (n_added == 0)
		return 0;
	if (!rows || m->parts[0].codec != CODEC_ROWS || rows->n_rows < n_added ||
		(rows->rows && rows->rows[rows->n_rows - n_added] != base_vocab))
		return reason_set(reason, -EBADMSG,
			"%s: rows %" PRIu32 " to %" PRIu32 " of added tokens are not all there",
			name, base_vocab, vocab - 1);
	return 0;
}

static int check_partner(
	const struct image *image, const struct format_header *base, struct reason *reason)
{
	char found[DIGEST_HEX_SIZE], expected[DIGEST_HEX_SIZE], served[DIGEST_HEX_SIZE];

	if (image_fits(&image->header, base))
		return 0;
	digest_hex(&image->header.model, found);
	digest_hex(&base->model, expected);
	digest_hex(image_served_digest(base), served);
	if (strcmp(served, expected) == 0)
		return reason_set(reason, -EMEDIUMTYPE,
			"made for the base with model digest %s, this base has %s", found,
			expected);
	return reason_set(reason, -EMEDIUMTYPE,
		"made for the base with model digest %s, this base has %s and, as its codes serve "
		"it, %s",
		found, expected, served);
}

static int check_vocabulary(
	const struct delta *d, const struct model_config *base, struct reason *reason)
{
	int r = check_added_rows(&d->embed, "embed", d->config.vocab, base->vocab, reason);

	if (r < 0)
		return r;
	return check_added_rows(&d->head, "head", d->config.vocab, base->vocab, reason);
}

static int bind_contents(
	struct delta *d, const struct image *image, const struct base *base, struct reason *reason)
{
	/* Without weights nothing can be told from them. */
	const struct base *weights = base && base->layers ? base : NULL;
	struct tensor_table table;
	int r = tensor_table_open(image, &d->config, &table, reason);

	if (r < 0)
		return r;
	d->layers = calloc(d->config.n_layers, sizeof(*d->layers));
	if (!d->layers)
		return reason_set(reason, -ENOMEM, "out of memory");
	if (weights)
		r = make_room(d, image, &table, reason);
	if (r == 0)
		r = bind_tensors(d, &table, weights, &image->header.model, reason);
	if (r == 0)
		r = bind_certificate(d, image, table.n_all, reason);
	return r;
}

int delta_bind(
	struct image *image, const struct base *base, struct delta **ret, struct reason *reason)
{
	_cleanup_(deltap) struct delta *d = NULL;
	int r = 0;

	if (image->kind != IMAGE_KIND_DELTA)
		return reason_set(reason, -EMEDIUMTYPE, "is a base image, expected a delta file");
	d = calloc(1, sizeof(*d));
	if (!d)
		return reason_set(reason, -ENOMEM, "out of memory");
	if (base)
		r = check_partner(image, &base->image->header, reason);
	if (r == 0)
		r = tensor_table_config(image, &d->config, reason);
	if (r == 0 && base)
		r = model_config_fits(&d->config, &base->config, reason);
	if (r == 0)
		r = bind_contents(d, image, base, reason);
	if (r == 0 && base)
		r = check_vocabulary(d, &base->config, reason);
	if (r < 0)
		return r;
	d->image = image;
	*ret = take_ptr(d);
	return 0;
}

/* Takes the image, whatever the result. */
static int bind_loaded(
	struct image *loaded, const struct base *base, struct delta **ret, struct reason *reason)
{
	_cleanup_(imagep) struct image *image = loaded;
	int r = delta_bind(image, base, ret, reason);

	if (r < 0)
		return r;
	take_ptr(image);
	return 0;
}

int delta_load(int fd, const struct base *base, struct delta **ret, const struct progress *progress,
	struct reason *reason)
{
	struct image *image;
	int r = image_load(fd, &image, progress, reason);

	return r < 0 ? r : bind_loaded(image, base, ret, reason);
}

int delta_open(const char *path, const struct base *base, struct delta **ret,
	const struct progress *progress, struct reason *reason)
{
	struct image *image;
	int r = image_load_path(path, &image, progress, reason);

	if (r < 0)
		return r;
	r = bind_loaded(image, base, ret, reason);
	return r < 0 ? reason_prefix(reason, r, "%s", path) : 0;
}

struct delta *delta_free(struct delta *delta)
{
	if (!delta)
		return NULL;
	image_free(delta->image);
	free(delta->expanded);
	free(delta->layers);
	free(delta);
	return NULL;
}
