/*
 * Codes become numbers in registers, exactly: those of 2 and 3 bits index a table of the 8 values
 * scale * (code - zero), which repeats with the period of the width, so that the bits above a code
 * need no masking; wider ones are masked, moved by the zero point and scaled.
 */
#include "kernels/avx2/avx2.h"

#include "kernels/avx2/lanes.h"
#include "kernels/qmat.h"

#include <assert.h>

#define STEPS (QMAT_GROUP / QMAT_LANES) /* times 16 columns in a group */
#define DOT_TILE 2 /* rows of the matrix, and at most as many of x, by which dots are computed */
#define MAX_SUM_STEPS 4

/* A group's codes as loaded, by plane and by lanes 0 to 7 and 8 to 15, and its grid. */
struct group {
	__m256i planes[2][2];
	__m256 table; /* 4 and 8 bits: every lane is the scale */
	__m256i zero; /* 4 and 8 bits */
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

static always_inline_ void planes_load(struct group *g, const uint8_t *codes, int bits)
{
	__m256i halves[2];

#pragma GCC unroll 2
	for (int i = 0; i < 2; i++) {
		switch (bits) {
		case 2:
			g->planes[0][i] = words_of_lanes(codes + i * 16);
			break;
		case 3:
			g->planes[0][i] = words_of_lanes(codes + i * 16);
			g->planes[1][i] = bytes_of_lanes(codes + 2 * QMAT_LANES + i * 8);
			break;
		case 4:
			g->planes[0][i] = dwords_of_lanes(codes + i * 32);
			break;
		case 8:
			qwords_of_lanes(halves, codes + i * 64);
			g->planes[0][i] = halves[0];
			g->planes[1][i] = halves[1];
			break;
		}
	}
}

static always_inline_ struct group group_load(const struct qmat *m, size_t index, int bits)
{
	const __m256i code_of_entry = _mm256_and_si256(
		_mm256_set1_epi32((1 << bits) - 1), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
	struct group g;

	g.zero = _mm256_set1_epi32(m->zeros[index]);
	g.table = _mm256_cvtph_ps(_mm_set1_epi16((short)m->scales[index]));
	if (bits <= 3)
		g.table = _mm256_mul_ps(
			g.table, _mm256_cvtepi32_ps(_mm256_sub_epi32(code_of_entry, g.zero)));
	planes_load(&g, m->codes + index * (size_t)(QMAT_LANES * bits), bits);
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

/* scale * (code - zero) for the codes in the lowest bits of each lane. */
static always_inline_ __m256 scaled(const struct group *g, __m256i codes, int mask)
{
	codes = _mm256_and_si256(codes, _mm256_set1_epi32(mask));
	return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(codes, g->zero)), g->table);
}

/* The values of columns 16 step + 8 half and the seven after it. */
static always_inline_ __m256 group_values(const struct group *g, int step, int half, int bits)
{
	__m256i index, upper;

	if (bits == 8)
		return scaled(
			g, _mm256_srli_epi32(g->planes[step / 4][half], 8 * (step % 4)), 0xff);
	if (bits == 4)
		return scaled(g, _mm256_srli_epi32(g->planes[0][half], 4 * step), 0xf);
	index = _mm256_srli_epi32(g->planes[0][half], 2 * step);
	if (bits == 3) {
		upper = step < 2 ? _mm256_slli_epi32(g->planes[1][half], 2 - step)
				 : _mm256_srli_epi32(g->planes[1][half], step - 2);
		index = _mm256_or_si256(_mm256_and_si256(index, _mm256_set1_epi32(3)),
			_mm256_and_si256(upper, _mm256_set1_epi32(4)));
	}
	return _mm256_permutevar8x32_ps(g->table, index);
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

			groups[r] = group_load(d->m, index, bits);
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
DOT_OF_BITS(2)
DOT_OF_BITS(3)
DOT_OF_BITS(4)
DOT_OF_BITS(8)

/* By width, and by rows of x at once, less 1. */
static qmat_dot_fn *const dots[QMAT_MAX_BITS + 1][DOT_TILE] = {
	[2] = {dot_1_2, dot_2_2},
	[3] = {dot_1_3, dot_2_3},
	[4] = {dot_1_4, dot_2_4},
	[8] = {dot_1_8, dot_2_8},
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

	assert(m->bits <= QMAT_MAX_BITS && dots[m->bits][0]);
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
		struct group grid = group_load(a->m, r * n_groups + group, bits);

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

	assert(m->bits <= QMAT_MAX_BITS && accumulates[m->bits][0]);
	qmat_sum_by_rows(a, n, accumulates[m->bits], group0, group1);
}
