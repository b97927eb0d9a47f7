#include "compress/parts.h"

#include "kernels/convert.h"
#include "kernels/pack.h"
#include "store/base.h"

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
		.quality = {.energy = NAN, .delta_norm = NAN, .loss = NAN, .why = WHY_METHOD},
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

static void store_matrix(
	uint8_t *payload, const struct stored_matrix *at, const struct code_matrix *m)
{
	size_t n_scales = m->n_rows * (m->grid == GRID_GROUP ? qmat_groups(m->n_cols) : 1);

	qmat_pack(payload + at->codes, m->codes, m->zeros, m->n_rows, m->n_cols, m->bits);
	if (m->scales)
		memcpy(payload + at->scales, m->scales, n_scales * sizeof(*m->scales));
	if (m->zeros)
		memcpy(payload + at->zeros, m->zeros, n_scales);
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

	set_grid(&p.record, m);
	(void)coded;
	l = part_layout(&p.record);
	r = make_payload(&p, l.end);
	if (r < 0)
		return r;
	store_matrix(p.payload, &l.v, m);
	if (m->n_rows < place->rows)
		store_bitmap(p.payload + l.list, rows, m->n_rows);
	*ret = p;
	p.payload = NULL;
	return 0;
}

int part_factors(const struct part_place *place, const struct code_matrix *v,
	const struct code_matrix *u, const float *sigma, bool coded, struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_FACTORS, v->n_rows);
	struct part_layout l;
	int r;

	set_grid(&p.record, v);
	(void)coded;
	l = part_layout(&p.record);
	r = make_payload(&p, l.end);
	if (r < 0)
		return r;
	memcpy(p.payload + l.sigma, sigma, v->n_rows * sizeof(*sigma));
	store_matrix(p.payload, &l.v, v);
	store_matrix(p.payload, &l.u, u);
	*ret = p;
	p.payload = NULL;
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
	*ret = p;
	p.payload = NULL;
	return 0;
}

int part_dropout(
	const struct part_place *place, const struct survivors *s, bool coded, struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_DROPOUT, s->n_keep);
	const struct code_matrix *m = s->codes;
	struct part_layout l;
	int r;

	set_grid(&p.record, m);
	(void)coded;
	p.record.group = s->group;
	p.record.seed = s->seed;
	l = part_layout(&p.record);
	r = make_payload(&p, l.end);
	if (r < 0)
		return r;
	if (m->scales)
		memcpy(p.payload + l.v.scales, m->scales, m->n_rows * sizeof(*m->scales));
	dropout_pack(m->codes, (uint64_t)m->n_rows * m->n_cols, m->bits, p.payload + l.values);
	*ret = p;
	p.payload = NULL;
	return 0;
}

int part_rows(const struct part_place *place, const struct new_rows *n, struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_ROWS, n->n);
	struct part_layout l = part_layout(&p.record);
	int r;

	r = make_payload(&p, l.end);
	if (r < 0)
		return r;
	if (n->n < place->rows)
		memcpy(p.payload + l.list, n->rows, n->n * sizeof(*n->rows));
	for (uint32_t i = 0; i < n->n; i++)
		mat_bf16_pack_row((uint16_t *)(void *)(p.payload + l.values), place->cols, i,
			n->values + (size_t)i * place->cols);
	*ret = p;
	p.payload = NULL;
	return 0;
}

int part_vector(const struct part_place *place, const float *values, struct part *ret)
{
	_cleanup_(part_done) struct part p = begin(place, CODEC_VECTOR_F32, 0);
	int r;

	p.quality = (struct tensor_quality){
		.energy = NAN, .delta_norm = NAN, .loss = NAN, .why = WHY_EXACT};
	r = make_payload(&p, place->rows * sizeof(*values));
	if (r < 0)
		return r;
	memcpy(p.payload, values, p.record.bytes);
	*ret = p;
	p.payload = NULL;
	return 0;
}
