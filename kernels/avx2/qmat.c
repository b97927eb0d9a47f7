/*
 * Codes become numbers in registers: those of up to 3 bits index a table of the 8 values
 * step * scale * (code - zero), which repeats with the period of the width, so that the bits above
 * a code need no masking; wider ones are masked, moved by the zero point and scaled.
 */
#include "kernels/avx2/avx2.h"

#include "kernels/avx2/lanes.h"
#include "kernels/qmat.h"

#include <assert.h>

#define STEPS (QMAT_GROUP / QMAT_LANES) /* times 16 columns in a group */
#define DOT_TILE 2 /* rows of the matrix, and at most as many of x, by which dots are computed */
#define MAX_SUM_STEPS 4

#define TABLE_BITS 3 /* codes up to this width are looked up */

/* A group's codes as loaded, by plane and by lanes 0 to 7 and 8 to 15, and its grid. */
struct group {
	__m256i planes[3][2];
	const uint8_t *numbers; /* 16 and 32 bits */
	__m256 factor;
	__m256 zero;
	__m256 table;
};

static always_inline_ __m256i bytes_of_lanes(const uint8_t *at)
{
	return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at));
}

static always_inline_ __m256i words_of_lanes(const uint8_t *at)
{
	return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at));
}

static always_inline_ __m256i dwords_of_lanes(const uint8_t *at)
{
	return _mm256_loadu_si256((const __m256i *)at);
}

/* From eight bytes a lane, the lower four and the upper four. */
static always_inline_ void qwords_of_lanes(__m256i ret[2], const uint8_t *at)
{
	__m256 a = _mm256_castsi256_ps(dwords_of_lanes(at));
	__m256 b = _mm256_castsi256_ps(dwords_of_lanes(at + 32));
	__m256i low = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
	__m256i high = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));

	ret[0] = _mm256_permute4x64_epi64(low, 0xd8);
	ret[1] = _mm256_permute4x64_epi64(high, 0xd8);
}

/* Lanes 8 half to 8 half + 7 of every plane. */
static always_inline_ void planes_load_half(
	struct group *g, const uint8_t *codes, int half, int bits)
{
	__m256i halves[2];

	switch (bits) {
	case 1:
		g->planes[0][half] = bytes_of_lanes(codes + half * 8);
		break;
	case 2:
		g->planes[0][half] = words_of_lanes(codes + half * 16);
		break;
	case 3:
		g->planes[0][half] = words_of_lanes(codes + half * 16);
		g->planes[1][half] = bytes_of_lanes(codes + 2 * QMAT_LANES + half * 8);
		break;
	case 4:
		g->planes[0][half] = dwords_of_lanes(codes + half * 32);
		break;
	case 5:
		g->planes[0][half] = dwords_of_lanes(codes + half * 32);
		g->planes[1][half] = bytes_of_lanes(codes + 4 * QMAT_LANES + half * 8);
		break;
	case 6:
		g->planes[0][half] = dwords_of_lanes(codes + half * 32);
		g->planes[1][half] = words_of_lanes(codes + 4 * QMAT_LANES + half * 16);
		break;
	case 7:
		g->planes[0][half] = dwords_of_lanes(codes + half * 32);
		g->planes[1][half] = words_of_lanes(codes + 4 * QMAT_LANES + half * 16);
		g->planes[2][half] = bytes_of_lanes(codes + 6 * QMAT_LANES + half * 8);
		break;
	case 8:
		qwords_of_lanes(halves, codes + half * 64);
		g->planes[0][half] = halves[0];
		g->planes[1][half] = halves[1];
		break;
	}
}

