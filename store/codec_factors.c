#include "store/codec.h"

#include "kernels/convert.h"

#include <inttypes.h>
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

int codec_factors(const struct payload *p, struct factors *ret, struct reason *reason)
{
	struct part_layout l = part_layout(p->record);
	struct factors f = {
		.v = plain_matrix(p, &l.v, p->record->cols),
		.u = plain_matrix(p, &l.u, p->record->rows),
		.sigma = (const void *)(p->bytes + l.sigma),
	};
	int r = codec_expect(p, CODEC_FACTORS, reason);

	if (r == 0)
		r = codec_expect_finite(f.sigma, p->record->n, "sigma", reason);
	if (r == 0)
		r = check_matrix(p, &f.v, "v", reason);
	if (r == 0)
		r = check_matrix(p, &f.u, "u", reason);
	if (r < 0)
		return r;
	*ret = f;
	return 0;
}
