#include "tests/dense_delta.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

#include <math.h>
#include <string.h>

static void add(double *matrix, double *sizes, size_t at, double term)
{
	matrix[at] += term;
	if (sizes)
		sizes[at] += fabs(term);
}

static void add_factors(const struct factors *f, uint32_t cols, double *matrix, double *sizes)
{
	for (uint32_t k = 0; k < f->v.rows; k++)
		for (uint32_t r = 0; r < f->u.cols; r++)
			for (uint32_t c = 0; c < cols; c++)
				add(matrix, sizes, (size_t)r * cols + c,
					(double)qmat_value(&f->u, k, r) * (double)f->sigma[k] *
						(double)qmat_value(&f->v, k, c));
}

static void add_codes(const struct row_codes *codes, uint32_t cols, double *matrix, double *sizes)
{
	for (uint32_t i = 0; i < codes->q.rows; i++)
		for (uint32_t c = 0; c < cols; c++)
			add(matrix, sizes, (size_t)(codes->rows ? codes->rows[i] : i) * cols + c,
				(double)qmat_value(&codes->q, i, c));
}

/* Entry by entry, as kernels/types.h describes them. */
static void add_survivors(const struct dropmat *m, double *matrix, double *sizes)
{
	size_t n = dropmat_row_entries(m->cols, m->group, m->n_keep);
	bool wide = dropmat_entry_bits(m->index_bits, m->bits) == 16;

	for (uint32_t r = 0; r < m->rows; r++)
		for (size_t i = 0; i < n; i++) {
			size_t at = r * n + i;
			uint32_t entry = wide ? ((const uint16_t *)m->entries)[at]
					      : ((const uint8_t *)m->entries)[at];
			uint32_t place = entry & ((1u << m->index_bits) - 1);
			size_t col = i / m->n_keep * m->group + place;
			double scale =
				m->scales ? (double)f16_to_f32(m->scales[r * m->scale_row]) : 1;

			add(matrix, sizes, (size_t)r * m->cols + col,
				(double)m->step * scale *
					((double)(entry >> m->index_bits) - (double)m->zero));
		}
}

static void replace_rows(
	const struct replaced_rows *rows, uint32_t cols, double *matrix, double *sizes)
{
	for (uint32_t i = 0; i < rows->n_rows; i++) {
		size_t row = (size_t)(rows->rows ? rows->rows[i] : i) * cols;

		for (uint32_t c = 0; c < cols; c++) {
			matrix[row + c] =
				(double)bf16_to_f32(rows->values.data[mat_bf16_index(cols, i, c)]);
			if (sizes)
				sizes[row + c] = fabs(matrix[row + c]);
		}
	}
}

void dense_delta_apply(
	const struct linear_delta *delta, uint32_t cols, double *matrix, double *sizes)
{
	for (uint32_t i = 0; delta && i < delta->n_parts; i++) {
		const struct delta_part *part = &delta->parts[i];

		switch ((int)part->codec) {
		case CODEC_ROWS:
			replace_rows(&part->rows, cols, matrix, sizes);
			break;
		case CODEC_FACTORS:
			add_factors(&part->factors, cols, matrix, sizes);
			break;
		case CODEC_CODES:
			add_codes(&part->codes, cols, matrix, sizes);
			break;
		case CODEC_DROPOUT:
			add_survivors(&part->dropout, matrix, sizes);
			break;
		}
	}
}
