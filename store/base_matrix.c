#include "store/base_matrix.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

uint64_t base_matrix_bytes(const struct base_matrix *m)
{
	uint64_t codes;

	if (m->codec == CODEC_MAT_BF16)
		return mat_bf16_size(m->rows, m->cols) * sizeof(uint16_t);
	codes = mat_int_codes_bytes(m->rows, m->cols, m->ints.bits);
	return codes + (m->ints.grids ? mat_int_grids_bytes(m->rows, m->cols)
				      : mat_int_n_scales(m->rows, m->cols) * sizeof(uint16_t));
}

void base_matrix_row(float *ret, const struct base_matrix *m, uint32_t row)
{
	if (m->codec == CODEC_MAT_INT) {
		mat_int_row_values(ret, &m->ints, row);
		return;
	}
	for (uint32_t c = 0; c < m->cols; c++)
		ret[c] = bf16_to_f32(m->bf16.data[mat_bf16_index(m->cols, row, c)]);
}

/* A group at a time, so that a row needs no memory. */
static void ints_row_bf16(uint16_t *ret, const struct mat_int *m, uint32_t row)
{
	int8_t numbers[MAT_INT_GROUP];

	for (uint32_t c = 0; c < m->cols; c++) {
		if (c % MAT_INT_GROUP == 0)
			mat_int_group_numbers(numbers, m, row, c / MAT_INT_GROUP);
		ret[c] = bf16_from_f32(mat_int_scale(m, row, c / MAT_INT_GROUP) *
				       (float)numbers[c % MAT_INT_GROUP]);
	}
}

void base_matrix_row_bf16(uint16_t *ret, const struct base_matrix *m, uint32_t row)
{
	if (m->codec == CODEC_MAT_INT)
		ints_row_bf16(ret, &m->ints, row);
	else
		mat_bf16_unpack_row(ret, &m->bf16, row);
}
