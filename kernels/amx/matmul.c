/*
 * Weights are streamed from memory once for each PASS_TILES tiles of rows. Up to two tiles sum all
 * inputs at once, with several blocks of outputs beside each other for the sake of the memory's
 * streams. More rows go by slices of the inputs, of which all rows' stay in the second cache, while
 * sums wait in y.
 *
 * Every output is one chain over steps of 32 inputs in ascending order, hi before lo, whatever the
 * cut; a step is one instruction, which adds up its 32 terms in an order of its own.
 */
#include "kernels/amx/amx.h"
#include "kernels/amx/panel.h"
#include "kernels/amx/tile.h"

#include "kernels/avx512/lanes.h"

#include <string.h>

#define CONFIG(height) TILE_CONFIG(height, height)

static const struct tile_config configs[TILE_LINES] __attribute__((aligned(TILE_LINE))) =
	TILE_CONFIGS(CONFIG);

#define MAX_BLOCKS 4                  /* side by side, with one tile of rows; two with two */
#define PASS_TILES 8                  /* of rows; with more, slices are short */
#define SLICE_BYTES ((size_t)1 << 20) /* of the panel: half of a second cache */
#define STREAM_AHEAD 4096
/* What amx_matmul() makes of the inputs at a time, on the stack. */
#define OWN_ROWS 32
#define OWN_COLS 1024

/* One product, or its part over inputs [col, col + cols), of which it has the panel. */
struct product {
	float *y;
	size_t y_stride;
	const struct mat_bf16 *w;
	const uint8_t *panel;
	size_t n;
	size_t col, cols;
	size_t tiles, height;
	size_t ahead;   /* bytes from weights to those that are fetched meanwhile */
	size_t fetches; /* lines of them for each tile of weights */
};

/* Sums of up to two tiles of rows and up to four blocks over some steps. */
struct patch {
	const uint8_t *inputs[2];
	const uint8_t *weights;
	size_t block_bytes;
	size_t steps;
	size_t step_bytes, lo; /* of the panel */
	size_t ahead, first_fetch, n_fetches;
};

static always_inline_ void fetch(const struct patch *p, const uint8_t *weights)
{
	const uint8_t *at = weights + p->ahead + p->first_fetch * TILE_LINE;

	for (size_t i = 0; i < p->n_fetches; i++)
		_mm_prefetch((const char *)at + i * TILE_LINE, _MM_HINT_T1);
}

#define LOAD(tile, from, stride)                                                                   \
	do {                                                                                       \
		_tile_loadd(tile, from, stride);                                                   \
		tile_space();                                                                      \
	} while (0)
#define MULTIPLY(sum, inputs, weights)                                                             \
	do {                                                                                       \
		_tile_dpbf16ps(sum, inputs, weights);                                              \
		tile_space();                                                                      \
	} while (0)

/* One tile of rows; `blocks` is a constant in each instance. */
static always_inline_ void step_low(
	const struct patch *p, const uint8_t *inputs, const uint8_t *weights, int blocks)
{
	LOAD(6, inputs, PANEL_ROW_BYTES);
	LOAD(7, inputs + p->lo, PANEL_ROW_BYTES);
	fetch(p, weights);
	LOAD(4, weights, TILE_LINE);
	MULTIPLY(0, 6, 4);
	MULTIPLY(0, 7, 4);
	if (blocks > 1) {
		fetch(p, weights + p->block_bytes);
		LOAD(5, weights + p->block_bytes, TILE_LINE);
		MULTIPLY(1, 6, 5);
		MULTIPLY(1, 7, 5);
	}
	if (blocks > 2) {
		fetch(p, weights + 2 * p->block_bytes);
		LOAD(4, weights + 2 * p->block_bytes, TILE_LINE);
		MULTIPLY(2, 6, 4);
		MULTIPLY(2, 7, 4);
	}
	if (blocks > 3) {
		fetch(p, weights + 3 * p->block_bytes);
		LOAD(5, weights + 3 * p->block_bytes, TILE_LINE);
		MULTIPLY(3, 6, 5);
		MULTIPLY(3, 7, 5);
	}
}

