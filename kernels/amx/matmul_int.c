/*
 * Products with matrices of integers, at most PASS_ROWS rows at a time.
 *
 * Two blocks go side by side, group by group: the weights of a group stay in four tile registers
 * while the tiles of rows pass. Sums of a group are exact; vectors put them into the chain over
 * groups. A tile of rows in one group is a step. Its tile instructions stand far apart, since
 * crowded they hold each other up (tile_space()): between them vectors finish the step before the
 * last one.
 *
 * Codes of 8 bits are loaded into tiles from where they are. Those of 4 bits become such before,
 * for both blocks in all groups at hand.
 *
 * The chains of the blocks at hand stand close together, since in y the rows of a tile fall into
 * one set of a cache. Inputs go by slices, which stay in the second cache for all blocks; between
 * slices a chain waits in y.
 */
#include "kernels/amx/amx.h"
#include "kernels/amx/panel.h"
#include "kernels/amx/tile.h"
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/expand.h"

#include "kernels/avx512/lanes.h"

#include <string.h>

#define CONFIG(height) TILE_CONFIG(height, TILE_LINES)

static const struct tile_config configs[TILE_LINES] __attribute__((aligned(TILE_LINE))) =
	TILE_CONFIGS(CONFIG);

/* So few rows are left to dot products, which give the same bits: weights come from memory no
 * faster than these multiply them. */
#define VECTOR_ROWS 8
#define PASS_ROWS 128
#define SLICE_GROUPS 32 /* of PASS_ROWS rows: 768 KiB of inputs */
#define MAX_BLOCKS 2    /* side by side */
/* A step's rows are finished by shares, between the tile instructions of a later step. */
#define N_SHARES 8
#define SHARE_ROWS (TILE_LINES / N_SHARES)

#define GROUP_BYTES EXPAND_GROUP_BYTES
#define GROUP_LINES (GROUP_BYTES / TILE_LINE)

typedef int32_t tile_sums[TILE_BYTES / sizeof(int32_t)];

/* What a slice is made ready in. */
struct int_scratch {
	/* What was 4 bits. */
	int8_t codes[MAX_BLOCKS][SLICE_GROUPS][GROUP_BYTES];
	uint16_t w_scales[MAX_BLOCKS][SLICE_GROUPS][MAT_BLOCK];
	/* Close together, they are two lines of a cache for a tile, and not one for each row. */
	float x_scales[SLICE_GROUPS][PASS_ROWS];
} __attribute__((aligned(TILE_LINE)));

/* One pass over the rows, for blocks up to block1 and groups [slice, end). */
struct int_call {
	float *y;
	size_t y_stride;
	const struct mat_int *w;
	const struct act_group *x;
	size_t x_stride;
	size_t n, n_groups;
	size_t tiles, height;
	size_t step_lines; /* that a step asks for of each block */
	size_t block1;
	size_t slice, end;
	struct int_scratch *scratch;
};

/* Blocks that are multiplied side by side. */
struct int_blocks {
	size_t first, n;
	/* From the slice's first group on. */
	const int8_t *codes[MAX_BLOCKS];
	const uint16_t *scales[MAX_BLOCKS];
};

/* One tile of rows in one group. */
struct int_step {
	const uint16_t *w_scales[MAX_BLOCKS];
	const float *x_scales;
	float *chain;
	size_t skip, end; /* rows that it finishes; the tile before has those up to skip */
};

#define N_STEPS 4 /* three are under way; of four the place is cheap to find */

/* What goes on while some blocks are multiplied. Step number `step` is in steps[step % N_STEPS], as
 * are its sums. */
struct int_run {
	tile_sums (*sums)[MAX_BLOCKS];
	struct int_step steps[N_STEPS];
	size_t step;
	float *chains; /* rows x blocks x MAT_BLOCK */
};

static struct int_blocks blocks_at(const struct int_call *c, size_t first)
{
	struct int_blocks ret = {.first = first, .n = min_u64(c->block1 - first, MAX_BLOCKS)};

	for (size_t b = 0; b < ret.n; b++) {
		const size_t block = first + b, lane = block * c->n_groups + c->slice;

		if (c->w->bits == 8) {
			ret.codes[b] = (const int8_t *)c->w->codes + lane * GROUP_BYTES;
			ret.scales[b] = c->w->scales + lane * MAT_BLOCK;
			continue;
		}
		ret.codes[b] = c->scratch->codes[b][0];
		ret.scales[b] = c->scratch->w_scales[b][0];
		expand_groups(c->scratch->codes[b][0], c->scratch->w_scales[b][0], c->w, block,
			c->slice, c->end);
	}
	return ret;
}

/* `blocks` and `whole` are constants in each instance, here and below. */
static always_inline_ void row_finish(const struct int_step *s, const tile_sums *sums,
	const __m512 scales[static MAX_BLOCKS], size_t r, size_t blocks)
{
	const __m512 scale = _mm512_set1_ps(s->x_scales[r]);

#pragma GCC unroll 2
	for (size_t b = 0; b < blocks; b++) {
		float *at = s->chain + (r * blocks + b) * MAT_BLOCK;
		__m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[b] + r * MAT_BLOCK));

		_mm512_store_ps(at,
			_mm512_fmadd_ps(sum, _mm512_mul_ps(scales[b], scale), _mm512_load_ps(at)));
	}
}

