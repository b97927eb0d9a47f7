/*
 * Products with matrices of integers, at most PASS_ROWS rows at a time: with so many the tile unit
 * is the limit, and reading the weights again for the next ones costs nothing.
 *
 * A few groups of some blocks are brought to signed bytes in the first cache, once for all rows: 8
 * bits less their zero, 4 bits times their multipliers. Sums of a group are exact; vectors put them
 * into the chain over groups, those of one step while tiles multiply the next. The chains of the
 * blocks at hand stand close together, since in y the rows of a tile fall into one set of a cache.
 * Inputs go by slices, which stay in the second cache for all blocks; between slices a chain waits
 * in y.
 */
#include "kernels/amx/amx.h"
#include "kernels/amx/panel.h"
#include "kernels/amx/tile.h"
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"

#include <string.h>

/* So few rows leave dot products time, and both give the same bits. */
#define VECTOR_ROWS 4
#define PASS_ROWS 128
#define SLICE_GROUPS 32 /* of PASS_ROWS rows: 768 KiB of inputs */
/* Blocks side by side: with one tile of rows, and with two. */
#define MAX_BLOCKS 4
#define PAIR_BLOCKS 2
#define AREA_GROUPS 2 /* at a time: few, to leave the first cache to sums, chains and inputs */
#define MAX_SUMS 4    /* tiles of a step */
#define GROUP_BYTES (2 * TILE_BYTES)
#define HALF_QUADS 16 /* lines of 4 bits, and of a tile */

struct int_call {
	float *y;
	size_t y_stride;
	const struct mat_int *w;
	const struct act_group *x;
	size_t x_stride;
	size_t n, n_groups;
	size_t tiles, height;
	size_t slice;  /* its first group */
	float *scales; /* of x in the slice, SLICE_GROUPS x PASS_ROWS */
};

/* Some blocks times some groups, in bytes:  numbers[block * groups + group]. */
struct int_area {
	size_t block, blocks;
	size_t group, groups;
	int8_t (*numbers)[GROUP_BYTES];
	float *chains;       /* rows x blocks x MAT_BLOCK */
	const uint8_t *next; /* codes of the area after this one */
};

/* One or two tiles of rows and one group; sums[tile * blocks + block]. The last tile ends with the
 * last row, so that it may begin with rows of the tile before; these are left to that one. */
struct int_step {
	size_t tiles;
	size_t row[2], skip[2];
	size_t group;
	int32_t (*sums)[TILE_BYTES / sizeof(int32_t)];
};

static void bytes_of_8(int8_t *ret, const uint8_t *codes)
{
	const __m512i zero = _mm512_set1_epi8((char)0x80);

	for (size_t i = 0; i < GROUP_BYTES; i += MAT_INT_LINE)
		_mm512_store_si512(ret + i, _mm512_xor_si512(_mm512_load_si512(codes + i), zero));
}

/* multiplier * (code - 8) of one sub-group: |multiplier| * code fits a byte, so that one
 * multiplication serves two codes, and the rest is a sum modulo 256. */
struct multiplier {
	__m512i size; /* in both words of a lane */
	__m512i sign; /* all ones if it is negative */
	__m512i zero; /* what to add after the bits were turned by the sign, in each byte */
};

static always_inline_ struct multiplier multiplier_of(__m512i bits, unsigned int subgroup)
{
	const __m512i four = _mm512_srli_epi32(bits, 4 * subgroup);
	struct multiplier m;
	__m512i bytes;

	m.size = _mm512_add_epi32(_mm512_and_si512(four, _mm512_set1_epi32(7)),
		_mm512_set1_epi32(MAT_INT_MULTIPLIER));
	m.size = _mm512_or_si512(m.size, _mm512_slli_epi32(m.size, 16));
	m.sign = _mm512_movm_epi32(_mm512_test_epi32_mask(four, _mm512_set1_epi32(8)));
	bytes = _mm512_or_si512(m.size, _mm512_slli_epi16(m.size, 8));
	bytes = _mm512_slli_epi16(bytes, 3);
	/* ~(size code) + 8 size + 1  or  size code - 8 size */
	m.zero = _mm512_mask_sub_epi8(_mm512_sub_epi8(_mm512_setzero_si512(), bytes),
		_mm512_movepi8_mask(m.sign), bytes, _mm512_set1_epi8(-1));
	return m;
}