static always_inline_ struct group group_load(
	const struct qmat *m, size_t n_groups, size_t row, size_t group, int bits)
{
	const __m256i code_of_entry = _mm256_and_si256(
		_mm256_set1_epi32((1 << bits % 32) - 1), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
	const size_t index = row * n_groups + group;
	struct group g;

	g.numbers = m->codes + index * (size_t)(QMAT_LANES * bits);
	g.factor = _mm256_set1_ps(m->step);
	if (bits > QMAT_MAX_BITS)
		return g;
	planes_load_half(&g, g.numbers, 0, bits);
	planes_load_half(&g, g.numbers, 1, bits);
	if (m->scales)
		g.factor = _mm256_mul_ps(g.factor,
			_mm256_cvtph_ps(_mm_set1_epi16(
				(short)m->scales[row * m->scale_row + group * m->scale_group])));
	g.zero = m->zeros ? _mm256_cvtepi32_ps(_mm256_set1_epi32(m->zeros[index]))
			  : _mm256_set1_ps(m->zero);
	if (bits <= TABLE_BITS)
		g.table = _mm256_mul_ps(
			g.factor, _mm256_sub_ps(_mm256_cvtepi32_ps(code_of_entry), g.zero));
	return g;
}

/* Asks for the codes of a group that will be needed soon; any index is harmless. */
static always_inline_ void group_prefetch(const struct qmat *m, size_t index, int bits)
{
	const char *codes = (const char *)m->codes + index * (size_t)(QMAT_LANES * bits);

#pragma GCC unroll 8
	for (int byte = 0; byte < QMAT_LANES * bits; byte += 64)
		_mm_prefetch(codes + byte, _MM_HINT_T0);
}

/* Bits of `plane`, `width` wide, of sub-position `step`, moved to bit `to`; the others are 0. */
static always_inline_ __m256i plane_bits(__m256i plane, int width, int step, int to)
{
	int right = width * step - to;

	plane = right < 0 ? _mm256_slli_epi32(plane, -right) : _mm256_srli_epi32(plane, right);
	return _mm256_and_si256(plane, _mm256_set1_epi32(((1 << width) - 1) << to));
}

/* The codes of columns 16 step + 8 half and the seven after it. */
static always_inline_ __m256i group_codes(const struct group *g, int step, int half, int bits)
{
	__m256i codes;

	switch (bits) {
	case 1:
		return plane_bits(g->planes[0][half], 1, step, 0);
	case 2:
		return plane_bits(g->planes[0][half], 2, step, 0);
	case 3:
		codes = plane_bits(g->planes[0][half], 2, step, 0);
		return _mm256_or_si256(codes, plane_bits(g->planes[1][half], 1, step, 2));
	case 8:
		return plane_bits(g->planes[step / 4][half], 8, step % 4, 0);
	}
	codes = plane_bits(g->planes[0][half], 4, step, 0);
	if (bits > 4)
		codes = _mm256_or_si256(
			codes, plane_bits(g->planes[1][half], bits == 5 ? 1 : 2, step, 4));
	if (bits == 7)
		codes = _mm256_or_si256(codes, plane_bits(g->planes[2][half], 1, step, 6));
	return codes;
}

/* The values of columns 16 step + 8 half and the seven after it. */
static always_inline_ __m256 group_values(const struct group *g, int step, int half, int bits)
{
	const uint8_t *at = g->numbers + (step * QMAT_LANES + half * 8) * bits / 8;
	__m256i codes;

	if (bits == 16)
		return _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128((const void *)at)), g->factor);
	if (bits == 32)
		return _mm256_mul_ps(_mm256_loadu_ps((const void *)at), g->factor);
	/* Only the lowest three bits of an index count. */
	if (bits <= 2)
		return _mm256_permutevar8x32_ps(
			g->table, _mm256_srli_epi32(g->planes[0][half], bits * step));
	codes = group_codes(g, step, half, bits);
	if (bits <= TABLE_BITS)
		return _mm256_permutevar8x32_ps(g->table, codes);
	return _mm256_mul_ps(_mm256_sub_ps(_mm256_cvtepi32_ps(codes), g->zero), g->factor);
}

/*
 * `height` rows of the matrix from `row` on times `rows` rows of x: codes are expanded once for all
 * rows of x, and x is loaded once for all rows of the matrix.
 */
