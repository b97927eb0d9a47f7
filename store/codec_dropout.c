#include "store/codec.h"

static struct dropmat view_of(const struct payload *p, const struct part_layout *l)
{
	const struct tensor_record *record = p->record;
	bool by_row = record->grid == GRID_ROW;

	return (struct dropmat){
		.entries = p->room,
		.scales = by_row ? (const void *)(p->bytes + l->v.scales) : NULL,
		.rows = record->rows,
		.cols = record->cols,
		.group = record->group,
		.n_keep = record->n,
		.index_bits = part_dropout_layout(record).index_bits,
		.bits = record->bits,
		.scale_row = by_row,
		.step = record->step,
		.zero = record->zero,
	};
}

static int expand_stream(
	const struct payload *p, const struct part_layout *l, struct reason *reason)
{
	const struct dropout_shape shape = part_dropout_shape(p->record);
	struct dropout_layout d = part_dropout_layout(p->record);
	const struct coded_matrix coded = {
		.bytes = p->bytes + l->end,
		.n_bytes = p->record->bytes - l->end,
		.n_rows = shape.rows,
		.n_cols = d.entries_of_row,
	};
	_cleanup_(freep) uint8_t *codes = p->room ? malloc(d.n_codes + 1) : NULL;
	int r;

	if (p->room && !codes)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = codec_expand_bytes(p->record, &coded, codes, reason);
	if (r == 0 && p->room)
		dropout_expand_bytes(&shape, p->record->seed, codes, 0, shape.rows, p->room);
	return r;
}

int codec_dropout(const struct payload *p, struct dropmat *ret, struct reason *reason)
{
	const struct dropout_shape shape = part_dropout_shape(p->record);
	struct part_layout l = part_layout(p->record);
	struct dropmat m = view_of(p, &l);
	int r = codec_expect(p, CODEC_DROPOUT, reason);

	if (r == 0 && m.scales)
		r = codec_expect_finite_f16(m.scales, m.rows, "scale", reason);
	if (r == 0 && p->record->coding == CODING_STREAM)
		r = expand_stream(p, &l, reason);
	else if (r == 0 && p->room)
		dropout_expand_rows(
			&shape, p->record->seed, p->bytes + l.values, 0, m.rows, p->room);
	if (r < 0)
		return r;
	*ret = m;
	return 0;
}