static always_inline_ __m512i multiplied(__m512i codes, const struct multiplier *m)
{
	__m512i product = _mm512_mullo_epi16(codes, m->size);

	return _mm512_add_epi8(_mm512_xor_si512(product, m->sign), m->zero);
}

static void bytes_of_4(int8_t *ret, const uint8_t *codes, const uint16_t *multipliers)
{
	const __m512i low_half = _mm512_set1_epi8(0x0f);
	const __m512i bits = lanes_words(multipliers);

#pragma GCC unroll 2
	for (unsigned int half = 0; half < 2; half++) {
		struct multiplier low = multiplier_of(bits, half),
				  high = multiplier_of(bits, half + 2);

		for (size_t i = half * HALF_QUADS / 2; i < (half + 1) * HALF_QUADS / 2; i++) {
			__m512i line = _mm512_load_si512(codes + i * MAT_INT_LINE);
			__m512i upper = _mm512_and_si512(_mm512_srli_epi16(line, 4), low_half);

			_mm512_store_si512(ret + i * MAT_INT_LINE,
				multiplied(_mm512_and_si512(line, low_half), &low));
			_mm512_store_si512(
				ret + (i + HALF_QUADS) * MAT_INT_LINE, multiplied(upper, &high));
		}
	}
}

static const uint8_t *area_codes(const struct int_call *c, size_t block, size_t group)
{
	return c->w->codes + (block * c->n_groups + group) * mat_int_group_bytes(c->w->bits);
}

static void area_expand(const struct int_call *c, const struct int_area *a)
{
	for (size_t i = 0; i < a->blocks * a->groups; i++) {
		size_t block = a->block + i / a->groups, group = a->group + i % a->groups;
		const uint8_t *codes = area_codes(c, block, group);

		if (c->w->bits == 4)
			bytes_of_4(a->numbers[i], codes,
				c->w->multipliers + (block * c->n_groups + group) * MAT_BLOCK);
		else
			bytes_of_8(a->numbers[i], codes);
	}
	tile_memory_written();
}

/* Some lines, from line number `begin`, of the codes that the next area needs: asked for bit by bit
 * while tiles multiply, since a core has few loads from memory under way at a time. */
static void next_fetch(const struct int_call *c, const struct int_area *a, size_t begin, size_t n)
{
	const size_t lines = a->groups * mat_int_group_bytes(c->w->bits) / TILE_LINE;
	const size_t stride = c->n_groups * mat_int_group_bytes(c->w->bits);
	const size_t end = min_u64(begin + n, a->blocks * lines);

	for (size_t i = begin; i < end; i++)
		_mm_prefetch((const char *)a->next + i / lines * stride + i % lines * TILE_LINE,
			_MM_HINT_T1);
}

static always_inline_ __m512 block_scales(const struct int_call *c, size_t block, size_t group)
{
	return lanes_bf16(c->w->scales + (block * c->n_groups + group) * MAT_BLOCK);
}

/* The sums of one tile of rows go into the chains; `blocks` is a constant in each instance. */
static always_inline_ void tile_finish(const struct int_call *c, const struct int_area *a,
	const struct int_step *s, size_t tile, size_t blocks)
{
	const float *x = c->scales + (s->group - c->slice) * PASS_ROWS + s->row[tile];
	const int32_t(*sums)[TILE_BYTES / sizeof(int32_t)] = s->sums + tile * blocks;
	float *chain = a->chains + s->row[tile] * blocks * MAT_BLOCK;
	__m512 scales[MAX_BLOCKS];

#pragma GCC unroll 4
	for (size_t b = 0; b < blocks; b++)
		scales[b] = block_scales(c, a->block + b, s->group);
	for (size_t r = s->skip[tile]; r < c->height; r++) {
		__m512 scale = _mm512_set1_ps(x[r]);

#pragma GCC unroll 4
		for (size_t b = 0; b < blocks; b++) {
			float *at = chain + (r * blocks + b) * MAT_BLOCK;
			__m512i sum = _mm512_load_si512(sums[b] + r * MAT_BLOCK);

			_mm512_store_ps(
				at, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum),
					    _mm512_mul_ps(scales[b], scale), _mm512_load_ps(at)));
		}
	}
}

