/*
 * What the vector sets' products with a matrix of survivors share: the way from a call to tiles.
 *
 * The lanes of a vector are neighbouring rows of the matrix, because those draw their survivors
 * from the same few columns: the inputs of one group are looked up in registers. A row's terms are
 * added in the order of its entries.
 */
#pragma once

#include "kernels/convert.h"
#include "kernels/kernels.h"

#include <string.h>

#define DROPMAT_MAX_LANES 16
#define DROPMAT_WORD 4 /* bytes of entries that a lane reads at once */

/* One call of dropmat_dot for a few rows of x. */
struct dropmat_dot {
	float *y;
	size_t y_stride;
	const struct dropmat *m;
	const float *x;
	size_t x_stride;
	size_t n_entries; /* of a row */
	size_t row_bytes;
};

/* Rows [row, row + height) of the matrix, at most as many as there are lanes. */
typedef void dropmat_dot_fn(const struct dropmat_dot *d, size_t row, size_t height);

struct dropmat_set {
	size_t n_lanes;
	size_t max_rows;            /* of x at once */
	dropmat_dot_fn *const *fns; /* fns[i] takes i + 1 */
};

static inline void dropmat_dot_by_rows(
	struct dropmat_dot d, size_t n, const struct dropmat_set *set, size_t row0, size_t row1)
{
	d.n_entries = dropmat_row_entries(d.m->cols, d.m->group, d.m->n_keep);
	d.row_bytes = d.n_entries * (dropmat_entry_bits(d.m->index_bits, d.m->bits) / 8);
	for (size_t t = 0, rows; t < n; t += rows) {
		rows = min_u64(n - t, set->max_rows);
		for (size_t r = row0; r < row1; r += set->n_lanes)
			set->fns[rows - 1](&d, r, min_u64(row1 - r, set->n_lanes));
		d.x += rows * d.x_stride;
		d.y += rows * d.y_stride;
	}
}

/* Bytes from the first row of a tile to the row of each lane; lanes past the last one read it
 * again. */
static inline void dropmat_lane_offsets(
	int32_t *ret, const struct dropmat_dot *d, size_t height, size_t n_lanes)
{
	for (size_t i = 0; i < n_lanes; i++)
		ret[i] = (int32_t)(min_u64(i, height - 1) * d->row_bytes);
}

/* What is left of the rows after byte `at`, less than a word each. */
static inline void dropmat_last_words(uint32_t *ret, const struct dropmat_dot *d, const char *at,
	const int32_t *offsets, size_t n_lanes)
{
	for (size_t i = 0; i < n_lanes; i++) {
		ret[i] = 0;
		memcpy(&ret[i], at + offsets[i], d->row_bytes % DROPMAT_WORD);
	}
}

/* step * scale of the row of each lane. */
static inline void dropmat_factors(float *ret, const struct dropmat *m, size_t row, size_t height)
{
	for (size_t i = 0; i < height; i++) {
		ret[i] = m->step;
		if (m->scales)
			ret[i] *= f16_to_f32(m->scales[(row + i) * m->scale_row]);
	}
}
