#include "compress/parts.h"

#include "kernels/convert.h"
#include "kernels/pack.h"
#include "store/base.h"
#include "store/bf16_stream.h"

#include <math.h>
#include <string.h>

static struct part begin(const struct part_place *place, enum tensor_codec codec, uint32_t n)
{
	return (struct part){
		.record =
			{
				.role = place->role,
				.layer = place->layer,
				.codec = codec,
				.n = n,
				.rows = place->rows,
				.cols = place->cols,
				.level = place->level,
			},
		.quality = {.energy = NAN,
			.delta_norm = NAN,
			.loss = NAN,
			.why = WHY_METHOD,
			.unchanged = QUALITY_UNMEASURED},
	};
}

/* Zeroed memory for a payload whose record is complete but for `bytes`. */
static int make_payload(struct part *p, uint64_t n_bytes)
{
	p->record.bytes = n_bytes;
	p->payload = calloc(1, n_bytes + 1);
	return p->payload ? 0 : -ENOMEM;
}

static void set_grid(struct tensor_record *record, const struct code_matrix *m)
{
	bool has_step = m->grid != GRID_GROUP;

	record->bits = m->bits;
	record->grid = m->grid;
	record->step = has_step ? m->step : 0;
	record->zero = has_step ? m->zero : 0;
}

static void store_scales(
	uint8_t *payload, const struct stored_matrix *at, const struct code_matrix *m)
{
	size_t n_scales = m->n_rows * (m->grid == GRID_GROUP ? qmat_groups(m->n_cols) : 1);

	if (m->scales)
		memcpy(payload + at->scales, m->scales, n_scales * sizeof(*m->scales));
	if (m->zeros)
		memcpy(payload + at->zeros, m->zeros, n_scales);
}

static void store_codes(
	uint8_t *payload, const struct stored_matrix *at, const struct code_matrix *m)
{
	qmat_pack(payload + at->codes, m->codes, m->zeros, m->n_rows, m->n_cols, m->bits);
}

/* A payload that ends with streams: `fixed` bytes, then these. */
struct stream {
	uint8_t *bytes; /* owned */
	uint64_t n;
};

static void stream_done(struct stream *s)
{
	free(s->bytes);
}

static int encode(const struct part *p, const struct code_matrix *m, struct stream *ret)
{
	const struct code_shape shape = part_code_shape(&p->record, m->n_rows, m->n_cols);

	return code_stream_encode(&shape, m->codes, &ret->bytes, &ret->n);
}

/* The payload but for plain codes, once the record has what is special about it. */
static int begin_codes(
	struct part *p, const struct code_matrix *m, bool coded, struct part_layout *ret)
{
	_cleanup_(stream_done) struct stream stream = {0};
	int r;

	set_grid(&p->record, m);
	p->record.coding = coded ? CODING_STREAM : CODING_PLAIN;
	*ret = part_layout(&p->record);
	r = coded ? encode(p, m, &stream) : 0;
	if (r == 0)
		r = make_payload(p, ret->end + stream.n);
	if (r < 0)
		return r;
	store_scales(p->payload, &ret->v, m);
	if (coded)
		memcpy(p->payload + ret->end, stream.bytes, stream.n);
	return 0;
}

static void store_bitmap(uint8_t *ret, const uint32_t *rows, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		ret[rows[i] / 8] |= (uint8_t)(1u << rows[i] % 8);
}

int part_codes(const struct part_place *place, const struct code_matrix *m, const uint32_t *rows,
	bool coded, struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_CODES, m->n_rows);
	struct part_layout l;
	int r;

	r = begin_codes(&p, m, coded, &l);
	if (r < 0)
		return r;
	if (!coded)
		store_codes(p.payload, &l.v, m);
	if (m->n_rows < place->rows)
		store_bitmap(p.payload + l.list, rows, m->n_rows);
	*ret = part_take(&p);
	return 0;
}

/* In units of the largest, so that fp16 holds them whatever their size. */
static void store_sigma(struct part *p, const struct part_layout *l, const float *sigma)
{
	for (uint32_t i = 0; i < p->record.n; i++) {
		uint16_t half = f16_from_f32(sigma[i] / p->record.step);

		memcpy(p->payload + l->sigma + i * sizeof(half), &half, sizeof(half));
	}
}

static float largest_of(const float *sigma, uint32_t n)
{
	float largest = 0;

	for (uint32_t i = 0; i < n; i++)
		largest = fmaxf(largest, fabsf(sigma[i]));
	return largest > 0 ? largest : 1;
}

static int coded_factors(const struct part_place *place, const struct code_matrix *v,
	const struct code_matrix *u, const float *sigma, struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_FACTORS, v->n_rows);
	_cleanup_(stream_done) struct stream of_v = {0};
	_cleanup_(stream_done) struct stream of_u = {0};
	struct part_layout l;
	int r;

	set_grid(&p.record, v);
	p.record.coding = CODING_STREAM;
	p.record.step = largest_of(sigma, v->n_rows);
	l = part_layout(&p.record);
	r = encode(&p, v, &of_v);
	if (r == 0)
		r = encode(&p, u, &of_u);
	if (r == 0)
		r = make_payload(&p, l.end + of_v.n + of_u.n);
	if (r < 0)
		return r;
	memcpy(p.payload, &of_v.n, sizeof(of_v.n));
	store_sigma(&p, &l, sigma);
	memcpy(p.payload + l.end, of_v.bytes, of_v.n);
	memcpy(p.payload + l.end + of_v.n, of_u.bytes, of_u.n);
	*ret = part_take(&p);
	return 0;
}

