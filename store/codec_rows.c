#include "store/codec.h"

#include <inttypes.h>

static int check_rows(const uint32_t *rows, uint32_t n, uint32_t n_all, struct reason *reason)
{
	for (uint32_t i = 0; i < n; i++) {
		if (rows[i] >= n_all)
			return reason_set(reason, -EBADMSG, "replaces row %" PRIu32 " of %" PRIu32,
				rows[i], n_all);
		if (i > 0 && rows[i] <= rows[i - 1])
			return reason_set(reason, -EBADMSG,
				"replaces row %" PRIu32 " after row %" PRIu32
				", expected ascending rows",
				rows[i], rows[i - 1]);
	}
	return 0;
}

int codec_rows(const struct payload *p, struct replaced_rows *ret, struct reason *reason)
{
	const struct tensor_record *record = p->record;
	struct part_layout l = part_layout(record);
	struct replaced_rows d = {
		.n_rows = record->n,
		.rows = record->n < record->rows ? (const void *)(p->bytes + l.list) : NULL,
		.values = {.rows = record->n, .cols = record->cols},
	};
	int r = codec_expect(p, CODEC_ROWS, reason);

	if (r == 0 && d.rows)
		r = check_rows(d.rows, d.n_rows, record->rows, reason);
	if (r < 0)
		return r;
	d.values.data = (const void *)(p->bytes + l.values);
	r = codec_expect_zero_padding(&d.values, reason);
	if (r < 0)
		return r;
	*ret = d;
	return 0;
}