static void step_finish(
	const struct int_call *c, const struct int_area *a, const struct int_step *s)
{
	for (size_t t = 0; t < s->tiles; t++) {
		switch (a->blocks) {
		case 1:
			tile_finish(c, a, s, t, 1);
			break;
		case 2:
			tile_finish(c, a, s, t, 2);
			break;
		case 3:
			tile_finish(c, a, s, t, 3);
			break;
		case 4:
			tile_finish(c, a, s, t, 4);
			break;
		}
	}
}

/* One tile of rows. */
#define STEP_BLOCK(b)                                                                              \
	do {                                                                                       \
		const int8_t *numbers = a->numbers[(b)*a->groups + group];                         \
                                                                                                   \
		_tile_zero(b);                                                                     \
		_tile_loadd(4, numbers, TILE_LINE);                                                \
		_tile_dpbssd(b, 6, 4);                                                             \
		_tile_loadd(5, numbers + TILE_BYTES, TILE_LINE);                                   \
		_tile_dpbssd(b, 7, 5);                                                             \
		_tile_stored(b, s->sums[b], TILE_LINE);                                            \
	} while (0)

static void step_single(
	const struct int_call *c, const struct int_area *a, const struct int_step *s)
{
	const struct act_group *x = c->x + s->group * c->x_stride + s->row[0];
	const size_t group = s->group - a->group;

	_tile_loadd(6, x->codes, sizeof(*x));
	_tile_loadd(7, x->codes + MAT_INT_GROUP / 2, sizeof(*x));
	STEP_BLOCK(0);
	if (a->blocks > 1)
		STEP_BLOCK(1);
	if (a->blocks > 2)
		STEP_BLOCK(2);
	if (a->blocks > 3)
		STEP_BLOCK(3);
}

/* Two tiles of rows and two blocks; sums 0 and 1 are the upper tile's. */
static void step_pair(const struct int_call *c, const struct int_area *a, const struct int_step *s)
{
	const struct act_group *x = c->x + s->group * c->x_stride;
	const int8_t *upper = x[s->row[0]].codes, *lower = x[s->row[1]].codes;
	const int8_t *left = a->numbers[s->group - a->group];
	const int8_t *right = a->numbers[a->groups + s->group - a->group];

	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	for (size_t i = 0; i < MAT_INT_GROUP; i += MAT_INT_GROUP / 2) {
		_tile_loadd(6, upper + i, sizeof(*x));
		_tile_loadd(4, left, TILE_LINE);
		_tile_dpbssd(0, 6, 4);
		_tile_loadd(7, lower + i, sizeof(*x));
		_tile_dpbssd(2, 7, 4);
		_tile_loadd(5, right, TILE_LINE);
		_tile_dpbssd(1, 6, 5);
		_tile_dpbssd(3, 7, 5);
		left += TILE_BYTES;
		right += TILE_BYTES;
	}
	_tile_stored(0, s->sums[0], TILE_LINE);
	_tile_stored(2, s->sums[2], TILE_LINE);
	_tile_stored(1, s->sums[1], TILE_LINE);
	_tile_stored(3, s->sums[3], TILE_LINE);
}

/* Tiles [tile, tile + tiles) of the rows. */
static struct int_step step_of(const struct int_call *c, size_t tile, size_t tiles, size_t group)
{
	struct int_step step = {.tiles = tiles, .group = group};

	for (size_t t = 0; t < tiles; t++) {
		size_t row = (tile + t) * c->height;

		step.skip[t] = row + c->height > c->n ? row + c->height - c->n : 0;
		step.row[t] = row - step.skip[t];
	}
	return step;
}

static void area_compute(const struct int_call *c, const struct int_area *a)
{
	int32_t sums[2][MAX_SUMS][TILE_BYTES / sizeof(int32_t)] __attribute__((aligned(TILE_LINE)));
	const size_t side = a->blocks == PAIR_BLOCKS ? 2 : 1; /* tiles of a step */
	const size_t n_steps = div_up(c->tiles, side) * a->groups;
	const size_t lines = div_up(a->blocks * a->groups * GROUP_BYTES / TILE_LINE, n_steps);
	struct int_step before = {0};

	for (size_t i = 0; i < n_steps; i++) {
		size_t tile = i / a->groups * side, tiles = min_u64(side, c->tiles - tile);
		struct int_step step = step_of(c, tile, tiles, a->group + i % a->groups);

		step.sums = sums[i % 2];
		next_fetch(c, a, i * lines, lines);
		if (tiles == 2)
			step_pair(c, a, &step);
		else
			step_single(c, a, &step);
		step_finish(c, a, &before);
		before = step;
	}
	step_finish(c, a, &before);
}

