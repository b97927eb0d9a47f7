/*
 * Codes become numbers in registers: the codes of 16 neighbouring columns index a table that holds
 * scale * (code - zero) for each code, which is exact in f32. The table repeats with the period of
 * the width, so that the bits above a code need no masking.
 */
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"
#include "kernels/qmat.h"

#include <assert.h>

#define STEPS (QMAT_GROUP / QMAT_LANES) /* vectors of columns in a group */
#define DOT_TILE 4 /* rows of the matrix, and at most as many of x, by which dots are computed */

/* A group's codes as loaded, and its grid. */
struct group {
	__m512i planes[2];
	__m512 table; /* 8 bits: every lane is the scale */
	__m512i zero; /* 8 bits */
};

static always_inline_ __m512 f16_broadcast(uint16_t half)
{
	return _mm512_cvtph_ps(_mm256_set1_epi16((short)half));
}

static always_inline_ __m512i bytes_of_lanes(const uint8_t *at)
{
	return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at));
}

static always_inline_ __m512i words_of_lanes(const uint8_t *at)
{
	return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at));
}

/* Four bytes a lane, from eight: the lower (first 0) or the upper (first 1). */
static always_inline_ __m512i half_lanes(const uint8_t *at, int first)
{
	__m512i index = _mm512_add_epi32(_mm512_set1_epi32(first),
		_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30));

	return _mm512_permutex2var_epi32(
		_mm512_loadu_si512(at), index, _mm512_loadu_si512(at + 64));
}