/* Two tiles of rows; sums 0 and 1 are the upper tile's, 2 and 3 the lower one's. */
static always_inline_ void step_high(const struct patch *p, const uint8_t *upper,
	const uint8_t *lower, const uint8_t *weights, int blocks)
{
	LOAD(4, weights, TILE_LINE);
	LOAD(6, upper, PANEL_ROW_BYTES);
	MULTIPLY(0, 6, 4);
	LOAD(7, lower, PANEL_ROW_BYTES);
	MULTIPLY(2, 7, 4);
	fetch(p, weights);
	if (blocks > 1) {
		LOAD(5, weights + p->block_bytes, TILE_LINE);
		MULTIPLY(1, 6, 5);
		MULTIPLY(3, 7, 5);
		fetch(p, weights + p->block_bytes);
	}
	LOAD(6, upper + p->lo, PANEL_ROW_BYTES);
	MULTIPLY(0, 6, 4);
	LOAD(7, lower + p->lo, PANEL_ROW_BYTES);
	MULTIPLY(2, 7, 4);
	if (blocks > 1) {
		MULTIPLY(1, 6, 5);
		MULTIPLY(3, 7, 5);
	}
}

static always_inline_ void steps_low(const struct patch *shared, int blocks)
{
	const struct patch p = *shared;

	for (size_t s = 0; s < p.steps; s++)
		step_low(&p, p.inputs[0] + s * p.step_bytes, p.weights + s * TILE_BYTES, blocks);
}

static always_inline_ void steps_high(const struct patch *shared, int blocks)
{
	const struct patch p = *shared;

	for (size_t s = 0; s < p.steps; s++)
		step_high(&p, p.inputs[0] + s * p.step_bytes, p.inputs[1] + s * p.step_bytes,
			p.weights + s * TILE_BYTES, blocks);
}

static void steps_run(const struct patch *p, size_t blocks)
{
	if (p->inputs[1]) {
		if (blocks > 1)
			steps_high(p, 2);
		else
			steps_high(p, 1);
		return;
	}
	switch (blocks) {
	case 1:
		steps_low(p, 1);
		break;
	case 2:
		steps_low(p, 2);
		break;
	case 3:
		steps_low(p, 3);
		break;
	case 4:
		steps_low(p, 4);
		break;
	}
}

/* Where the sums of a tile of rows and a block stand in y. */
struct sums_place {
	float *y;
	size_t y_stride;
	size_t rows, lanes; /* that exist */
	bool whole;         /* all of the tile's do */
};

static struct sums_place sums_place(const struct product *p, size_t tile, size_t block)
{
	struct sums_place place = {
		.y = p->y + tile * p->height * p->y_stride + block * MAT_BLOCK,
		.y_stride = p->y_stride,
		.rows = min_u64(p->n - tile * p->height, p->height),
		.lanes = min_u64(p->w->rows - block * MAT_BLOCK, MAT_BLOCK),
	};

	place.whole = place.rows == p->height && place.lanes == MAT_BLOCK;
	return place;
}

static void sums_load(int sum, const struct sums_place *at)
{
	float edge[TILE_LINES * MAT_BLOCK] __attribute__((aligned(TILE_LINE)));

	if (at->whole) {
		tile_load_sum(sum, at->y, at->y_stride * sizeof(*at->y));
		return;
	}
	memset(edge, 0, sizeof(edge));
	for (size_t r = 0; r < at->rows; r++)
		memcpy(edge + r * MAT_BLOCK, at->y + r * at->y_stride, at->lanes * sizeof(*edge));
	tile_order();
	tile_load_sum(sum, edge, TILE_LINE);
	tile_order();
}

static void sums_store(int sum, const struct sums_place *at)
{
	float edge[TILE_LINES * MAT_BLOCK] __attribute__((aligned(TILE_LINE)));

	if (at->whole) {
		tile_store_sum(sum, at->y, at->y_stride * sizeof(*at->y));
		return;
	}
	tile_store_sum(sum, edge, TILE_LINE);
	for (size_t r = 0; r < at->rows; r++)
		memcpy(at->y + r * at->y_stride, edge + r * MAT_BLOCK, at->lanes * sizeof(*edge));
}