static always_inline_ void dot_tile(
	const struct qmat_dot *d, size_t row, int height, int rows, int bits)
{
	const size_t n_groups = qmat_groups(d->m->cols), n_full = d->m->cols / QMAT_GROUP;
	__m256 sums[DOT_TILE][DOT_TILE][2];

#pragma GCC unroll 2
	for (int r = 0; r < height; r++)
#pragma GCC unroll 2
		for (int t = 0; t < rows; t++)
			sums[r][t][0] = sums[r][t][1] = _mm256_setzero_ps();
	for (size_t g = 0; g < n_groups; g++) {
		const float *x = g < n_full ? d->x + g * QMAT_GROUP : d->tail[0];
		const size_t x_stride = g < n_full ? d->x_stride : QMAT_GROUP;
		struct group groups[DOT_TILE];

#pragma GCC unroll 2
		for (int r = 0; r < height; r++) {
			size_t index = (row + (size_t)r) * n_groups + g;

			groups[r] = group_load(d->m, n_groups, row + (size_t)r, g, bits);
			group_prefetch(d->m, index + DOT_TILE * n_groups, bits);
		}
#pragma GCC unroll 16
		for (int s = 0; s < 2 * STEPS; s++) {
#pragma GCC unroll 2
			for (int r = 0; r < height; r++) {
				__m256 values = group_values(&groups[r], s / 2, s % 2, bits);

#pragma GCC unroll 2
				for (int t = 0; t < rows; t++)
					sums[r][t][s % 2] = _mm256_fmadd_ps(values,
						_mm256_loadu_ps(x + (size_t)t * x_stride + s * 8),
						sums[r][t][s % 2]);
			}
		}
	}
#pragma GCC unroll 2
	for (int r = 0; r < height; r++)
#pragma GCC unroll 2
		for (int t = 0; t < rows; t++)
			d->z[(size_t)t * d->z_stride + row + (size_t)r] =
				lanes_sum(sums[r][t][0], sums[r][t][1]);
}

#define DOT(rows, bits)                                                                            \
	static void dot_##rows##_##bits(const struct qmat_dot *d, size_t row0, size_t row1)        \
	{                                                                                          \
		for (; row1 - row0 >= DOT_TILE; row0 += DOT_TILE)                                  \
			dot_tile(d, row0, DOT_TILE, rows, bits);                                   \
		for (; row0 < row1; row0++)                                                        \
			dot_tile(d, row0, 1, rows, bits);                                          \
	}
#define DOT_OF_BITS(bits) DOT(1, bits) DOT(2, bits)
DOT_OF_BITS(1)
DOT_OF_BITS(2)
DOT_OF_BITS(3)
DOT_OF_BITS(4)
DOT_OF_BITS(5)
DOT_OF_BITS(6)
DOT_OF_BITS(7)
DOT_OF_BITS(8)
DOT_OF_BITS(16)
DOT_OF_BITS(32)

/* By width, and by rows of x at once, less 1. */
static qmat_dot_fn *const dots[QMAT_WIDTHS][DOT_TILE] = {
	[1] = {dot_1_1, dot_2_1},
	[2] = {dot_1_2, dot_2_2},
	[3] = {dot_1_3, dot_2_3},
	[4] = {dot_1_4, dot_2_4},
	[5] = {dot_1_5, dot_2_5},
	[6] = {dot_1_6, dot_2_6},
	[7] = {dot_1_7, dot_2_7},
	[8] = {dot_1_8, dot_2_8},
	[16] = {dot_1_16, dot_2_16},
	[32] = {dot_1_32, dot_2_32},
};

void avx2_qmat_dot(float *z, size_t z_stride, const struct qmat *m, const float *x, size_t x_stride,
	size_t n, size_t row0, size_t row1)
{
	const struct qmat_dot d = {
		.z = z,
		.z_stride = z_stride,
		.m = m,
		.x = x,
		.x_stride = x_stride,
	};

	assert(m->bits < QMAT_WIDTHS && dots[m->bits][0]);
	if (row0 < row1)
		qmat_dot_by_rows(d, n, dots[m->bits], DOT_TILE, row0, row1);
}