static always_inline_ struct group group_load(const struct qmat *m, size_t index, int bits)
{
	const uint8_t *codes = m->codes + index * (size_t)(QMAT_LANES * bits);
	const __m512i code_of_entry = _mm512_and_si512(_mm512_set1_epi32((1 << bits) - 1),
		_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
	struct group g;

	g.zero = _mm512_set1_epi32(m->zeros[index]);
	g.table = f16_broadcast(m->scales[index]);
	if (bits < 8)
		g.table = _mm512_mul_ps(
			g.table, _mm512_cvtepi32_ps(_mm512_sub_epi32(code_of_entry, g.zero)));
	switch (bits) {
	case 2:
		g.planes[0] = words_of_lanes(codes);
		break;
	case 3:
		g.planes[0] = words_of_lanes(codes);
		g.planes[1] = bytes_of_lanes(codes + 2 * QMAT_LANES);
		break;
	case 4:
		g.planes[0] = _mm512_loadu_si512(codes);
		break;
	case 8:
		g.planes[0] = half_lanes(codes, 0);
		g.planes[1] = half_lanes(codes, 1);
		break;
	}
	return g;
}

/* Asks for the codes of a group that will be needed soon; any index is harmless. */
static always_inline_ void group_prefetch(const struct qmat *m, size_t index, int bits)
{
	const char *codes = (const char *)m->codes + index * (size_t)(QMAT_LANES * bits);

#pragma GCC unroll 2
	for (int byte = 0; byte < QMAT_LANES * bits; byte += 64)
		_mm_prefetch(codes + byte, _MM_HINT_T0);
}

/* The values of columns 16 step to 16 step + 15. */
static always_inline_ __m512 group_values(const struct group *g, int step, int bits)
{
	__m512i index, upper;

	if (bits == 8) {
		index = _mm512_srli_epi32(g->planes[step / 4], (unsigned int)(8 * (step % 4)));
		index = _mm512_and_si512(index, _mm512_set1_epi32(0xff));
		return _mm512_mul_ps(
			_mm512_cvtepi32_ps(_mm512_sub_epi32(index, g->zero)), g->table);
	}
	index = _mm512_srli_epi32(g->planes[0], (unsigned int)((bits == 4 ? 4 : 2) * step));
	if (bits == 3) {
		upper = step < 2 ? _mm512_slli_epi32(g->planes[1], (unsigned int)(2 - step))
				 : _mm512_srli_epi32(g->planes[1], (unsigned int)(step - 2));
		/* Bits 0 and 1 from the first plane, bit 2 from the second: m ? a : b. */
		index = _mm512_ternarylogic_epi32(_mm512_set1_epi32(3), index, upper, 0xca);
	}
	return _mm512_permutexvar_ps(index, g->table);
}

/*
 * `height` rows of the matrix from `row` on times `rows` rows of x: codes are expanded once for all
 * rows of x, and x is loaded once for all rows of the matrix.
 */
static always_inline_ void dot_tile(
	const struct qmat_dot *d, size_t row, int height, int rows, int bits)
{
	const size_t n_groups = qmat_groups(d->m->cols), n_full = d->m->cols / QMAT_GROUP;
	__m512 sums[DOT_TILE][DOT_TILE];

#pragma GCC unroll 4
	for (int r = 0; r < height; r++)
#pragma GCC unroll 4
		for (int t = 0; t < rows; t++)
			sums[r][t] = _mm512_setzero_ps();
	for (size_t g = 0; g < n_groups; g++) {
		const float *x = g < n_full ? d->x + g * QMAT_GROUP : d->tail[0];
		const size_t x_stride = g < n_full ? d->x_stride : QMAT_GROUP;
		struct group groups[DOT_TILE];

#pragma GCC unroll 4
		for (int r = 0; r < height; r++) {
			size_t index = (row + (size_t)r) * n_groups + g;

			groups[r] = group_load(d->m, index, bits);
			group_prefetch(d->m, index + DOT_TILE * n_groups, bits);
		}
#pragma GCC unroll 8
		for (int s = 0; s < STEPS; s++) {
			__m512 values[DOT_TILE];

#pragma GCC unroll 4
			for (int r = 0; r < height; r++)
				values[r] = group_values(&groups[r], s, bits);
#pragma GCC unroll 4
			for (int t = 0; t < rows; t++) {
				__m512 input =
					_mm512_loadu_ps(x + (size_t)t * x_stride + s * QMAT_LANES);

#pragma GCC unroll 4
				for (int r = 0; r < height; r++)
					sums[r][t] = _mm512_fmadd_ps(values[r], input, sums[r][t]);
			}
		}
	}
#pragma GCC unroll 4
	for (int r = 0; r < height; r++)
#pragma GCC unroll 4
		for (int t = 0; t < rows; t++)
			d->z[(size_t)t * d->z_stride + row + (size_t)r] = lanes_sum(sums[r][t]);
}

#define DOT(rows, bits)                                                                            \
	static void dot_##rows##_##bits(const struct qmat_dot *d, size_t row0, size_t row1)        \
	{                                                                                          \
		for (; row1 - row0 >= DOT_TILE; row0 += DOT_TILE)                                  \
			dot_tile(d, row0, DOT_TILE, rows, bits);                                   \
		for (; row0 < row1; row0++)                                                        \
			dot_tile(d, row0, 1, rows, bits);                                          \
	}
#define DOT_OF_BITS(bits) DOT(1, bits) DOT(2, bits) DOT(3, bits) DOT(4, bits)
DOT_OF_BITS(2)
DOT_OF_BITS(3)
DOT_OF_BITS(4)
DOT_OF_BITS(8)

#define DOT_ROW_OF(bits)                                                                           \
	{                                                                                          \
		dot_1_##bits, dot_2_##bits, dot_3_##bits, dot_4_##bits                             \
	}

/* By width, and by rows of x at once, less 1. */
static qmat_dot_fn *const dots[QMAT_MAX_BITS + 1][DOT_TILE] = {
	[2] = DOT_ROW_OF(2),
	[3] = DOT_ROW_OF(3),
	[4] = DOT_ROW_OF(4),
	[8] = DOT_ROW_OF(8),
};

void avx512_qmat_dot(float *z, size_t z_stride, const struct qmat *m, const float *x,
	size_t x_stride, size_t n, size_t row0, size_t row1)
{
	const struct qmat_dot d = {
		.z = z,
		.z_stride = z_stride,
		.m = m,
		.x = x,
		.x_stride = x_stride,
	};

	assert(m->bits <= QMAT_MAX_BITS && dots[m->bits][0]);
	if (row0 < row1)
		qmat_dot_by_rows(d, n, dots[m->bits], DOT_TILE, row0, row1);
}

/* `row` is the first of `height` rows of the matrix. The sums of a group's 128 columns stay in
 * registers while they pass by. */
static always_inline_ void accumulate_group(
	const struct qmat_sum *a, size_t group, size_t row, size_t height, int rows, int bits)
{
	const size_t n_groups = qmat_groups(a->m->cols), left = a->m->cols - group * QMAT_GROUP;
	float *y = a->y + group * QMAT_GROUP;
	__m512 sums[QMAT_SUM_ROWS][STEPS];

#pragma GCC unroll 3
	for (int t = 0; t < rows; t++)
#pragma GCC unroll 8
		for (size_t s = 0; s < STEPS; s++)
			sums[t][s] = _mm512_maskz_loadu_ps(lanes_of_vector(s, left),
				y + (size_t)t * a->y_stride + s * QMAT_LANES);
	for (size_t r = row; r < row + height; r++) {
		struct group grid = group_load(a->m, r * n_groups + group, bits);

		group_prefetch(a->m, (r + QMAT_SUM_HEIGHT) * n_groups + group, bits);
#pragma GCC unroll 8
		for (int s = 0; s < STEPS; s++) {
			__m512 values = group_values(&grid, s, bits);

#pragma GCC unroll 3
			for (int t = 0; t < rows; t++)
				sums[t][s] = _mm512_fmadd_ps(values,
					_mm512_set1_ps(a->z[(size_t)t * a->z_stride + r]),
					sums[t][s]);
		}
	}
#pragma GCC unroll 3
	for (int t = 0; t < rows; t++)
#pragma GCC unroll 8
		for (size_t s = 0; s < STEPS; s++)
			_mm512_mask_storeu_ps(y + (size_t)t * a->y_stride + s * QMAT_LANES,
				lanes_of_vector(s, left), sums[t][s]);
}

#define ACCUMULATE(rows, bits)                                                                     \
	static void accumulate_##rows##_##bits(                                                    \
		const struct qmat_sum *a, size_t group, size_t row, size_t height)                 \
	{                                                                                          \
		accumulate_group(a, group, row, height, rows, bits);                               \
	}
