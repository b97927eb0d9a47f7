#include "store/base_matrix.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

uint64_t base_matrix_bytes(const struct base_matrix *m)
{
	if (m->codec == CODEC_MAT_CODES)
		return qmat_codes_bytes(m->rows, m->cols, m->codes.bits);
	return mat_bf16_size(m->rows, m->cols) * sizeof(uint16_t);
}

/* A group at a time, so that a row needs no memory. */
static void row_of_codes(void *ret, const struct qmat *m, uint32_t row, bool as_bf16)
{
	double values[QMAT_GROUP];

	for (uint32_t c = 0; c < m->cols; c += QMAT_GROUP) {
		size_t n = min_u64(QMAT_GROUP, m->cols - c);

		qmat_group_values(values, m, row, c / QMAT_GROUP);
		for (size_t i = 0; i < n; i++)
			if (as_bf16)
				((uint16_t *)ret)[c + i] = bf16_from_f32((float)values[i]);
			else
				((float *)ret)[c + i] = (float)values[i];
	}
}

void base_matrix_row(float *ret, const struct base_matrix *m, uint32_t row)
{
	if (m->codec == CODEC_MAT_CODES) {
		row_of_codes(ret, &m->codes, row, false);
		return;
	}
	for (uint32_t c = 0; c < m->cols; c++)
		ret[c] = bf16_to_f32(m->bf16.data[mat_bf16_index(m->cols, row, c)]);
}

void base_matrix_row_bf16(uint16_t *ret, const struct base_matrix *m, uint32_t row)
{
	if (m->codec == CODEC_MAT_CODES)
		row_of_codes(ret, &m->codes, row, true);
	else
		mat_bf16_unpack_row(ret, &m->bf16, row);
}
