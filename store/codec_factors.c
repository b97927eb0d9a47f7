#include "store/codec.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static struct qmat plain_matrix(
	const struct payload *p, const struct stored_matrix *at, uint32_t cols)
{
	bool grouped = p->record->grid == GRID_GROUP;

	return (struct qmat){
		.codes = p->bytes + at->codes,
		.scales = grouped ? (const void *)(p->bytes + at->scales) : NULL,
		.zeros = grouped ? p->bytes + at->zeros : NULL,
		.rows = p->record->n,
		.cols = cols,
		.bits = p->record->bits,
		.scale_row = grouped ? (uint32_t)qmat_groups(cols) : 0,
		.scale_group = grouped,
		.step = 1,
		.zero = p->record->zero,
	};
}

int codec_expect_grids(const struct qmat *m, const char *name, struct reason *reason)
{
	uint64_t n = (uint64_t)m->rows * qmat_groups(m->cols);
	uint8_t largest = (uint8_t)((1u << m->bits) - 1);
	int r = codec_expect_finite_f16(m->scales, n, "scale", reason);

	if (r < 0)
		return reason_prefix(reason, r, "%s", name);
	for (uint64_t i = 0; i < n; i++)
		if (m->zeros[i] > largest)
			return reason_set(reason, -EBADMSG,
				"zero %" PRIu64 " of %s is %u, expected at most %u", i, name,
				m->zeros[i], largest);
	return 0;
}

/* Plain numbers are looked at one by one: there are few. */
static int expect_numbers(const struct qmat *m, const char *name, struct reason *reason)
{
	uint64_t n = m->rows * (uint64_t)qmat_groups(m->cols) * QMAT_GROUP;

	if (m->bits == 16)
		return codec_expect_finite_f16((const void *)m->codes, n, name, reason);
	return codec_expect_finite((const void *)m->codes, n, name, reason);
}

static int check_matrix(
	const struct payload *p, const struct qmat *m, const char *name, struct reason *reason)
{
	if (p->record->grid == GRID_GROUP)
		return codec_expect_grids(m, name, reason);
	return p->record->grid == GRID_NONE ? expect_numbers(m, name, reason) : 0;
}

static int bind_plain(const struct payload *p, struct factors *ret, struct reason *reason)
{
	struct part_layout l = part_layout(p->record);
	int r;

	*ret = (struct factors){
		.v = plain_matrix(p, &l.v, p->record->cols),
		.u = plain_matrix(p, &l.u, p->record->rows),
		.sigma = (const void *)(p->bytes + l.sigma),
	};
	r = codec_expect_finite(ret->sigma, p->record->n, "sigma", reason);
	if (r == 0)
		r = check_matrix(p, &ret->v, "v", reason);
	if (r == 0)
		r = check_matrix(p, &ret->u, "u", reason);
	return r;
}

static int expand_sigma(
	const struct payload *p, const uint8_t *from, float *ret, struct reason *reason)
{
	for (uint32_t i = 0; i < p->record->n; i++) {
		uint16_t half;
		float sigma;

		memcpy(&half, from + i * sizeof(half), sizeof(half));
		sigma = p->record->step * f16_to_f32(half);
		if (!isfinite(sigma))
			return reason_set(
				reason, -EBADMSG, "sigma %" PRIu32 " is not a finite number", i);
		if (ret)
			ret[i] = sigma;
	}
	return 0;
}

static struct qmat expanded_matrix(const struct payload *p, uint64_t at, uint32_t cols)
{
	uint64_t before = p->joined.first * qmat_codes_bytes(1, cols, p->record->bits);

	return (struct qmat){
		.codes = p->room ? p->room + at + before : NULL,
		.rows = p->record->n,
		.cols = cols,
		.bits = p->record->bits,
		.step = 1,
		.zero = p->record->zero,
	};
}

static int expand_matrix(const struct payload *p, const struct qmat *m, uint64_t at,
	uint64_t n_bytes, struct reason *reason)
{
	const struct coded_matrix coded = {
		.bytes = p->bytes + at, .n_bytes = n_bytes, .n_rows = m->rows, .n_cols = m->cols};

	return codec_expand(p->record, &coded, (uint8_t *)(uintptr_t)m->codes, reason);
}

/* Of all parts that share the room. */
static struct part_layout room_layout(const struct payload *p)
{
	struct tensor_record all = *p->record;

	if (p->joined.n_joined > 0)
		all.n = p->joined.n_joined;
	return part_layout(&all);
}

static int bind_stream(const struct payload *p, struct factors *ret, struct reason *reason)
{
	struct part_layout l = part_layout(p->record), room = room_layout(p);
	uint64_t n_v, n_all = p->record->bytes - l.end;
	float *sigma =
		p->room ? (float *)(void *)(p->room + room.expanded_sigma) + p->joined.first : NULL;
	int r;

	memcpy(&n_v, p->bytes, sizeof(n_v));
	if (n_v > n_all)
		return reason_set(reason, -EBADMSG,
			"v has %" PRIu64 " bytes, the payload holds %" PRIu64, n_v, n_all);
	*ret = (struct factors){
		.v = expanded_matrix(p, room.expanded_v, p->record->cols),
		.u = expanded_matrix(p, room.expanded_u, p->record->rows),
		.sigma = sigma,
	};
	r = expand_sigma(p, p->bytes + l.sigma, sigma, reason);
	if (r == 0)
		r = expand_matrix(p, &ret->v, l.end, n_v, reason);
	if (r == 0)
		r = expand_matrix(p, &ret->u, l.end + n_v, n_all - n_v, reason);
	return r;
}

int codec_factors(const struct payload *p, struct factors *ret, struct reason *reason)
{
	struct factors f;
	int r = codec_expect(p, CODEC_FACTORS, reason);

	if (r == 0)
		r = p->record->coding == CODING_STREAM ? bind_stream(p, &f, reason)
						       : bind_plain(p, &f, reason);
	if (r < 0)
		return r;
	*ret = f;
	return 0;
}