/* Between two instructions of tiles. `whole`: the step finishes all rows of a tile. */
static always_inline_ void share_finish(const struct int_step *s, const tile_sums *sums,
	const __m512 scales[static MAX_BLOCKS], size_t share, size_t blocks, bool whole)
{
	tile_order();
#pragma GCC unroll 2
	for (size_t r = share * SHARE_ROWS; r < (share + 1) * SHARE_ROWS; r++)
		if (whole || (r >= s->skip && r < s->end))
			row_finish(s, sums, scales, r, blocks);
	tile_order();
}

/* The first block's weights in registers 4 and 5, the second's in 6 and 7. */
static always_inline_ void weights_load(const int8_t *const codes[static MAX_BLOCKS], size_t blocks)
{
	tile_order();
	_tile_loadd(4, codes[0], TILE_LINE);
	_tile_loadd(5, codes[0] + TILE_BYTES, TILE_LINE);
	if (blocks == 1)
		return;
	_tile_loadd(6, codes[1], TILE_LINE);
	_tile_loadd(7, codes[1] + TILE_BYTES, TILE_LINE);
}

/* Multiplies rows x, as this step of the run. The second block's sums stay in their register until
 * the next step is under way. */
static always_inline_ void rows_multiply(
	const struct int_run *run, const struct act_group *x, size_t blocks, bool whole)
{
	tile_sums *now = run->sums[run->step % N_STEPS];
	tile_sums *before = run->sums[(run->step - 1) % N_STEPS];
	const tile_sums *sums = run->sums[(run->step - 2) % N_STEPS];
	const struct int_step s = run->steps[(run->step - 2) % N_STEPS];
	__m512 scales[MAX_BLOCKS];

#pragma GCC unroll 2
	for (size_t b = 0; b < blocks; b++)
		scales[b] = lanes_bf16(s.w_scales[b]);
#define SHARE(i) share_finish(&s, sums, scales, i, blocks, whole)
	_tile_zero(0);
	_tile_loadd(2, x->codes, sizeof(*x));
	SHARE(0);
	_tile_loadd(3, x->codes + MAT_INT_GROUP / 2, sizeof(*x));
	SHARE(1);
	_tile_dpbssd(0, 2, 4);
	SHARE(2);
	_tile_dpbssd(0, 3, 5);
	SHARE(3);
	if (blocks == 2) {
		_tile_stored(1, before[1], TILE_LINE);
		_tile_zero(1);
	}
	SHARE(4);
	if (blocks == 2)
		_tile_dpbssd(1, 2, 6);
	SHARE(5);
	if (blocks == 2)
		_tile_dpbssd(1, 3, 7);
	SHARE(6);
	_tile_stored(0, now[0], TILE_LINE);
	SHARE(7);
#undef SHARE
}

/* The last tile ends with the last row, so that it may begin with rows of the tile before; these
 * are left to that one. */
static size_t tile_row(const struct int_call *c, size_t tile)
{
	return min_u64(tile * c->height, c->n - c->height);
}

static bool step_whole(const struct int_step *s)
{
	return s->end - s->skip == TILE_LINES;
}

/* Asks for a step's share of the next group's codes. Loads of tiles that find them in the second
 * cache or in memory would hold up everything; further ahead they push out what is in use. */
static always_inline_ void codes_fetch(
	const int8_t *const next[static MAX_BLOCKS], size_t first, size_t n, size_t blocks)
{
	const size_t end = min_u64(first + n, GROUP_LINES);

	for (size_t b = 0; b < blocks; b++)
		for (size_t i = first; i < end; i++)
			_mm_prefetch((const char *)next[b] + i * TILE_LINE, _MM_HINT_T0);
}

/* All tiles of rows in one group. */
static always_inline_ void group_run(const struct int_call *c, struct int_run *run,
	const struct int_blocks *at, size_t group, size_t blocks)
{
	const size_t g = group - c->slice;
	const bool fetches = c->w->bits == 8 && group + 1 < c->end;
	const int8_t *codes[MAX_BLOCKS], *next[MAX_BLOCKS];
	struct int_step step = {.end = c->height};

	for (size_t b = 0; b < blocks; b++) {
		codes[b] = at->codes[b] + g * GROUP_BYTES;
		next[b] = codes[b] + GROUP_BYTES;
		step.w_scales[b] = at->scales[b] + g * MAT_BLOCK;
	}
	weights_load(codes, blocks);
	for (size_t tile = 0; tile < c->tiles; tile++, run->step++) {
		const struct int_step *s = &run->steps[(run->step - 2) % N_STEPS];
		const size_t row = tile_row(c, tile);
		const struct act_group *x = c->x + group * c->x_stride + row;

		if (fetches)
			codes_fetch(next, tile * c->step_lines, c->step_lines, blocks);
		step.x_scales = c->scratch->x_scales[g] + row;
		step.chain = run->chains + row * blocks * MAT_BLOCK;
		step.skip = tile * c->height - row;
		run->steps[run->step % N_STEPS] = step;
		if (step_whole(s))
			rows_multiply(run, x, blocks, true);
		else
			rows_multiply(run, x, blocks, false);
	}
}

