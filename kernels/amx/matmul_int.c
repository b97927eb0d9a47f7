/*
 * Products with matrices of integers. A few groups of some blocks are brought to signed bytes in
 * the first cache, once for all rows: 8 bits less their zero, 4 bits times their multipliers. Sums
 * of a group are exact; vectors put them into the chain over groups, those of one group while tiles
 * multiply the next.
 */
#include "kernels/amx/amx.h"
#include "kernels/amx/panel.h"
#include "kernels/amx/tile.h"
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"

/* So few rows leave dot products time, and both give the same bits. */
#define VECTOR_ROWS 4
#define MAX_BLOCKS 4
#define MAX_GROUPS 2 /* at a time: 16 KiB of bytes */
#define GROUP_BYTES (2 * TILE_BYTES)
#define AHEAD_BYTES 4096
#define HALF_QUADS 16 /* lines of 4 bits, and of a tile */

struct int_call {
	float *y;
	size_t y_stride;
	const struct mat_int *w;
	const struct act_group *x;
	size_t x_stride;
	size_t n, n_groups;
	size_t tiles, height;
};

/* Some blocks times some groups, in bytes:  numbers[block][group]. */
struct int_area {
	size_t block, blocks;
	size_t group, groups;
	int8_t (*numbers)[MAX_GROUPS][GROUP_BYTES];
};

/* One tile of rows and one group; sums[block]. The last tile ends with the last row, so that it may
 * begin with rows of the tile before; these are left to that one. */
struct int_step {
	size_t row, skip, group;
	int32_t (*sums)[TILE_BYTES / sizeof(int32_t)];
};

static void bytes_of_8(int8_t *ret, const uint8_t *codes)
{
	const __m512i zero = _mm512_set1_epi8((char)0x80);

	for (size_t i = 0; i < GROUP_BYTES; i += MAT_INT_LINE) {
		_mm_prefetch((const char *)codes + i + AHEAD_BYTES, _MM_HINT_T0);
		_mm512_store_si512(ret + i, _mm512_xor_si512(_mm512_load_si512(codes + i), zero));
	}
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
	const __m512i bits = _mm512_cvtepu16_epi32(
		_mm256_loadu_si256((const __m256i *)(const void *)multipliers));

#pragma GCC unroll 2
	for (unsigned int half = 0; half < 2; half++) {
		struct multiplier low = multiplier_of(bits, half),
				  high = multiplier_of(bits, half + 2);

		for (size_t i = half * HALF_QUADS / 2; i < (half + 1) * HALF_QUADS / 2; i++) {
			__m512i line = _mm512_load_si512(codes + i * MAT_INT_LINE);
			__m512i upper = _mm512_and_si512(_mm512_srli_epi16(line, 4), low_half);

			_mm_prefetch(
				(const char *)codes + i * MAT_INT_LINE + AHEAD_BYTES, _MM_HINT_T0);
			_mm512_store_si512(ret + i * MAT_INT_LINE,
				multiplied(_mm512_and_si512(line, low_half), &low));
			_mm512_store_si512(
				ret + (i + HALF_QUADS) * MAT_INT_LINE, multiplied(upper, &high));
		}
	}
}

static void area_expand(const struct int_call *c, const struct int_area *a)
{
	for (size_t g = 0; g < a->groups; g++) {
		for (size_t b = 0; b < a->blocks; b++) {
			size_t index = (a->block + b) * c->n_groups + a->group + g;
			const uint8_t *codes =
				c->w->codes + index * mat_int_group_bytes(c->w->bits);

			if (c->w->bits == 4)
				bytes_of_4(a->numbers[b][g], codes,
					c->w->multipliers + index * MAT_BLOCK);
			else
				bytes_of_8(a->numbers[b][g], codes);
		}
	}
	tile_memory_written();
}

#define STEP_BLOCK(b)                                                                              \
	do {                                                                                       \
		_tile_zero(b);                                                                     \
		_tile_loadd(4, a->numbers[b][group], TILE_LINE);                                   \
		_tile_dpbssd(b, 6, 4);                                                             \
		_tile_loadd(5, a->numbers[b][group] + TILE_BYTES, TILE_LINE);                      \
		_tile_dpbssd(b, 7, 5);                                                             \
		_tile_stored(b, s->sums[b], TILE_LINE);                                            \
	} while (0)

