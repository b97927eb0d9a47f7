#include "store/codec.h"

#include "kernels/pack.h"
#include "store/code_stream.h"

#include <string.h>

struct expansion {
	const struct coded_matrix *matrix;
	uint32_t bits;
	uint8_t *to;
};

static void pack_row(void *user, uint32_t row, const uint8_t *codes)
{
	const struct expansion *e = user;
	uint64_t row_bytes = qmat_groups(e->matrix->n_cols) * qmat_group_bytes(e->bits);

	qmat_row_pack(e->to + row * row_bytes, codes, NULL, e->matrix->n_cols, e->bits);
}

static void copy_row(void *user, uint32_t row, const uint8_t *codes)
{
	const struct expansion *e = user;

	memcpy(e->to + (size_t)row * e->matrix->n_cols, codes, e->matrix->n_cols);
}

static int expand(const struct tensor_record *record, const struct coded_matrix *m, uint8_t *ret,
	code_row_fn *take, struct reason *reason)
{
	const struct code_shape shape = part_code_shape(record, m->n_rows, m->n_cols);
	struct expansion e = {.matrix = m, .bits = record->bits, .to = ret};
	struct code_stream stream;
	int r = code_stream_open(m->bytes, m->n_bytes, &shape, &stream, reason);

	if (r < 0 || !ret)
		return r;
	return code_stream_decode(&stream, take, &e, reason);
}

int codec_expand(const struct tensor_record *record, const struct coded_matrix *m, uint8_t *ret,
	struct reason *reason)
{
	return expand(record, m, ret, pack_row, reason);
}

int codec_expand_bytes(const struct tensor_record *record, const struct coded_matrix *m,
	uint8_t *ret, struct reason *reason)
{
	return expand(record, m, ret, copy_row, reason);
}