/* The last step of a matrix whose inputs do not fill it: its lines, then zeros, for each block. */
static void tail_copy(
	uint8_t *ret, const uint8_t *weights, size_t block_bytes, size_t blocks, size_t n_lines)
{
	for (size_t b = 0; b < blocks; b++, ret += TILE_BYTES) {
		memset(ret, 0, TILE_BYTES);
		memcpy(ret, weights + b * block_bytes, n_lines * TILE_LINE);
	}
	tile_order();
}

static void patch_run_tail(const struct patch *p, size_t blocks, size_t n_lines)
{
	uint8_t tail[MAX_BLOCKS * TILE_BYTES] __attribute__((aligned(TILE_LINE)));
	struct patch last = {
		.inputs = {p->inputs[0] + p->steps * p->step_bytes,
			p->inputs[1] ? p->inputs[1] + p->steps * p->step_bytes : NULL},
		.weights = tail,
		.block_bytes = TILE_BYTES,
		.steps = 1,
		.step_bytes = p->step_bytes,
		.lo = p->lo,
	};

	tail_copy(tail, p->weights + p->steps * TILE_BYTES, p->block_bytes, blocks, n_lines);
	steps_run(&last, blocks);
}

/* What one patch computes: some tiles of rows, some blocks, steps [step, end) of the panel. */
struct area {
	size_t tile, tiles;
	size_t block, blocks;
	size_t step, end;
};

/* The lines that this pass over the weights fetches of each tile of the next ones. */
static void patch_plan_fetches(struct patch *patch, const struct product *p, size_t tile)
{
	patch->ahead = p->ahead;
	patch->first_fetch = tile / 2 * p->fetches;
	if (patch->first_fetch < TILE_LINES)
		patch->n_fetches = min_u64(p->fetches, TILE_LINES - patch->first_fetch);
}

static struct patch patch_of(const struct product *p, const struct area *a)
{
	const size_t tile_bytes = panel_steps(p->cols) * panel_step_bytes(p->height);
	struct patch patch = {
		.block_bytes = mat_bf16_pairs(p->w->cols) * TILE_LINE,
		.step_bytes = panel_step_bytes(p->height),
		.lo = panel_lo(p->height),
	};

	patch.weights = (const uint8_t *)p->w->data + a->block * patch.block_bytes +
			(p->col / 2 + a->step * TILE_LINES) * TILE_LINE;
	for (size_t t = 0; t < a->tiles; t++)
		patch.inputs[t] =
			p->panel + (a->tile + t) * tile_bytes + a->step * patch.step_bytes;
	patch_plan_fetches(&patch, p, a->tile);
	return patch;
}

/* The register of patch number i of an area, as steps_run() shares them out. */
static int sum_of(const struct area *a, size_t i)
{
	return (int)(i / a->blocks * 2 + i % a->blocks);
}

static void patch_compute(const struct product *p, const struct area *a)
{
	const size_t lines = min_u64((a->end - a->step) * TILE_LINES,
		mat_bf16_pairs((uint32_t)p->cols) - a->step * TILE_LINES);
	struct patch patch = patch_of(p, a);
	struct sums_place places[MAX_BLOCKS];

	patch.steps = lines / TILE_LINES;
	for (size_t i = 0; i < a->tiles * a->blocks; i++) {
		places[i] = sums_place(p, a->tile + i / a->blocks, a->block + i % a->blocks);
		if (p->col + a->step > 0)
			sums_load(sum_of(a, i), &places[i]);
		else
			tile_zero_sum(sum_of(a, i));
	}
	steps_run(&patch, a->blocks);
	if (lines % TILE_LINES)
		patch_run_tail(&patch, a->blocks, lines % TILE_LINES);
	for (size_t i = 0; i < a->tiles * a->blocks; i++)
		sums_store(sum_of(a, i), &places[i]);
}

/* A slice is long, for at its ends the sums of a tile come from rows of y that may all fall into
 * one set of the first cache. */
