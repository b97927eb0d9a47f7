/*
 * What the vector sets' products with a matrix of integers share: the way from a call to tiles.
 *
 * A tile is a few neighbouring blocks of outputs times a few rows of x. Its sums are exact until
 * the chain over groups, so its shape is a matter of speed alone.
 */
#pragma once

#include "kernels/kernels.h"

/* A tile's place in a call. */
struct int_tile {
	const struct mat_int *w;
	size_t n_groups;
	size_t block;
	size_t next; /* first block of the tile after this; `block` again if this is the last */
	const struct act_group *x;
	size_t x_stride;
	size_t rows;
	float *y; /* of `block` */
	size_t y_stride;
	size_t n_last; /* outputs of the last block that exist */
};

/* Memory is asked for this much before it is used. */
#define INT_AHEAD_BYTES 4096

/* Where the codes are that block number `block` of the tile will need a while after those of
 * `group`; at the end of a range, what is there already. */
static inline const uint8_t *int_codes_ahead(
	const struct int_tile *t, size_t group, size_t block, uint32_t bits)
{
	const size_t bytes = mat_int_group_bytes(bits);
	size_t ahead = group + INT_AHEAD_BYTES / bytes, first = t->block;

	if (ahead >= t->n_groups) {
		ahead = ahead - t->n_groups < t->n_groups ? ahead - t->n_groups : 0;
		first = t->next;
	}
	return t->w->codes + ((first + block) * t->n_groups + ahead) * bytes;
}

struct int_shape {
	size_t blocks;
	void (*wide)(const struct int_tile *t);
	void (*narrow)(const struct int_tile *t); /* one block, for the rest of a range */
};

struct int_set {
	size_t max_rows;                /* of a tile */
	size_t pass_rows;               /* that all blocks are taken against before the next ones */
	const struct int_shape *shapes; /* by rows - 1 */
};

/* One call. */
struct int_product {
	const struct mat_int *w;
	const struct act_group *x;
	size_t x_stride;
	float *y;
	size_t y_stride;
	size_t n;
};

/* All rows against `blocks` blocks, in tiles of nearly equal height. */
static inline void int_tile_rows(
	const struct int_product *p, const struct int_set *set, struct int_tile t, size_t blocks)
{
	size_t n_tiles = (p->n + set->max_rows - 1) / set->max_rows;

	for (size_t i = 0; i < n_tiles; i++) {
		size_t first = p->n * i / n_tiles, rows = p->n * (i + 1) / n_tiles - first;
		const struct int_shape *shape = &set->shapes[rows - 1];

		t.rows = rows;
		t.x = p->x + first;
		t.y = p->y + first * p->y_stride + t.block * MAT_BLOCK;
		if (blocks == 1)
			shape->narrow(&t);
		else
			shape->wide(&t);
	}
}

/* All blocks against the rows of a pass. */
static inline void int_pass(
	const struct int_product *p, const struct int_set *set, size_t block0, size_t block1)
{
	size_t n_tiles = (p->n + set->max_rows - 1) / set->max_rows;
	size_t wide = set->shapes[(p->n + n_tiles - 1) / n_tiles - 1].blocks;

	for (size_t block = block0, blocks; block < block1; block += blocks) {
		struct int_tile t = {
			.w = p->w,
			.n_groups = mat_int_groups(p->w->cols),
			.block = block,
			.x_stride = p->x_stride,
			.y_stride = p->y_stride,
		};

		blocks = block1 - block >= wide ? wide : 1;
		t.next = block + blocks < block1 ? block + blocks : block;
		t.n_last = min_u64(p->w->rows - (block + blocks - 1) * MAT_BLOCK, MAT_BLOCK);
		int_tile_rows(p, set, t, blocks);
	}
}

static inline void int_product_by_tiles(
	const struct int_product *whole, const struct int_set *set, size_t block0, size_t block1)
{
	for (size_t t = 0; t < whole->n; t += set->pass_rows) {
		struct int_product p = *whole;

		p.x += t;
		p.y += t * p.y_stride;
		p.n = min_u64(whole->n - t, set->pass_rows);
		int_pass(&p, set, block0, block1);
	}
}
