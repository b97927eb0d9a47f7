#include "compress/code_matrix.h"

#include "kernels/convert.h"
#include "kernels/types.h"

struct code_matrix *code_matrix_free(struct code_matrix *m)
{
	if (!m)
		return NULL;
	free(m->codes);
	free(m->scales);
	free(m->zeros);
	free(m);
	return NULL;
}

int code_matrix_new(uint32_t n_rows, uint32_t n_cols, uint8_t bits, enum grid_kind grid,
	struct code_matrix **ret)
{
	_cleanup_(code_matrix_freep) struct code_matrix *m = calloc(1, sizeof(*m));
	size_t n_groups = qmat_groups(n_cols);
	size_t n_scales = grid == GRID_GROUP ? n_rows * n_groups : n_rows;

	if (!m)
		return -ENOMEM;
	*m = (struct code_matrix){
		.n_rows = n_rows,
		.n_cols = n_cols,
		.bits = bits,
		.grid = (uint8_t)grid,
		.step = 1,
		.codes = calloc((size_t)n_rows * n_cols + 1, 1),
	};
	if (grid != GRID_MATRIX)
		m->scales = calloc(n_scales + 1, sizeof(*m->scales));
	if (grid == GRID_GROUP)
		m->zeros = calloc(n_scales + 1, 1);
	if (!m->codes || (grid != GRID_MATRIX && !m->scales) || (grid == GRID_GROUP && !m->zeros))
		return -ENOMEM;
	*ret = take_ptr(m);
	return 0;
}

void code_range_add(struct code_range *range, const int8_t *codes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		range->lowest = codes[i] < range->lowest ? codes[i] : range->lowest;
		range->highest = codes[i] > range->highest ? codes[i] : range->highest;
	}
}

int code_matrix_of_signed(const int8_t *codes, uint32_t n_rows, uint32_t n_cols,
	struct code_range range, struct code_matrix **ret)
{
	uint8_t bits = 1;
	int r;

	while (1 << bits <= range.highest - range.lowest)
		bits++;
	r = code_matrix_new(n_rows, n_cols, bits, GRID_MATRIX, ret);
	if (r < 0)
		return r;
	for (size_t i = 0; i < (size_t)n_rows * n_cols; i++)
		(*ret)->codes[i] = (uint8_t)(codes[i] - range.lowest);
	(*ret)->zero = (float)-range.lowest;
	return 0;
}

void code_matrix_row(const struct code_matrix *m, uint32_t row, float *ret)
{
	const uint8_t *codes = m->codes + (size_t)row * m->n_cols;
	size_t n_groups = qmat_groups(m->n_cols);

	for (uint32_t c = 0; c < m->n_cols; c++) {
		size_t group = row * n_groups + c / QMAT_GROUP;
		double zero = m->zeros ? m->zeros[group] : (double)m->zero;
		double scale = 1;

		if (m->scales)
			scale = (double)f16_to_f32(m->scales[m->grid == GRID_GROUP ? group : row]);
		ret[c] = (float)((double)m->step * (scale * (codes[c] - zero)));
	}
}