static size_t slice_steps(const struct product *p)
{
	return max_u64(SLICE_BYTES / (p->tiles * panel_step_bytes(p->height)), 1);
}

/* No inputs at all are one empty slice, for sums of 0. */
static void product_run(const struct product *p, size_t block0, size_t block1)
{
	const size_t steps = panel_steps(p->cols), widest = p->tiles > 1 ? 2 : MAX_BLOCKS;
	const size_t slice = p->tiles > 2 ? slice_steps(p) : max_u64(steps, 1);
	struct area a = {0};

	do {
		a.end = min_u64(a.step + slice, steps);
		for (a.block = block0; a.block < block1; a.block += a.blocks) {
			a.blocks = min_u64(block1 - a.block, widest);
			for (a.tile = 0; a.tile < p->tiles; a.tile += 2) {
				a.tiles = min_u64(p->tiles - a.tile, 2);
				patch_compute(p, &a);
			}
		}
		a.step = a.end;
	} while (a.step < steps);
}

/* While few rows are computed the weights just ahead are fetched; many rows leave time to fetch the
 * next blocks' slice, shared between the passes over this one. */
static void product_plan(struct product *p, size_t tiles, size_t height)
{
	size_t passes = (tiles + 1) / 2;

	p->tiles = tiles;
	p->height = height;
	p->ahead = passes > 1 ? 2 * mat_bf16_pairs(p->w->cols) * TILE_LINE : STREAM_AHEAD;
	p->fetches = (TILE_LINES + passes - 1) / passes;
}

void amx_matmul_panel(float *y, size_t y_stride, const struct mat_bf16 *w, const void *panel,
	size_t n, size_t block0, size_t block1)
{
	const size_t tiles = panel_tiles(n), height = n ? panel_height(n) : 0;
	const size_t tile_bytes = panel_steps(w->cols) * panel_step_bytes(height);

	if (n == 0)
		return;
	_tile_loadconfig(&configs[height - 1]);
	for (size_t tile = 0, passes = div_up(tiles, PASS_TILES); tile < tiles; passes--) {
		const size_t n_tiles = div_up(tiles - tile, passes);
		struct product p = {
			.y = y + tile * height * y_stride,
			.y_stride = y_stride,
			.w = w,
			.panel = (const uint8_t *)panel + tile * tile_bytes,
			.n = n - tile * height,
			.cols = w->cols,
		};

		product_plan(&p, n_tiles, height);
		product_run(&p, block0, block1);
		tile += n_tiles;
	}
	_tile_release();
}

/* The rows of p, which have no panel yet. */
static void own_rows(
	struct product *p, const float *x, size_t x_stride, size_t block0, size_t block1)
{
	uint8_t panel[OWN_ROWS * OWN_COLS * 2 * sizeof(uint16_t)] __attribute__((aligned(64)));

	product_plan(p, panel_tiles(p->n), panel_height(p->n));
	p->panel = panel;
	_tile_loadconfig(&configs[p->height - 1]);
	do {
		size_t tile_bytes;

		p->cols = min_u64(p->w->cols - p->col, OWN_COLS);
		tile_bytes = panel_steps(p->cols) * panel_step_bytes(p->height);
		for (size_t t = 0; t < p->tiles; t++)
			panel_fill_tile(panel + t * tile_bytes, x + p->col, x_stride, p->n, p->cols,
				t * p->height, p->height);
		tile_order();
		product_run(p, block0, block1);
		p->col += p->cols;
	} while (p->col < p->w->cols);
	_tile_release();
}

void amx_matmul(float *y, size_t y_stride, const struct mat_bf16 *w, const float *x,
	size_t x_stride, size_t n, size_t block0, size_t block1)
{
	for (size_t t = 0; t < n; t += OWN_ROWS) {
		struct product p = {
			.y = y + t * y_stride,
			.y_stride = y_stride,
			.w = w,
			.n = min_u64(n - t, OWN_ROWS),
		};

		own_rows(&p, x + t * x_stride, x_stride, block0, block1);
	}
}