static void step_multiply(
	const struct int_call *c, const struct int_area *a, const struct int_step *s)
{
	const struct act_group *x = c->x + s->group * c->x_stride + s->row;
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

/* The sums of a group go into the chains. */
static void step_finish(
	const struct int_call *c, const struct int_area *a, const struct int_step *s)
{
	const struct act_group *x = c->x + s->group * c->x_stride + s->row;

	for (size_t b = 0; b < a->blocks; b++) {
		size_t block = a->block + b, index = block * c->n_groups + s->group;
		__mmask16 lanes = lanes_before(c->w->rows - block * MAT_BLOCK);
		__mmask16 so_far = s->group > 0 ? lanes : 0;
		__m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(
			_mm512_cvtepu16_epi32(_mm256_loadu_si256(
				(const __m256i *)(const void *)(c->w->scales + index * MAT_BLOCK))),
			16));
		float *y = c->y + (s->row + s->skip) * c->y_stride + block * MAT_BLOCK;

		for (size_t r = s->skip; r < c->height; r++, y += c->y_stride) {
			__m512i sums = _mm512_load_si512(s->sums[b] + r * MAT_BLOCK);
			__m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(x[r].scale));

			_mm512_mask_storeu_ps(y, lanes,
				_mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), factor,
					_mm512_maskz_loadu_ps(so_far, y)));
		}
	}
}

static struct int_step step_of(const struct int_call *c, size_t tile, size_t group)
{
	struct int_step step = {.row = tile * c->height, .group = group};

	step.skip = step.row + c->height > c->n ? step.row + c->height - c->n : 0;
	step.row -= step.skip;
	return step;
}

static void area_compute(const struct int_call *c, const struct int_area *a)
{
	int32_t sums[2][MAX_BLOCKS][TILE_BYTES / sizeof(int32_t)]
		__attribute__((aligned(TILE_LINE)));
	const size_t n_steps = c->tiles * a->groups;
	struct int_step before = {0};

	for (size_t i = 0; i < n_steps; i++) {
		struct int_step step = step_of(c, i / a->groups, a->group + i % a->groups);

		step.sums = sums[i % 2];
		step_multiply(c, a, &step);
		if (i > 0)
			step_finish(c, a, &before);
		before = step;
	}
	step_finish(c, a, &before);
}

/* No inputs at all: sums of 0. */
static void clear(const struct int_call *c, size_t block0, size_t block1)
{
	for (size_t t = 0; t < c->n; t++)
		for (size_t o = block0 * MAT_BLOCK; o < min_u64(block1 * MAT_BLOCK, c->w->rows);
			o++)
			c->y[t * c->y_stride + o] = 0;
}

static void call_run(const struct int_call *c, size_t block0, size_t block1)
{
	int8_t numbers[MAX_BLOCKS][MAX_GROUPS][GROUP_BYTES] __attribute__((aligned(TILE_LINE)));
	struct int_area a = {.numbers = numbers};

	for (a.block = block0; a.block < block1; a.block += a.blocks) {
		a.blocks = min_u64(block1 - a.block, MAX_BLOCKS);
		for (a.group = 0; a.group < c->n_groups; a.group += a.groups) {
			a.groups = min_u64(c->n_groups - a.group, MAX_GROUPS);
			area_expand(c, &a);
			area_compute(c, &a);
		}
	}
}

void amx_matmul_int(float *y, size_t y_stride, const struct mat_int *w, const struct act_group *x,
	size_t x_stride, size_t n, size_t block0, size_t block1)
{
	struct int_call c = {
		.y = y,
		.y_stride = y_stride,
		.w = w,
		.x = x,
		.x_stride = x_stride,
		.n = n,
		.n_groups = mat_int_groups(w->cols),
	};

	if (n <= VECTOR_ROWS) {
		avx512_matmul_int(y, y_stride, w, x, x_stride, n, block0, block1);
		return;
	}
	if (c.n_groups == 0) {
		clear(&c, block0, block1);
		return;
	}
	c.tiles = panel_tiles(n);
	c.height = panel_height(n);
	_tile_loadconfig(&tile_configs[c.height - 1]);
	call_run(&c, block0, block1);
	_tile_release();
}
