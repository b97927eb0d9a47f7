/*
 * What the vector sets' products of codes with rounded inputs share: the way from a call to tiles.
 *
 * A tile is four rows of the matrix and one row of inputs, whose codes are laid out as the bytes of
 * planes are, block by block of columns, once for all tiles.
 */
#pragma once

#include "kernels/convert.h"
#include "kernels/kernels.h"
#include "kernels/planes.h"

#define QMAT_INT_TILE 4
#define QMAT_INT_QUADS (QMAT_BLOCK / PLANE_GROUPS)
#define QMAT_INT_MAX_ROWS 4 /* of inputs that are laid out at once */
#define QMAT_INT_STRIP 32   /* rows of the matrix that all those meet before the next */

/* Four numbers of each group, all the same: as the sums of a tile stand. */
struct qmat_int_lanes {
	int32_t sums[PLANE_GROUPS][QMAT_INT_TILE]; /* of codes, times -2 zero if there is but one */
	float scales[PLANE_GROUPS][QMAT_INT_TILE];
};

/* A block of a row of inputs; groups past the last are 0. */
struct qmat_int_panel {
	int8_t lines[PLANES_MAX][QMAT_INT_QUADS * PLANE_LINES][PLANE_LINE]
		__attribute__((aligned(PLANE_LINE)));
	struct qmat_int_lanes lanes[QMAT_INT_QUADS] __attribute__((aligned(PLANE_LINE)));
};

/* Rows of the matrix by a block of one row of inputs. */
struct qmat_int_tile {
	const struct qmat *m;
	const struct qmat_int_panel *panel;
	size_t n_groups;     /* of a row of the matrix */
	size_t first, block; /* first group of the block, and how many it has */
	float *z;
};

/* The totals of the block for some rows, without the factor of a row. */
typedef void qmat_int_fn(
	const struct qmat_int_tile *t, const size_t rows[QMAT_INT_TILE], float ret[QMAT_INT_TILE]);

static inline bool qmat_has_group_scales(const struct qmat *m)
{
	return m->scales && m->scale_group;
}

static inline void qmat_int_panel_group(
	struct qmat_int_panel *p, const struct qmat *m, const struct act_group *x, size_t group)
{
	struct qmat_int_lanes *lanes = &p->lanes[group / PLANE_GROUPS];
	int32_t sum = act_group_sum(x);

	if (!m->zeros)
		sum *= (int32_t)(-2 * m->zero);
	for (size_t i = 0; i < QMAT_INT_TILE; i++) {
		lanes->sums[group % PLANE_GROUPS][i] = sum;
		lanes->scales[group % PLANE_GROUPS][i] = x->scale;
	}
	for (int i = 0; i < PLANES_MAX; i++)
		plane_arrange(p->lines[i][0], PLANE_LINE, x->codes, group,
			plane_of((int)m->bits, i).width);
}

/* `n` groups from x on, and zeros up to a multiple of four. */
static inline void qmat_int_panel_fill(struct qmat_int_panel *p, const struct qmat *m,
	const struct act_group *x, size_t x_stride, size_t n)
{
	static const struct act_group none = {.scale = 0};

	for (size_t g = 0; g < n; g++)
		qmat_int_panel_group(p, m, x + g * x_stride, g);
	for (size_t g = n; g % PLANE_GROUPS; g++)
		qmat_int_panel_group(p, m, &none, g);
}

static inline float qmat_int_factor(const struct qmat *m, size_t row)
{
	float factor = m->step;

	if (m->scales && !m->scale_group)
		factor *= f16_to_f32(m->scales[row * m->scale_row]);
	return factor / 2;
}

/* The rows of a tile are a quarter of the range apart: memory is read in that many streams, each in
 * one piece. */
static inline void qmat_int_rows(
	const struct qmat_int_tile *t, qmat_int_fn *fn, size_t row0, size_t row1)
{
	const bool is_last = t->first + t->block == t->n_groups;
	const size_t quarter = div_up(row1 - row0, QMAT_INT_TILE);

	for (size_t i = 0; i < quarter; i++) {
		float totals[QMAT_INT_TILE];
		size_t rows[QMAT_INT_TILE];

		/* Where there are no more, the last row is computed again. */
		for (size_t r = 0; r < QMAT_INT_TILE; r++)
			rows[r] = min_u64(row0 + r * quarter + i, row1 - 1);
		fn(t, rows, totals);
		for (size_t r = 0; r < QMAT_INT_TILE && row0 + r * quarter + i < row1; r++) {
			float *z = t->z + rows[r];

			*z = t->first ? *z + totals[r] : totals[r];
			if (is_last)
				*z *= qmat_int_factor(t->m, rows[r]);
		}
	}
}

/* One call for a few rows of inputs. */
struct qmat_int_call {
	float *z;
	size_t z_stride;
	const struct qmat *m;
	const struct act_group *x;
	size_t x_stride;
};

static inline void qmat_int_block(const struct qmat_int_call *c, size_t n, size_t first,
	qmat_int_fn *fn, size_t row0, size_t row1)
{
	const size_t strip = n > 1 ? QMAT_INT_STRIP : row1 - row0;
	struct qmat_int_panel panels[QMAT_INT_MAX_ROWS];
	struct qmat_int_tile t = {.m = c->m, .n_groups = qmat_groups(c->m->cols), .first = first};

	t.block = min_u64(t.n_groups - first, QMAT_BLOCK);
	for (size_t i = 0; i < n; i++)
		qmat_int_panel_fill(
			&panels[i], c->m, c->x + first * c->x_stride + i, c->x_stride, t.block);
	for (size_t row = row0; row < row1; row += strip) {
		for (size_t i = 0; i < n; i++) {
			t.panel = &panels[i];
			t.z = c->z + i * c->z_stride;
			qmat_int_rows(&t, fn, row, min_u64(row1, row + strip));
		}
	}
}

static inline void qmat_int_by_blocks(
	struct qmat_int_call c, size_t n, qmat_int_fn *fn, size_t row0, size_t row1)
{
	const size_t n_groups = qmat_groups(c.m->cols);

	for (size_t t = 0, rows; t < n && row0 < row1; t += rows) {
		rows = min_u64(n - t, QMAT_INT_MAX_ROWS);
		for (size_t g = 0; g == 0 || g < n_groups; g += QMAT_BLOCK)
			qmat_int_block(&c, rows, g, fn, row0, row1);
		c.x += rows;
		c.z += rows * c.z_stride;
	}
}
