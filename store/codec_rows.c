#include "store/codec.h"

#include "kernels/pack.h"
#include "store/bf16_stream.h"

#include <inttypes.h>
#include <string.h>

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

/* Rows of a stream, each told from the base's of the same number; those of added tokens, which the
 * base does not have, from zeros. */
struct expansion {
	const struct payload *payload;
	const uint32_t *rows; /* NULL: all */
	uint16_t *packed;
};

static void base_row(void *user, uint32_t row, uint16_t *ret_words)
{
	const struct expansion *e = user;
	const struct base_matrix *base = e->payload->base;
	uint32_t number = e->rows ? e->rows[row] : row;

	if (number < base->rows)
		base_matrix_row_bf16(ret_words, base, number);
	else
		memset(ret_words, 0, e->payload->record->cols * sizeof(*ret_words));
}

static void take_row(void *user, uint32_t row, const uint16_t *words)
{
	const struct expansion *e = user;

	mat_bf16_pack_row(e->packed, e->payload->record->cols, row, words);
}

static int expand(const struct payload *p, const struct part_layout *l, const uint32_t *rows,
	struct reason *reason)
{
	const struct tensor_record *record = p->record;
	struct expansion e = {.payload = p, .rows = rows, .packed = (void *)p->room};
	const struct bf16_rows base = {.get = base_row, .user = &e};
	struct strips strips;
	int r;

	r = bf16_stream_open(p->bytes + l->end, record->bytes - l->end, record->n, record->cols,
		&strips, reason);
	if (r < 0 || !p->room)
		return r;
	if (!p->base || p->base->cols != record->cols)
		return reason_set(
			reason, -EMEDIUMTYPE, "is told from the base's matrix, which is not there");
	if (p->other_values && p->base->codec == CODEC_MAT_INT)
		return reason_set(reason, -EMEDIUMTYPE,
			"is told from the base's own numbers, this base has codes for them");
	memset(p->room, 0, l->expanded_bytes);
	return bf16_stream_decode(&strips, &base, take_row, &e, reason);
}

int codec_rows(const struct payload *p, struct replaced_rows *ret, struct reason *reason)
{
	const struct tensor_record *record = p->record;
	struct part_layout l = part_layout(record);
	bool coded = record->coding == CODING_STREAM;
	struct replaced_rows d = {
		.n_rows = record->n,
		.rows = record->n < record->rows ? (const void *)(p->bytes + l.list) : NULL,
		.values = {.data = (const void *)(coded ? p->room : p->bytes + l.values),
			.rows = record->n,
			.cols = record->cols},
	};
	int r = codec_expect(p, CODEC_ROWS, reason);

	if (r == 0 && d.rows)
		r = check_rows(d.rows, d.n_rows, record->rows, reason);
	if (r == 0 && coded)
		r = expand(p, &l, d.rows, reason);
	if (r == 0 && !coded)
		r = codec_expect_zero_padding(&d.values, reason);
	if (r < 0)
		return r;
	*ret = d;
	return 0;
}
