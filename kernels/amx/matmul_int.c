/*
 * Products with matrices of integers, at most PASS_ROWS rows at a time.
 *
 * Two blocks go side by side, group by group: the weights of a group stay in four tile registers
 * while the tiles of rows pass. Sums of a group are exact; vectors put them into the chain over
 * groups. A tile of rows in one group is a step. Its tile instructions stand far apart, since
 * crowded they hold each other up (tile_space()): between them vectors finish the step before the
 * last one. Between steps some weights of the next group are expanded, and later ones fetched.
 *
 * The chains of the blocks at hand stand close together, since in y the rows of a tile fall into
 * one set of a cache. Inputs go by slices, which stay in the second cache for all blocks; between
 * slices a chain waits in y.
 */
#include "kernels/amx/amx.h"
#include "kernels/amx/expand.h"
#include "kernels/amx/panel.h"
#include "kernels/amx/tile.h"
#include "kernels/avx512/avx512.h"

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
#define FETCH_GROUPS 4  /* from those that are multiplied to those asked for from memory */
#define FETCH_LINES 4   /* one of so many is asked for; the cache then brings the others itself */
/* A step's rows are finished by shares, between the tile instructions of a later step. */
#define N_SHARES 8
#define SHARE_ROWS (TILE_LINES / N_SHARES)

/* One pass over the rows, for blocks up to block1 and groups [slice, end). */
struct int_call {
	float *y;
	size_t y_stride;
	const struct mat_int *w;
	const struct act_group *x;
	size_t x_stride;
	size_t n, n_groups;
	size_t tiles, height;
	size_t step_units, step_fetches; /* that a step expands, and fetches of each block */
	size_t block1;
	size_t slice, end;
	float *scales; /* of x in the slice, SLICE_GROUPS x PASS_ROWS */
};

/* Some blocks' weights of one group; no blocks: past the end. */
struct int_place {
	size_t block, blocks;
	size_t group;
};

typedef int8_t group_bytes[EXPAND_GROUP_BYTES];
typedef int32_t tile_sums[TILE_BYTES / sizeof(int32_t)];

/* One tile of rows in one group. */
struct int_step {
	const float *scales; /* of the weights: MAT_BLOCK for each block */
	const float *x;      /* of the rows */
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
	group_bytes (*numbers)[MAX_BLOCKS];      /* two groups: that of this moment, and the next */
	size_t turn;                             /* which of the two is this moment's */
	float (*scales)[MAX_BLOCKS * MAT_BLOCK]; /* those of the last N_STEPS groups */
	size_t group;                            /* number of this moment's, likewise */
	float *chains;                           /* rows x blocks x MAT_BLOCK */
};

/* So many groups further on, in the order in which weights are multiplied. */
static struct int_place place_after(const struct int_call *c, struct int_place p, size_t groups)
{
	p.group += groups;
	while (p.group >= c->end && p.blocks > 0) {
		p.group -= c->end - c->slice;
		p.block += p.blocks;
		p.blocks = min_u64(c->block1 - p.block, MAX_BLOCKS);
	}
	return p;
}

static size_t place_lane(const struct int_call *c, const struct int_place *p, size_t b)
{
	return (p->block + b) * c->n_groups + p->group;
}

static const uint8_t *place_codes(const struct int_call *c, const struct int_place *p, size_t b)
{
	return c->w->codes + place_lane(c, p, b) * mat_int_group_bytes(c->w->bits);
}

/* Units [begin, begin + n) of a group's weights. */
static void numbers_expand(const struct int_call *c, const struct int_place *p,
	group_bytes numbers[MAX_BLOCKS], size_t begin, size_t n)
{
	const size_t units = expand_units(c->w->bits);
	const size_t end = min_u64(begin + n, p->blocks * units);

	for (size_t i = begin; i < end; i++) {
		size_t b = i >= units;

		expand_unit(numbers[b], place_codes(c, p, b),
			c->w->bits == 4 ? c->w->grids + place_lane(c, p, b) * MAT_INT_GRIDS : NULL,
			c->w->bits, i - b * units);
	}
}

