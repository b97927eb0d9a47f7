/*
 * Matrices of codes with the exact values that they stand for, and the shapes to try.
 */
#pragma once

#include "tests/kernels/sets.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

/* Where the scales and zeros of a matrix stand. */
enum grid {
	GRID_OF_GROUP,
	GRID_OF_ROW,
	GRID_OF_MATRIX,
	N_GRIDS,
};

struct problem {
	uint32_t rows, cols, bits;
	size_t n_groups;
	double *values; /* exact, row-major */
	uint8_t *codes;
	uint16_t *scales;
	uint8_t *zeros;
	struct qmat m;
};

/* Of any sign and size, subnormal halves too. */
static inline float random_scale(size_t i)
{
	return random_f32() * (i % 7 ? 0.1f : 1e-6f);
}

static inline void problem_grid(struct problem *p, enum grid grid)
{
	size_t n_scales = grid == GRID_OF_GROUP ? qmat_n_scales(p->rows, p->cols)
						: (grid == GRID_OF_ROW ? p->rows : 0);

	p->m.step = grid == GRID_OF_GROUP && random_u32() % 2 ? 1 : random_f32();
	if (n_scales == 0)
		p->m.step *= 0.01f;
	p->scales = numbers_new(n_scales, sizeof(*p->scales));
	p->zeros = numbers_new(n_scales, 1);
	for (size_t i = 0; i < n_scales; i++) {
		p->scales[i] = f16_from_f32(random_scale(i));
		p->zeros[i] = (uint8_t)(random_u32() % (1u << p->bits));
	}
	switch (grid) {
	case GRID_OF_GROUP:
		p->m.scales = p->scales;
		p->m.zeros = p->zeros;
		p->m.scale_row = (uint32_t)p->n_groups;
		p->m.scale_group = 1;
		return;
	case GRID_OF_ROW:
		p->m.scales = p->scales;
		p->m.scale_row = 1;
		break;
	case GRID_OF_MATRIX:
	case N_GRIDS:
		break;
	}
	p->m.zero = (float)(random_u32() % (2u << p->bits)) / 2;
}

static inline double problem_value(
	const struct problem *p, uint32_t row, uint32_t col, uint8_t code)
{
	size_t group = row * p->n_groups + col / QMAT_GROUP;
	double zero = p->m.zeros ? p->zeros[group] : p->m.zero, value = p->m.step * (code - zero);

	if (p->m.zeros)
		return value * f16_to_f32(p->scales[group]);
	return p->m.scales ? value * f16_to_f32(p->scales[row]) : value;
}

/* Packed rows of random codes. */
static inline void problem_codes(struct problem *p)
{
	const size_t row_bytes = p->n_groups * qmat_group_bytes(p->bits);
	_cleanup_(freep) uint8_t *row = numbers_new(p->cols, 1);

	for (uint32_t r = 0; r < p->rows; r++) {
		for (uint32_t c = 0; c < p->cols; c++) {
			row[c] = (uint8_t)(random_u32() % (1u << p->bits));
			p->values[(size_t)r * p->cols + c] = problem_value(p, r, c, row[c]);
		}
		qmat_row_pack(p->codes + r * row_bytes, row,
			p->m.zeros ? p->zeros + r * p->n_groups : NULL, p->cols, p->bits);
	}
}

/* Rows of plain numbers, 16 or 32 bits each. */
static inline void problem_plain(struct problem *p)
{
	const size_t row_bytes = p->n_groups * qmat_group_bytes(p->bits);
	_cleanup_(freep) float *row = numbers_new(p->cols, sizeof(*row));

	p->m.step = random_f32();
	for (uint32_t r = 0; r < p->rows; r++) {
		for (uint32_t c = 0; c < p->cols; c++) {
			row[c] = random_scale(c);
			if (p->bits == 16)
				row[c] = f16_to_f32(f16_from_f32(row[c]));
			p->values[(size_t)r * p->cols + c] = (double)p->m.step * row[c];
		}
		qmat_row_pack_plain(p->codes + r * row_bytes, row, p->cols, p->bits);
	}
}

static inline struct problem problem_new(
	uint32_t rows, uint32_t cols, uint32_t bits, enum grid grid)
{
	struct problem p = {
		.rows = rows, .cols = cols, .bits = bits, .n_groups = qmat_groups(cols)};

	p.values = numbers_new((size_t)rows * cols, sizeof(*p.values));
	p.codes = numbers_new(qmat_codes_bytes(rows, cols, bits), 1);
	p.m = (struct qmat){.codes = p.codes, .rows = rows, .cols = cols, .bits = bits};
	if (bits > QMAT_MAX_BITS) {
		problem_plain(&p);
		return p;
	}
	problem_grid(&p, grid);
	problem_codes(&p);
	return p;
}

static inline void problem_done(struct problem *p)
{
	free(p->values);
	free(p->codes);
	free(p->scales);
	free(p->zeros);
}

/* One code and one zero for all. */
static inline void problem_make_uniform(struct problem *p, uint8_t code, uint32_t zero)
{
	const size_t row_bytes = p->n_groups * qmat_group_bytes(p->bits);
	_cleanup_(freep) uint8_t *row = numbers_new(p->cols, 1);

	memset(row, code, p->cols);
	p->m.zero = (float)zero;
	if (p->m.zeros)
		memset(p->zeros, (int)zero, p->rows * p->n_groups);
	for (uint32_t r = 0; r < p->rows; r++) {
		for (uint32_t c = 0; c < p->cols; c++)
			p->values[(size_t)r * p->cols + c] = problem_value(p, r, c, code);
		qmat_row_pack(p->codes + r * row_bytes, row,
			p->m.zeros ? p->zeros + r * p->n_groups : NULL, p->cols, p->bits);
	}
}

static inline void check_shapes(const struct kernels *k,
	void (*check)(const struct kernels *, const struct problem *, size_t), uint32_t bits,
	enum grid grid)
{
	static const uint32_t rows[] = {0, 1, 2, 3, 17};
	static const uint32_t cols[] = {0, 1, 15, 16, 17, 127, 128, 129, 256, 401, 1100};
	static const size_t batches[] = {0, 1, 2, 3, 4, 5, 9};

	for (size_t i = 0; i < array_len(rows); i++) {
		for (size_t j = 0; j < array_len(cols); j++) {
			struct problem p = problem_new(rows[i], cols[j], bits, grid);

			for (size_t b = 0; b < array_len(batches); b++)
				check(k, &p, batches[b]);
			problem_done(&p);
		}
	}
}

static inline void check_all(const struct kernels *k,
	void (*check)(const struct kernels *, const struct problem *, size_t))
{
	struct problem large = problem_new(300, 3001, 3, GRID_OF_GROUP);

	for (uint32_t bits = 1; bits <= QMAT_MAX_BITS; bits++)
		for (enum grid grid = 0; grid < N_GRIDS; grid++)
			check_shapes(k, check, bits, grid);
	check(k, &large, 3);
	problem_done(&large);
}
