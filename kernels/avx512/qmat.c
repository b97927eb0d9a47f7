/*
 * Codes become numbers in registers: the codes of 16 neighbouring columns index a table that holds
 * step * scale * (code - zero) for each code of up to 5 bits; wider ones are masked, moved by the
 * zero point and scaled. The table repeats with the period of the width, so that the bits above a
 * code need no masking.
 */
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/codes.h"
#include "kernels/avx512/lanes.h"
#include "kernels/qmat.h"

#include <assert.h>

#define STEPS (QMAT_GROUP / QMAT_LANES) /* vectors of columns in a group */
#define DOT_TILE 4 /* rows of the matrix, and at most as many of x, by which dots are computed */

#define TABLE_BITS 5 /* codes up to this width are looked up */

/* A group's codes as loaded, and its grid. */
struct group {
	__m512i planes[3];
	const uint8_t *numbers; /* 16 and 32 bits */
	__m512 factor;
	__m512 zero;
	__m512 table[2];
};

static always_inline_ __m512 f16_broadcast(uint16_t half)
{
	return _mm512_cvtph_ps(_mm256_set1_epi16((short)half));
}

static always_inline_ __m512i bytes_of_lanes(const uint8_t *at)
{
	return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at));
}

/* Four bytes a lane, from eight: the lower (first 0) or the upper (first 1). */
static always_inline_ __m512i half_lanes(const uint8_t *at, int first)
{
	__m512i index = _mm512_add_epi32(_mm512_set1_epi32(first),
		_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30));

	return _mm512_permutex2var_epi32(
		_mm512_loadu_si512(at), index, _mm512_loadu_si512(at + 64));
}

/* 16 bits at `first` of the table. */
static always_inline_ __m512 table_part(const struct group *g, int first, int bits)
{
	__m512i codes = _mm512_and_si512(_mm512_set1_epi32((1 << bits) - 1),
		_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));

	codes = _mm512_add_epi32(codes, _mm512_set1_epi32(first));
	return _mm512_mul_ps(_mm512_sub_ps(_mm512_cvtepi32_ps(codes), g->zero), g->factor);
}

static always_inline_ void planes_load(struct group *g, const uint8_t *codes, int bits)
{
	switch (bits) {
	case 1:
		g->planes[0] = bytes_of_lanes(codes);
		break;
	case 2:
		g->planes[0] = lanes_words(codes);
		break;
	case 3:
		g->planes[0] = lanes_words(codes);
		g->planes[1] = bytes_of_lanes(codes + 2 * QMAT_LANES);
		break;
	case 4:
		g->planes[0] = _mm512_loadu_si512(codes);
		break;
	case 5:
		g->planes[0] = _mm512_loadu_si512(codes);
		g->planes[1] = bytes_of_lanes(codes + 4 * QMAT_LANES);
		break;
	case 6:
		g->planes[0] = _mm512_loadu_si512(codes);
		g->planes[1] = lanes_words(codes + 4 * QMAT_LANES);
		break;
	case 7:
		g->planes[0] = _mm512_loadu_si512(codes);
		g->planes[1] = lanes_words(codes + 4 * QMAT_LANES);
		g->planes[2] = bytes_of_lanes(codes + 6 * QMAT_LANES);
		break;
	case 8:
		g->planes[0] = half_lanes(codes, 0);
		g->planes[1] = half_lanes(codes, 1);
		break;
	case 16:
	case 32:
		g->numbers = codes;
		break;
	}
}