/* What the last two steps left. */
static always_inline_ void run_finish(struct int_run *run, size_t blocks)
{
	if (blocks == 2)
		_tile_stored(1, run->sums[(run->step - 1) % N_STEPS][1], TILE_LINE);
	tile_order();
	for (size_t i = run->step - 2; i != run->step; i++) {
		struct int_step *s = &run->steps[i % N_STEPS];
		__m512 scales[MAX_BLOCKS];

#pragma GCC unroll 2
		for (size_t b = 0; b < blocks; b++)
			scales[b] = lanes_bf16(s->w_scales[b]);
		for (size_t r = s->skip; r < s->end; r++)
			row_finish(s, run->sums[i % N_STEPS], scales, r, blocks);
		s->end = s->skip;
	}
}

/* The blocks' chains as far as y has them: from the slices before. */
static void chains_load(const struct int_call *c, const struct int_blocks *p, float *chains)
{
	if (c->slice == 0) {
		memset(chains, 0, c->n * p->n * MAT_BLOCK * sizeof(*chains));
		return;
	}
	for (size_t i = 0; i < c->n * p->n; i++) {
		size_t output = (p->first + i % p->n) * MAT_BLOCK;
		const float *y = c->y + i / p->n * c->y_stride + output;

		_mm512_store_ps(chains + i * MAT_BLOCK,
			_mm512_maskz_loadu_ps(lanes_before(c->w->rows - output), y));
	}
}

static void chains_store(const struct int_call *c, const struct int_blocks *p, const float *chains)
{
	for (size_t i = 0; i < c->n * p->n; i++) {
		size_t output = (p->first + i % p->n) * MAT_BLOCK;
		float *y = c->y + i / p->n * c->y_stride + output;

		_mm512_mask_storeu_ps(y, lanes_before(c->w->rows - output),
			_mm512_load_ps(chains + i * MAT_BLOCK));
	}
}

/* Some blocks in all groups of the slice. */
static always_inline_ void blocks_run(
	const struct int_call *c, struct int_run *run, const struct int_blocks *at, size_t blocks)
{
	chains_load(c, at, run->chains);
	for (size_t group = c->slice; group < c->end; group++)
		group_run(c, run, at, group, blocks);
	run_finish(run, blocks);
	chains_store(c, at, run->chains);
}

static void scales_gather(const struct int_call *c)
{
	for (size_t g = c->slice; g < c->end; g++)
		for (size_t r = 0; r < c->n; r++)
			c->scratch->x_scales[g - c->slice][r] = c->x[g * c->x_stride + r].scale;
}

static void slice_run(const struct int_call *c, size_t block0)
{
	tile_sums sums[N_STEPS][MAX_BLOCKS] __attribute__((aligned(TILE_LINE)));
	float chains[PASS_ROWS * MAX_BLOCKS * MAT_BLOCK] __attribute__((aligned(TILE_LINE)));
	static const uint16_t no_scales[MAT_BLOCK];
	struct int_run run = {.sums = sums, .chains = chains, .step = N_STEPS};

	for (size_t i = 0; i < N_STEPS; i++)
		run.steps[i] = (struct int_step){.w_scales = {no_scales, no_scales}};
	scales_gather(c);
	for (size_t block = block0; block < c->block1; block += MAX_BLOCKS) {
		const struct int_blocks at = blocks_at(c, block);

		if (at.n == 2)
			blocks_run(c, &run, &at, 2);
		else
			blocks_run(c, &run, &at, 1);
	}
}

void amx_matmul_int(float *y, size_t y_stride, const struct mat_int *w, const struct act_group *x,
	size_t x_stride, size_t n, size_t block0, size_t block1)
{
	struct int_call c = {
		.y_stride = y_stride,
		.w = w,
		.x_stride = x_stride,
		.n_groups = mat_int_groups(w->cols),
		.block1 = block1,
	};
	struct int_scratch scratch;

	if (n <= VECTOR_ROWS || c.n_groups == 0) {
		avx512_matmul_int(y, y_stride, w, x, x_stride, n, block0, block1);
		return;
	}
	c.scratch = &scratch;
	for (size_t row = 0, passes = div_up(n, PASS_ROWS); row < n; row += c.n, passes--) {
		c.n = div_up(n - row, passes);
		c.y = y + row * y_stride;
		c.x = x + row;
		c.tiles = panel_tiles(c.n);
		c.height = min_u64(c.n, TILE_LINES);
		c.step_lines = div_up(GROUP_LINES, c.tiles);
		_tile_loadconfig(&configs[c.height - 1]);
		for (c.slice = 0; c.slice < c.n_groups; c.slice = c.end) {
			c.end = min_u64(c.slice + SLICE_GROUPS, c.n_groups);
			slice_run(&c, block0);
		}
		_tile_release();
	}
}
