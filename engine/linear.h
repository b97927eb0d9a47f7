/*
 * Where base and delta meet. A call is a group of linear maps with one input: q, k and v; o; gate
 * and up; down; or the head. For each of them
 *
 *   y[t] = W x[t] + what the delta of row t's variant does
 *
 * with the base's product computed once for all rows of all variants.
 */
#pragma once

#include "engine/pool.h"
#include "engine/variant.h"

/* Neighbouring rows of one variant. */
struct linear_run {
	const struct variant *variant;
	size_t first, n;
};

struct linear_part {
	const struct base_matrix *base;
	float *y; /* n_rows x y_stride */
	size_t y_stride;
	enum projection projection;
};

#define LINEAR_MAX_PARTS 3

struct linear_call {
	const struct kernels *kernels;
	struct pool *pool;
	const float *x; /* n_rows x x_stride */
	size_t x_stride;
	size_t n_rows;
	const struct linear_run *runs; /* cover the rows in order */
	size_t n_runs;
	uint32_t layer;
	size_t n_parts;
	struct linear_part parts[LINEAR_MAX_PARTS];
	/* Scratch, n_rows x z_stride; z_stride is at least linear_scratch() of the parts. */
	float *z;
	size_t z_stride;
	struct act_group *rounded; /* n_rows x linear_rounded() of the parts */
	/* Scratch of at least linear_panel_bytes(), 64-byte aligned; NULL if that is 0. */
	void *panel;
};

/* Numbers of scratch that a row needs for these shapes, whatever the delta. */
size_t linear_scratch(const struct base_matrix *const *bases, size_t n_parts);
/* Groups of rounded inputs likewise: 0 where no base has integers. */
size_t linear_rounded(const struct base_matrix *const *bases, size_t n_parts);
/* Bytes of the panel of n_rows inputs of `cols` numbers: 0 where the kernels take none. */
size_t linear_panel_bytes(const struct kernels *k, size_t n_rows, uint32_t cols);

void linear_apply(const struct linear_call *call);
