/*
 * What the vector sets' products of survivors with rounded inputs share: the way from a call to
 * tiles.
 *
 * 64 neighbouring entries of a row are a vector. Its parts of 16 entries draw from as many
 * neighbouring columns each, and 16 of these columns are a table in which a shuffle looks inputs
 * up. Tables of a block of columns are laid out in the order of use, once for all rows.
 */
#pragma once

#include "kernels/convert.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#define DROPMAT_TILE 4    /* rows of the matrix at once */
#define DROPMAT_STRIP 128 /* that all inputs meet before the next */
#define DROPMAT_LINE 64
#define DROPMAT_PART 16
#define DROPMAT_PARTS (DROPMAT_LINE / DROPMAT_PART)
#define DROPMAT_MAX_TABLES 16 /* of a vector */

/* A block of a row of inputs; those past the last are 0. */
struct dropmat_int_panel {
	int8_t tables[DROPMAT_BLOCK / DROPMAT_LINE][DROPMAT_LINE]
		__attribute__((aligned(DROPMAT_LINE)));
	float scales[DROPMAT_BLOCK / DROPMAT_LINE][DROPMAT_CHAINS]
		__attribute__((aligned(DROPMAT_LINE)));
};

/* How entries are read, the same for all rows. */
struct dropmat_int_form {
	uint32_t tables;                /* of a vector */
	uint8_t above[DROPMAT_PART];    /* place of an entry's group in its table */
	uint8_t table_of[DROPMAT_PART]; /* of an entry */
	uint8_t zero;                   /* times 2^index_bits */
};

/* Some rows of the matrix by a block of one row of inputs. */
struct dropmat_int_tile {
	const struct dropmat *m;
	const struct dropmat_int_panel *panel;
	struct dropmat_int_form form;
	const uint8_t *rows[DROPMAT_TILE]; /* their entries in the block */
	size_t n_bytes;                    /* of these in a row */
};

typedef void dropmat_int_fn(const struct dropmat_int_tile *t, float ret[DROPMAT_TILE]);

static inline struct dropmat_int_form dropmat_int_form_of(const struct dropmat *m)
{
	struct dropmat_int_form f = {
		.tables = m->group / m->n_keep,
		.zero = (uint8_t)(m->zero * (float)(1u << m->index_bits)),
	};

	for (uint32_t i = 0; i < DROPMAT_PART; i++) {
		uint32_t first = i / m->n_keep * m->group;

		f.table_of[i] = (uint8_t)(first / DROPMAT_PART);
		f.above[i] = (uint8_t)(first % DROPMAT_PART);
	}
	return f;
}

/* The inputs of 16 columns; `groups` are left from x on. */
static inline void dropmat_int_table(int8_t ret[DROPMAT_PART], const struct act_group *x,
	size_t stride, size_t groups, size_t col)
{
	if (col / MAT_INT_GROUP < groups)
		memcpy(ret, x[col / MAT_INT_GROUP * stride].codes + col % MAT_INT_GROUP,
			DROPMAT_PART);
	else
		memset(ret, 0, DROPMAT_PART);
}

/* `n_vectors` of entries, whose inputs begin at x, of which `groups` are there. */
static inline void dropmat_int_panel_fill(struct dropmat_int_panel *p, const struct dropmat *m,
	const struct act_group *x, size_t stride, size_t groups, size_t n_vectors)
{
	const size_t tables = m->group / m->n_keep, columns = tables * DROPMAT_LINE;

	for (size_t v = 0; v < n_vectors; v++) {
		for (size_t i = 0; i < tables * DROPMAT_PARTS; i++)
			dropmat_int_table(p->tables[v * tables + i / DROPMAT_PARTS] +
						  i % DROPMAT_PARTS * DROPMAT_PART,
				x, stride, groups,
				v * columns + i % DROPMAT_PARTS * tables * DROPMAT_PART +
					i / DROPMAT_PARTS * DROPMAT_PART);
		for (size_t i = 0; i < DROPMAT_CHAINS; i++) {
			size_t group = (v * columns + i * columns / DROPMAT_CHAINS) / MAT_INT_GROUP;

			p->scales[v][i] = group < groups ? x[group * stride].scale : 0;
		}
	}
}

static inline float dropmat_int_factor(const struct dropmat *m, size_t row)
{
	float factor = m->step;

	if (m->scales)
		factor *= f16_to_f32(m->scales[row * m->scale_row]);
	return factor / (float)(1u << m->index_bits);
}

/* The rows of a tile are a quarter of the range apart, so that memory is read in long streams;
 * where there are no more, the last row is computed again. */
static inline void dropmat_int_rows(struct dropmat_int_tile *t, dropmat_int_fn *fn,
	const uint8_t *entries, size_t row_bytes, float *y, size_t row0, size_t row1)
{
	const size_t quarter = div_up(row1 - row0, DROPMAT_TILE);

	for (size_t i = 0; i < quarter; i++) {
		float totals[DROPMAT_TILE];

		for (size_t r = 0; r < DROPMAT_TILE; r++)
			t->rows[r] =
				entries + min_u64(row0 + r * quarter + i, row1 - 1) * row_bytes;
		fn(t, totals);
		for (size_t r = 0; r < DROPMAT_TILE && row0 + r * quarter + i < row1; r++) {
			size_t row = row0 + r * quarter + i;

			y[row] = fmaf(totals[r], dropmat_int_factor(t->m, row), y[row]);
		}
	}
}

struct dropmat_int_call {
	float *y;
	size_t y_stride;
	const struct dropmat *m;
	const struct act_group *x;
	size_t x_stride;
};

/* One row of inputs. */
static inline void dropmat_int_input(
	const struct dropmat_int_call *c, size_t t, dropmat_int_fn *fn, size_t row0, size_t row1)
{
	const struct dropmat *m = c->m;
	const size_t row_bytes = dropmat_row_entries(m->cols, m->group, m->n_keep);
	const size_t block_bytes = (size_t)DROPMAT_BLOCK / m->group * m->n_keep;
	struct dropmat_int_tile tile = {.m = m, .form = dropmat_int_form_of(m)};
	struct dropmat_int_panel panel;
	size_t group = 0;

	tile.panel = &panel;
	for (size_t at = 0; at < row_bytes; at += block_bytes) {
		tile.n_bytes = min_u64(row_bytes - at, block_bytes);
		dropmat_int_panel_fill(&panel, m, c->x + group * c->x_stride + t, c->x_stride,
			mat_int_groups(m->cols) - group, div_up(tile.n_bytes, DROPMAT_LINE));
		dropmat_int_rows(&tile, fn, (const uint8_t *)m->entries + at, row_bytes,
			c->y + t * c->y_stride, row0, row1);
		group += DROPMAT_BLOCK / MAT_INT_GROUP;
	}
}

/* fns[i] takes 2^i tables. */
static inline void dropmat_int_by_strips(const struct dropmat_int_call *c, size_t n,
	dropmat_int_fn *const *fns, size_t row0, size_t row1)
{
	const size_t strip = n > 1 ? DROPMAT_STRIP : row1 - row0;
	const uint32_t tables = c->m->group / c->m->n_keep;

	for (size_t row = row0; row < row1; row += strip)
		for (size_t t = 0; t < n; t++)
			dropmat_int_input(
				c, t, fns[__builtin_ctz(tables)], row, min_u64(row1, row + strip));
}