static always_inline_ struct group group_load(
	const struct qmat *m, size_t n_groups, size_t row, size_t group, int bits)
{
	const size_t index = row * n_groups + group;
	struct group g;

	planes_load(&g, m->codes + index * (size_t)(QMAT_LANES * bits), bits);
	g.factor = _mm512_set1_ps(m->step);
	if (bits > QMAT_MAX_BITS)
		return g;
	if (m->scales)
		g.factor = _mm512_mul_ps(g.factor,
			f16_broadcast(m->scales[row * m->scale_row + group * m->scale_group]));
	g.zero = m->zeros ? _mm512_cvtepi32_ps(_mm512_set1_epi32(m->zeros[index]))
			  : _mm512_set1_ps(m->zero);
	if (bits <= TABLE_BITS)
		g.table[0] = table_part(&g, 0, bits < 4 ? bits : 4);
	if (bits == 5)
		g.table[1] = table_part(&g, 16, 4);
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

/* Bits of `plane`, `width` wide, of sub-position `step`, moved to bit `to`; others are anything. */
static always_inline_ __m512i plane_bits(__m512i plane, int width, int step, int to)
{
	int right = width * step - to;

	return right < 0 ? _mm512_slli_epi32(plane, (unsigned int)-right)
			 : _mm512_srli_epi32(plane, (unsigned int)right);
}

/* Bits below `n` from a, the others from b. */
static always_inline_ __m512i join_bits(__m512i a, __m512i b, int n)
{
	return _mm512_ternarylogic_epi32(_mm512_set1_epi32((1 << n) - 1), a, b, 0xca);
}

/* The codes of columns 16 step to 16 step + 15, with any bits above. */
static always_inline_ __m512i group_step_codes(const struct group *g, int step, int bits)
{
	__m512i codes, upper;

	switch (bits) {
	case 1:
		return plane_bits(g->planes[0], 1, step, 0);
	case 2:
		return plane_bits(g->planes[0], 2, step, 0);
	case 3:
		codes = plane_bits(g->planes[0], 2, step, 0);
		return join_bits(codes, plane_bits(g->planes[1], 1, step, 2), 2);
	case 8:
		return plane_bits(g->planes[step / 4], 8, step % 4, 0);
	}
	codes = plane_bits(g->planes[0], 4, step, 0);
	if (bits == 4)
		return codes;
	upper = plane_bits(g->planes[1], bits == 5 ? 1 : 2, step, 4);
	if (bits == 7)
		upper = join_bits(upper, plane_bits(g->planes[2], 1, step, 6), 6);
	return join_bits(codes, upper, 4);
}

/* The values of columns 16 step to 16 step + 15. */
static always_inline_ __m512 group_values(const struct group *g, int step, int bits)
{
	const uint8_t *at = g->numbers + step * QMAT_LANES * bits / 8;
	__m512i codes;

	if (bits == 16)
		return _mm512_mul_ps(
			_mm512_cvtph_ps(_mm256_loadu_si256((const void *)at)), g->factor);
	if (bits == 32)
		return _mm512_mul_ps(_mm512_loadu_ps(at), g->factor);
	codes = group_step_codes(g, step, bits);
	if (bits < TABLE_BITS)
		return _mm512_permutexvar_ps(codes, g->table[0]);
	if (bits == TABLE_BITS)
		return _mm512_permutex2var_ps(g->table[0], codes, g->table[1]);
	codes = _mm512_and_si512(codes, _mm512_set1_epi32((1 << bits) - 1));
	return _mm512_mul_ps(_mm512_sub_ps(_mm512_cvtepi32_ps(codes), g->zero), g->factor);
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

			groups[r] = group_load(d->m, n_groups, row + (size_t)r, g, bits);
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

#define DOT_ROW_OF(bits)                                                                           \
	{                                                                                          \
		dot_1_##bits, dot_2_##bits, dot_3_##bits, dot_4_##bits                             \
	}

/* By width, and by rows of x at once, less 1. */
static qmat_dot_fn *const dots[QMAT_WIDTHS][DOT_TILE] = {
	[1] = DOT_ROW_OF(1),
	[2] = DOT_ROW_OF(2),
	[3] = DOT_ROW_OF(3),
	[4] = DOT_ROW_OF(4),
	[5] = DOT_ROW_OF(5),
	[6] = DOT_ROW_OF(6),
	[7] = DOT_ROW_OF(7),
	[8] = DOT_ROW_OF(8),
	[16] = DOT_ROW_OF(16),
	[32] = DOT_ROW_OF(32),
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

	assert(m->bits < QMAT_WIDTHS && dots[m->bits][0]);
	if (row0 >= row1)
		return;
	if (avx512_codes_fit(m))
		avx512_codes_dot(&d, n, row0, row1);
	else
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
		struct group grid = group_load(a->m, n_groups, r, group, bits);

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

	assert(m->bits < QMAT_WIDTHS && accumulates[m->bits][0]);
	qmat_sum_by_rows(a, n, accumulates[m->bits], group0, group1);
}