int part_factors(const struct part_place *place, const struct code_matrix *v,
	const struct code_matrix *u, const float *sigma, bool coded, struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_FACTORS, v->n_rows);
	struct part_layout l;
	int r;

	if (coded)
		return coded_factors(place, v, u, sigma, ret);
	set_grid(&p.record, v);
	l = part_layout(&p.record);
	r = make_payload(&p, l.end);
	if (r < 0)
		return r;
	memcpy(p.payload + l.sigma, sigma, v->n_rows * sizeof(*sigma));
	store_scales(p.payload, &l.v, v);
	store_codes(p.payload, &l.v, v);
	store_scales(p.payload, &l.u, u);
	store_codes(p.payload, &l.u, u);
	*ret = part_take(&p);
	return 0;
}

static void store_plain(uint8_t *to, const float *from, uint32_t n, uint32_t cols, uint32_t bits)
{
	for (uint32_t i = 0; i < n; i++)
		qmat_row_pack_plain(to + i * qmat_groups(cols) * qmat_group_bytes(bits),
			from + (size_t)i * cols, cols, bits);
}

int part_factors_plain(const struct part_place *place, const struct plain_factors *f, uint8_t bits,
	struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_FACTORS, f->n);
	struct part_layout l;
	int r;

	p.record.bits = bits;
	p.record.grid = GRID_NONE;
	l = part_layout(&p.record);
	r = make_payload(&p, l.end);
	if (r < 0)
		return r;
	memcpy(p.payload + l.sigma, f->sigma, f->n * sizeof(*f->sigma));
	store_plain(p.payload + l.v.codes, f->v, f->n, place->cols, bits);
	store_plain(p.payload + l.u.codes, f->u, f->n, place->rows, bits);
	*ret = part_take(&p);
	return 0;
}

int part_dropout(
	const struct part_place *place, const struct survivors *s, bool coded, struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_DROPOUT, s->n_keep);
	const struct code_matrix *m = s->codes;
	struct part_layout l;
	int r;

	p.record.group = s->group;
	p.record.seed = s->seed;
	r = begin_codes(&p, m, coded, &l);
	if (r < 0)
		return r;
	if (!coded)
		dropout_pack(
			m->codes, (uint64_t)m->n_rows * m->n_cols, m->bits, p.payload + l.values);
	*ret = part_take(&p);
	return 0;
}

struct rows_source {
	const struct new_rows *rows;
	uint32_t cols;
};

/* Rows of the base in the places of the new ones; zeros where it has none. */
static void base_row(void *user, uint32_t row, uint16_t *ret_words)
{
	const struct rows_source *s = user;
	uint32_t number = s->rows->rows ? s->rows->rows[row] : row;

	if (number < s->rows->base_rows)
		memcpy(ret_words, s->rows->base + (size_t)number * s->cols,
			s->cols * sizeof(*ret_words));
	else
		memset(ret_words, 0, s->cols * sizeof(*ret_words));
}

static void new_row(void *user, uint32_t row, uint16_t *ret_words)
{
	const struct rows_source *s = user;

	memcpy(ret_words, s->rows->values + (size_t)row * s->cols, s->cols * sizeof(*ret_words));
}

static int encode_rows(const struct new_rows *n, uint32_t cols, struct stream *ret)
{
	struct rows_source source = {.rows = n, .cols = cols};
	const struct bf16_rows base = {.get = base_row, .user = &source};
	const struct bf16_rows tuned = {.get = new_row, .user = &source};

	return bf16_stream_encode(n->n, cols, &base, &tuned, &ret->bytes, &ret->n);
}

int part_rows(const struct part_place *place, const struct new_rows *n, struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_ROWS, n->n);
	_cleanup_(stream_done) struct stream stream = {0};
	struct part_layout l;
	int r = 0;

	p.record.coding = n->base ? CODING_STREAM : CODING_PLAIN;
	l = part_layout(&p.record);
	if (n->base)
		r = encode_rows(n, place->cols, &stream);
	if (r == 0)
		r = make_payload(&p, l.end + stream.n);
	if (r < 0)
		return r;
	if (n->n < place->rows)
		memcpy(p.payload + l.list, n->rows, n->n * sizeof(*n->rows));
	if (n->base)
		memcpy(p.payload + l.end, stream.bytes, stream.n);
	for (uint32_t i = 0; !n->base && i < n->n; i++)
		mat_bf16_pack_row((uint16_t *)(void *)(p.payload + l.values), place->cols, i,
			n->values + (size_t)i * place->cols);
	*ret = part_take(&p);
	return 0;
}

int part_vector(const struct part_place *place, const float *values, struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_VECTOR_F32, 0);
	int r;

	p.quality = (struct tensor_quality){.energy = NAN,
		.delta_norm = NAN,
		.loss = NAN,
		.why = WHY_EXACT,
		.unchanged = QUALITY_UNMEASURED};
	r = make_payload(&p, place->rows * sizeof(*values));
	if (r < 0)
		return r;
	memcpy(p.payload, values, p.record.bytes);
	*ret = part_take(&p);
	return 0;
}