/* `row` is the first of `height` rows of the matrix. The sums of `steps` times 16 columns stay in
 * registers while they pass by. */
static always_inline_ void accumulate_steps(const struct qmat_sum *a, size_t group, int step,
	size_t row, size_t height, int rows, int steps, int bits)
{
	const size_t n_groups = qmat_groups(a->m->cols);
	const size_t begin = group * QMAT_GROUP + (size_t)step * QMAT_LANES;
	const size_t left = a->m->cols > begin ? a->m->cols - begin : 0;
	float *y = a->y + begin;
	__m256 sums[QMAT_SUM_ROWS][2 * MAX_SUM_STEPS];

#pragma GCC unroll 3
	for (int t = 0; t < rows; t++)
#pragma GCC unroll 8
		for (int s = 0; s < 2 * steps; s++)
			sums[t][s] = _mm256_maskload_ps(y + (size_t)t * a->y_stride + s * 8,
				lanes_of_vector((size_t)s, left));
	for (size_t r = row; r < row + height; r++) {
		struct group grid = group_load(a->m, n_groups, r, group, bits);

		if (step == 0)
			group_prefetch(a->m, (r + QMAT_SUM_HEIGHT) * n_groups + group, bits);
#pragma GCC unroll 8
		for (int s = 0; s < 2 * steps; s++) {
			__m256 values = group_values(&grid, step + s / 2, s % 2, bits);

#pragma GCC unroll 3
			for (int t = 0; t < rows; t++)
				sums[t][s] = _mm256_fmadd_ps(values,
					_mm256_broadcast_ss(a->z + (size_t)t * a->z_stride + r),
					sums[t][s]);
		}
	}
#pragma GCC unroll 3
	for (int t = 0; t < rows; t++)
#pragma GCC unroll 8
		for (int s = 0; s < 2 * steps; s++)
			_mm256_maskstore_ps(y + (size_t)t * a->y_stride + s * 8,
				lanes_of_vector((size_t)s, left), sums[t][s]);
}

#define ACCUMULATE(rows, bits)                                                                     \
	static void accumulate_##rows##_##bits(                                                    \
		const struct qmat_sum *a, size_t group, size_t row, size_t height)                 \
	{                                                                                          \
		enum { AT_ONCE = rows == 1 ? MAX_SUM_STEPS : 2 };                                  \
                                                                                                   \
		_Pragma("GCC unroll 4") for (int s = 0; s < STEPS; s += AT_ONCE)                   \
			accumulate_steps(a, group, s, row, height, rows, AT_ONCE, bits);           \
	}
QMAT_SUM_EACH(ACCUMULATE)
QMAT_SUM_ROWS_EACH(ACCUMULATE, 8)
QMAT_SUM_ROWS_EACH(ACCUMULATE, 16)
QMAT_SUM_ROWS_EACH(ACCUMULATE, 32)

static qmat_sum_fn *const accumulates[QMAT_WIDTHS][QMAT_SUM_ROWS] = {
	QMAT_SUM_ENTRIES(accumulate),
	QMAT_SUM_ENTRY(accumulate, 8),
	QMAT_SUM_ENTRY(accumulate, 16),
	QMAT_SUM_ENTRY(accumulate, 32),
};

void avx2_qmat_accumulate(float *y, size_t y_stride, const struct qmat *m, const float *z,
	size_t z_stride, size_t n, size_t group0, size_t group1)
{
	const struct qmat_sum a = {
		.y = y,
		.y_stride = y_stride,
		.m = m,
		.z = z,
		.z_stride = z_stride,
	};

	assert(m->bits < QMAT_WIDTHS && accumulates[m->bits][0]);
	qmat_sum_by_rows(a, n, accumulates[m->bits], group0, group1);
}
