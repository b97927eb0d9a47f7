#include "store/codec.h"

#include <inttypes.h>

/* Which rows have codes: the bits of the bitmap as ascending numbers. */
static int expand_list(const struct tensor_record *record, const uint8_t *bitmap, uint32_t *ret,
	struct reason *reason)
{
	uint64_t n = 0;

	for (uint64_t row = 0; row < part_bitmap_bytes(record->rows) * 8; row++) {
		if (!(bitmap[row / 8] >> row % 8 & 1))
			continue;
		if (row >= record->rows)
			return reason_set(reason, -EBADMSG,
				"has codes for row %" PRIu64 " of %" PRIu32, row, record->rows);
		if (ret && n < record->n)
			ret[n] = (uint32_t)row;
		n++;
	}
	if (n != record->n)
		return reason_set(reason, -EBADMSG,
			"has a bitmap of %" PRIu64 " rows, expected %" PRIu32, n, record->n);
	return 0;
}

int codec_expect_scales(
	const struct tensor_record *record, const struct qmat *m, struct reason *reason)
{
	if (record->grid == GRID_GROUP)
		return codec_expect_grids(m, "codes", reason);
	if (record->grid == GRID_ROW)
		return codec_expect_finite_f16(m->scales, m->rows, "scale", reason);
	return 0;
}

struct qmat codec_stored_codes(const struct payload *p, uint32_t rows)
{
	const struct tensor_record *record = p->record;
	struct part_layout l = part_layout(record);
	bool grouped = record->grid == GRID_GROUP, by_row = record->grid == GRID_ROW;

	return (struct qmat){
		.codes = p->bytes + l.v.codes,
		.scales = grouped || by_row ? (const void *)(p->bytes + l.v.scales) : NULL,
		.zeros = grouped ? p->bytes + l.v.zeros : NULL,
		.rows = rows,
		.cols = record->cols,
		.bits = record->bits,
		.scale_row = grouped ? (uint32_t)qmat_groups(record->cols) : by_row,
		.scale_group = grouped,
		.step = grouped ? 1 : record->step,
		.zero = record->zero,
	};
}

static int expand_codes(
	const struct payload *p, const struct part_layout *l, struct qmat *q, struct reason *reason)
{
	const struct coded_matrix coded = {
		.bytes = p->bytes + l->end,
		.n_bytes = p->record->bytes - l->end,
		.n_rows = q->rows,
		.n_cols = q->cols,
	};
	uint8_t *to = p->room ? p->room + l->expanded_v : NULL;

	q->codes = to;
	return codec_expand(p->record, &coded, to, reason);
}

int codec_codes(const struct payload *p, struct row_codes *ret, struct reason *reason)
{
	const struct tensor_record *record = p->record;
	struct part_layout l = part_layout(record);
	uint32_t *list =
		p->room && record->n < record->rows ? (void *)(p->room + l.expanded_list) : NULL;
	struct row_codes c = {.q = codec_stored_codes(p, record->n), .rows = list};
	int r = codec_expect(p, CODEC_CODES, reason);

	if (r == 0)
		r = codec_expect_scales(record, &c.q, reason);
	if (r == 0 && record->n < record->rows)
		r = expand_list(record, p->bytes + l.list, list, reason);
	if (r == 0 && record->coding == CODING_STREAM)
		r = expand_codes(p, &l, &c.q, reason);
	if (r < 0)
		return r;
	*ret = c;
	return 0;
}