/* Fetches [begin, begin + n) of each block. */
static void codes_fetch(const struct int_call *c, const struct int_place *p, size_t begin, size_t n)
{
	const size_t stride = FETCH_LINES * TILE_LINE;
	const size_t end = min_u64((begin + n) * stride, mat_int_group_bytes(c->w->bits));

	for (size_t b = 0; b < p->blocks; b++)
		for (size_t at = begin * stride; at < end; at += stride)
			_mm_prefetch((const char *)place_codes(c, p, b) + at, _MM_HINT_T1);
}

/* `blocks` and `whole` are constants in each instance, here and below. */
static always_inline_ void row_finish(const struct int_step *s, const tile_sums *sums,
	const __m512 scales[static MAX_BLOCKS], size_t r, size_t blocks)
{
	const __m512 scale = _mm512_set1_ps(s->x[r]);

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
static always_inline_ void weights_load(const group_bytes *numbers, size_t blocks)
{
	tile_order();
	_tile_loadd(4, numbers[0], TILE_LINE);
	_tile_loadd(5, numbers[0] + TILE_BYTES, TILE_LINE);
	if (blocks == 1)
		return;
	_tile_loadd(6, numbers[1], TILE_LINE);
	_tile_loadd(7, numbers[1] + TILE_BYTES, TILE_LINE);
}

/* Multiplies rows x, as this step of the run. The second block's sums stay in their register until
 * the next step is under way. */
static always_inline_ void rows_multiply(
	const struct int_run *run, const struct act_group *x, size_t blocks, bool whole)
{
	tile_sums *now = run->sums[run->step % N_STEPS];
	tile_sums *before = run->sums[(run->step - 1) % N_STEPS];
	const tile_sums *sums = run->sums[(run->step - 2) % N_STEPS];
	const struct int_step *s = &run->steps[(run->step - 2) % N_STEPS];
	__m512 scales[MAX_BLOCKS];

#pragma GCC unroll 2
	for (size_t b = 0; b < blocks; b++)
		scales[b] = _mm512_load_ps(s->scales + b * MAT_BLOCK);
#define SHARE(i) share_finish(s, sums, scales, i, blocks, whole)
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

static const struct act_group *tile_inputs(const struct int_call *c, size_t group, size_t tile)
{
	return c->x + group * c->x_stride + tile_row(c, tile);
}

static struct int_step step_of(
	const struct int_call *c, const struct int_run *run, const struct int_place *p, size_t tile)
{
	const size_t row = tile_row(c, tile);

	return (struct int_step){
		.scales = run->scales[run->group % N_STEPS],
		.x = c->scales + (p->group - c->slice) * PASS_ROWS + row,
		.chain = run->chains + row * p->blocks * MAT_BLOCK,
		.skip = tile * c->height - row,
		.end = c->height,
	};
}

static bool step_whole(const struct int_step *s)
{
	return s->end - s->skip == TILE_LINES;
}

/* All tiles of rows in one group, and the next group's weights made ready. */
static always_inline_ void group_run(
	const struct int_call *c, struct int_run *run, const struct int_place *p, size_t blocks)
{
	const struct int_place next = place_after(c, *p, 1),
			       later = place_after(c, *p, FETCH_GROUPS);
	group_bytes *expanded = run->numbers[!run->turn];

	for (size_t b = 0; b < blocks; b++)
		expand_scales(run->scales[run->group % N_STEPS] + b * MAT_BLOCK, c->w,
			place_lane(c, p, b));
	weights_load(run->numbers[run->turn], blocks);
	for (size_t tile = 0; tile < c->tiles; tile++, run->step++) {
		const struct int_step *s = &run->steps[(run->step - 2) % N_STEPS];
		const struct act_group *x = tile_inputs(c, p->group, tile);

		codes_fetch(c, &later, tile * c->step_fetches, c->step_fetches);
		numbers_expand(c, &next, expanded, tile * c->step_units, c->step_units);
		run->steps[run->step % N_STEPS] = step_of(c, run, p, tile);
		if (step_whole(s))
			rows_multiply(run, x, blocks, true);
		else
			rows_multiply(run, x, blocks, false);
	}
	run->turn = !run->turn;
	run->group++;
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
			scales[b] = _mm512_load_ps(s->scales + b * MAT_BLOCK);
		for (size_t r = s->skip; r < s->end; r++)
			row_finish(s, run->sums[i % N_STEPS], scales, r, blocks);
		s->end = s->skip;
	}
}

/* The blocks' chains as far as y has them: from the slices before. */
static void chains_load(const struct int_call *c, const struct int_place *p, float *chains)
{
	if (c->slice == 0) {
		memset(chains, 0, c->n * p->blocks * MAT_BLOCK * sizeof(*chains));
		return;
	}
	for (size_t i = 0; i < c->n * p->blocks; i++) {
		size_t output = (p->block + i % p->blocks) * MAT_BLOCK;
		const float *y = c->y + i / p->blocks * c->y_stride + output;

		_mm512_store_ps(chains + i * MAT_BLOCK,
			_mm512_maskz_loadu_ps(lanes_before(c->w->rows - output), y));
	}
}

static void chains_store(const struct int_call *c, const struct int_place *p, const float *chains)
{
	for (size_t i = 0; i < c->n * p->blocks; i++) {
		size_t output = (p->block + i % p->blocks) * MAT_BLOCK;
		float *y = c->y + i / p->blocks * c->y_stride + output;

		_mm512_mask_storeu_ps(y, lanes_before(c->w->rows - output),
			_mm512_load_ps(chains + i * MAT_BLOCK));
	}
}

/* Some blocks in all groups of the slice. */
static always_inline_ void blocks_run(
	const struct int_call *c, struct int_run *run, struct int_place p, size_t blocks)
{
	chains_load(c, &p, run->chains);
	for (; p.group < c->end; p.group++)
		group_run(c, run, &p, blocks);
	run_finish(run, blocks);
	chains_store(c, &p, run->chains);
}

/* Close together, they are two lines of a cache for a tile, and not one for each row. */
static void scales_gather(const struct int_call *c)
{
	for (size_t g = c->slice; g < c->end; g++)
		for (size_t r = 0; r < c->n; r++)
			c->scales[(g - c->slice) * PASS_ROWS + r] = c->x[g * c->x_stride + r].scale;
}

static void slice_run(const struct int_call *c, size_t block0)
{
	tile_sums sums[N_STEPS][MAX_BLOCKS] __attribute__((aligned(TILE_LINE)));
	group_bytes numbers[2][MAX_BLOCKS] __attribute__((aligned(TILE_LINE)));
	float chains[PASS_ROWS * MAX_BLOCKS * MAT_BLOCK] __attribute__((aligned(TILE_LINE)));
	float scales[N_STEPS][MAX_BLOCKS * MAT_BLOCK] __attribute__((aligned(TILE_LINE)));
	struct int_run run = {.sums = sums,
		.numbers = numbers,
		.chains = chains,
		.scales = scales,
		.step = N_STEPS};
	struct int_place p = {
		.block = block0,
		.blocks = min_u64(c->block1 - block0, MAX_BLOCKS),
		.group = c->slice,
	};

	for (size_t i = 0; i < N_STEPS; i++)
		run.steps[i] = (struct int_step){.scales = scales[0]};
	scales_gather(c);
	numbers_expand(c, &p, numbers[0], 0, MAX_BLOCKS * expand_units(c->w->bits));
	for (; p.blocks > 0; p = place_after(c, p, c->end - c->slice)) {
		if (p.blocks == 2)
			blocks_run(c, &run, p, 2);
		else
			blocks_run(c, &run, p, 1);
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
	float scales[SLICE_GROUPS * PASS_ROWS];

	if (n <= VECTOR_ROWS || c.n_groups == 0) {
		avx512_matmul_int(y, y_stride, w, x, x_stride, n, block0, block1);
		return;
	}
	c.scales = scales;
	for (size_t row = 0, passes = div_up(n, PASS_ROWS); row < n; row += c.n, passes--) {
		c.n = div_up(n - row, passes);
		c.y = y + row * y_stride;
		c.x = x + row;
		c.tiles = panel_tiles(c.n);
		c.height = min_u64(c.n, TILE_LINES);
		c.step_units = div_up(MAX_BLOCKS * expand_units(w->bits), c.tiles);
		c.step_fetches =
			div_up(mat_int_group_bytes(w->bits) / (FETCH_LINES * TILE_LINE), c.tiles);
		_tile_loadconfig(&configs[c.height - 1]);
		for (c.slice = 0; c.slice < c.n_groups; c.slice = c.end) {
			c.end = min_u64(c.slice + SLICE_GROUPS, c.n_groups);
			slice_run(&c, block0);
		}
		_tile_release();
	}
}