/* The blocks' chains as far as y has them: from the slices before. */
static void chains_load(const struct int_call *c, const struct int_area *a)
{
	const size_t width = a->blocks * MAT_BLOCK;

	if (a->group == 0) {
		memset(a->chains, 0, c->n * width * sizeof(*a->chains));
		return;
	}
	for (size_t i = 0; i < c->n * a->blocks; i++) {
		size_t output = (a->block + i % a->blocks) * MAT_BLOCK;
		const float *y = c->y + i / a->blocks * c->y_stride + output;

		_mm512_store_ps(a->chains + i * MAT_BLOCK,
			_mm512_maskz_loadu_ps(lanes_before(c->w->rows - output), y));
	}
}

static void chains_store(const struct int_call *c, const struct int_area *a)
{
	for (size_t i = 0; i < c->n * a->blocks; i++) {
		size_t output = (a->block + i % a->blocks) * MAT_BLOCK;
		float *y = c->y + i / a->blocks * c->y_stride + output;

		_mm512_mask_storeu_ps(y, lanes_before(c->w->rows - output),
			_mm512_load_ps(a->chains + i * MAT_BLOCK));
	}
}

/* The blocks of an area times groups [a->group, end). */
static void area_run(const struct int_call *c, struct int_area a, size_t end)
{
	chains_load(c, &a);
	for (; a.group < end; a.group += a.groups) {
		a.groups = min_u64(end - a.group, AREA_GROUPS);
		a.next = a.group + a.groups < end ? area_codes(c, a.block, a.group + a.groups)
						  : area_codes(c, a.block + a.blocks, c->slice);
		area_expand(c, &a);
		area_compute(c, &a);
	}
	chains_store(c, &a);
}

/* Close together, they are two lines of a cache for a tile, and not one for each row. */
static void scales_gather(const struct int_call *c, size_t end)
{
	for (size_t g = c->slice; g < end; g++)
		for (size_t r = 0; r < c->n; r++)
			c->scales[(g - c->slice) * PASS_ROWS + r] = c->x[g * c->x_stride + r].scale;
}

static void pass_run(struct int_call *c, size_t block0, size_t block1)
{
	int8_t numbers[MAX_BLOCKS * AREA_GROUPS][GROUP_BYTES] __attribute__((aligned(TILE_LINE)));
	float chains[PASS_ROWS * PAIR_BLOCKS * MAT_BLOCK] __attribute__((aligned(TILE_LINE)));
	float scales[SLICE_GROUPS * PASS_ROWS];
	const size_t widest = c->tiles > 1 ? PAIR_BLOCKS : MAX_BLOCKS;

	c->scales = scales;
	for (c->slice = 0; c->slice < c->n_groups; c->slice += SLICE_GROUPS) {
		const size_t end = min_u64(c->slice + SLICE_GROUPS, c->n_groups);
		struct int_area a = {.group = c->slice, .numbers = numbers, .chains = chains};

		scales_gather(c, end);
		for (a.block = block0; a.block < block1; a.block += a.blocks) {
			a.blocks = min_u64(block1 - a.block, widest);
			area_run(c, a, end);
		}
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
	};

	if (n <= VECTOR_ROWS || c.n_groups == 0) {
		avx512_matmul_int(y, y_stride, w, x, x_stride, n, block0, block1);
		return;
	}
	for (size_t row = 0, passes = div_up(n, PASS_ROWS); row < n; row += c.n, passes--) {
		c.n = div_up(n - row, passes);
		c.y = y + row * y_stride;
		c.x = x + row;
		c.tiles = panel_tiles(c.n);
		c.height = panel_height(c.n);
		_tile_loadconfig(&tile_configs[c.height - 1]);
		pass_run(&c, block0, block1);
		_tile_release();
	}
}