#define ACCUMULATE_OF_BITS(bits) ACCUMULATE(1, bits) ACCUMULATE(2, bits) ACCUMULATE(3, bits)
ACCUMULATE_OF_BITS(2)
ACCUMULATE_OF_BITS(3)
ACCUMULATE_OF_BITS(4)
ACCUMULATE_OF_BITS(8)

/* By width, and by rows of z at once, less 1. */
static qmat_sum_fn *const accumulates[QMAT_MAX_BITS + 1][QMAT_SUM_ROWS] = {
	[2] = {accumulate_1_2, accumulate_2_2, accumulate_3_2},
	[3] = {accumulate_1_3, accumulate_2_3, accumulate_3_3},
	[4] = {accumulate_1_4, accumulate_2_4, accumulate_3_4},
	[8] = {accumulate_1_8, accumulate_2_8, accumulate_3_8},
};

void avx512_qmat_accumulate(float *y, size_t y_stride, const struct qmat *m, const float *z,
	size_t z_stride, size_t n, size_t group0, size_t group1)
{
	const struct qmat_sum a = {
		.y = y,
		.y_stride = y_stride,
		.m = m,
		.z = z,
		.z_stride = z_stride,
	};

	assert(m->bits <= QMAT_MAX_BITS && accumulates[m->bits][0]);
	qmat_sum_by_rows(a, n, accumulates[m->bits], group0, group1);
}
