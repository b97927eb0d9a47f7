/*
 * Codes become numbers in registers: the codes of 16 neighbouring columns index a table that holds
 * scale * (code - zero) for each code, which is exact in f32. The table repeats with the period of
 * the width, so that the bits above a code need no masking.
 */
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"

#include <assert.h>
#include <string.h>

#define STEPS (QMAT_GROUP / QMAT_LANES) /* vectors of columns in a group */
#define MAX_DOT_ROWS 8
#define MAX_SUM_ROWS 3
#define PREFETCH_ROWS 8

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

/* One call of qmat_dot for a few rows of x. The columns of the last group, if it is not full, are
 * taken from `tail`, which has zeros past the last one. */
struct dot {
	float *z;
	size_t z_stride;
	const struct qmat *m;
	const float *x;
	size_t x_stride;
	const float (*tail)[QMAT_GROUP];
};

/*
 * One row of the matrix times `rows` rows of x. Even and odd steps have a sum each, so that there
 * are enough independent chains.
 */
static always_inline_ void dot_row(const struct dot *d, size_t row, int rows, int bits)
{
	const size_t n_groups = qmat_groups(d->m->cols), n_full = d->m->cols / QMAT_GROUP;
	__m512 sums[MAX_DOT_ROWS][2];

#pragma GCC unroll 8
	for (int t = 0; t < rows; t++)
		sums[t][0] = sums[t][1] = _mm512_setzero_ps();
	for (size_t g = 0; g < n_groups; g++) {
		struct group group = group_load(d->m, row * n_groups + g, bits);
		const float *x = g < n_full ? d->x + g * QMAT_GROUP : d->tail[0];
		size_t x_stride = g < n_full ? d->x_stride : QMAT_GROUP;

#pragma GCC unroll 8
		for (int s = 0; s < STEPS; s++) {
			__m512 values = group_values(&group, s, bits);

#pragma GCC unroll 8
			for (int t = 0; t < rows; t++)
				sums[t][s % 2] = _mm512_fmadd_ps(values,
					_mm512_loadu_ps(x + (size_t)t * x_stride + s * QMAT_LANES),
					sums[t][s % 2]);
		}
	}
#pragma GCC unroll 8
	for (int t = 0; t < rows; t++)
		d->z[(size_t)t * d->z_stride + row] =
			lanes_sum(_mm512_add_ps(sums[t][0], sums[t][1]));
}

static always_inline_ void dot_rows(
	const struct dot *d, size_t row0, size_t row1, int rows, int bits)
{
	for (size_t r = row0; r < row1; r++)
		dot_row(d, r, rows, bits);
}

#define DOT(rows, bits)                                                                            \
	static void dot_##rows##_##bits(const struct dot *d, size_t row0, size_t row1)             \
	{                                                                                          \
		dot_rows(d, row0, row1, rows, bits);                                               \
	}
#define DOT_OF_BITS(bits) DOT(1, bits) DOT(2, bits) DOT(4, bits) DOT(8, bits)
DOT_OF_BITS(2)
DOT_OF_BITS(3)
DOT_OF_BITS(4)
DOT_OF_BITS(8)

typedef void dot_fn(const struct dot *d, size_t row0, size_t row1);

#define DOT_ROW_OF(bits)                                                                           \
	{                                                                                          \
		dot_1_##bits, dot_2_##bits, dot_4_##bits, dot_8_##bits                             \
	}

/* By width, and by the logarithm of the rows of x at once. */
static dot_fn *const dots[QMAT_MAX_BITS + 1][4] = {
	[2] = DOT_ROW_OF(2),
	[3] = DOT_ROW_OF(3),
	[4] = DOT_ROW_OF(4),
	[8] = DOT_ROW_OF(8),
};

/* The largest power of two in n, up to 8, as its logarithm. */
static unsigned int rows_log(size_t n)
{
	return n >= 8 ? 3 : n >= 4 ? 2 : n >= 2 ? 1 : 0;
}

void avx512_qmat_dot(float *z, size_t z_stride, const struct qmat *m, const float *x,
	size_t x_stride, size_t n, size_t row0, size_t row1)
{
	const size_t full = m->cols / QMAT_GROUP * QMAT_GROUP;

	assert(m->bits <= QMAT_MAX_BITS && dots[m->bits][0]);
	for (size_t t = 0, rows; t < n; t += rows) {
		unsigned int log = rows_log(n - t);
		float tail[MAX_DOT_ROWS][QMAT_GROUP];
		struct dot d = {.z = z + t * z_stride,
			.z_stride = z_stride,
			.m = m,
			.x = x + t * x_stride,
			.x_stride = x_stride,
			.tail = tail};

		rows = (size_t)1 << log;
		for (size_t i = 0; i < rows; i++) {
			memset(tail[i], 0, sizeof(tail[i]));
			memcpy(tail[i], d.x + i * x_stride + full, (m->cols - full) * sizeof(*x));
		}
		dots[m->bits][log](&d, row0, row1);
	}
}

/* One call of qmat_accumulate for a few rows of z. */
struct accumulation {
	float *y;
	size_t y_stride;
	const struct qmat *m;
	const float *z;
	size_t z_stride;
};

static always_inline_ void group_add(
	const struct accumulation *a, size_t group, __m512 sums[STEPS], int t)
{
	float *y = a->y + (size_t)t * a->y_stride + group * QMAT_GROUP;
	size_t left = a->m->cols - group * QMAT_GROUP;

#pragma GCC unroll 8
	for (size_t s = 0; s < STEPS; s++) {
		__mmask16 mask = lanes_of_vector(s, left);
		float *at = y + s * QMAT_LANES;

		_mm512_mask_storeu_ps(
			at, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), sums[s]));
	}
}

/* The 128 columns of `groups` groups stay in registers while the rows of the matrix pass by. */
static always_inline_ void accumulate_groups(
	const struct accumulation *a, size_t group, int rows, int groups, int bits)
{
	const size_t n_groups = qmat_groups(a->m->cols);
	__m512 sums[MAX_SUM_ROWS][2][STEPS];

#pragma GCC unroll 3
	for (int t = 0; t < rows; t++)
#pragma GCC unroll 2
		for (int g = 0; g < groups; g++)
#pragma GCC unroll 8
			for (int s = 0; s < STEPS; s++)
				sums[t][g][s] = _mm512_setzero_ps();
	for (size_t r = 0; r < a->m->rows; r++) {
		const size_t index = r * n_groups + group;

		_mm_prefetch((const char *)a->m->codes + (index + PREFETCH_ROWS * n_groups) *
								 (size_t)(QMAT_LANES * bits),
			_MM_HINT_T0);
#pragma GCC unroll 2
		for (int g = 0; g < groups; g++) {
			struct group grid = group_load(a->m, index + (size_t)g, bits);

#pragma GCC unroll 8
			for (int s = 0; s < STEPS; s++) {
				__m512 values = group_values(&grid, s, bits);

#pragma GCC unroll 3
				for (int t = 0; t < rows; t++)
					sums[t][g][s] = _mm512_fmadd_ps(values,
						_mm512_set1_ps(a->z[(size_t)t * a->z_stride + r]),
						sums[t][g][s]);
			}
		}
	}
#pragma GCC unroll 3
	for (int t = 0; t < rows; t++)
#pragma GCC unroll 2
		for (int g = 0; g < groups; g++)
			group_add(a, group + (size_t)g, sums[t][g], t);
}

#define ACCUMULATE(rows, groups, bits)                                                             \
	static void accumulate_##rows##_##groups##_##bits(                                         \
		const struct accumulation *a, size_t group)                                        \
	{                                                                                          \
		accumulate_groups(a, group, rows, groups, bits);                                   \
	}
#define ACCUMULATE_OF_BITS(bits)                                                                   \
	ACCUMULATE(1, 1, bits)                                                                     \
	ACCUMULATE(1, 2, bits) ACCUMULATE(2, 1, bits) ACCUMULATE(3, 1, bits)
ACCUMULATE_OF_BITS(2)
ACCUMULATE_OF_BITS(3)
ACCUMULATE_OF_BITS(4)
ACCUMULATE_OF_BITS(8)

typedef void accumulate_fn(const struct accumulation *a, size_t group);

#define ACCUMULATE_ROW_OF(bits)                                                                    \
	{                                                                                          \
		accumulate_1_2_##bits, accumulate_1_1_##bits, accumulate_2_1_##bits,               \
			accumulate_3_1_##bits                                                      \
	}

/* By width, and by rows of z; entry 0 is one row by two groups. */
static accumulate_fn *const accumulates[QMAT_MAX_BITS + 1][4] = {
	[2] = ACCUMULATE_ROW_OF(2),
	[3] = ACCUMULATE_ROW_OF(3),
	[4] = ACCUMULATE_ROW_OF(4),
	[8] = ACCUMULATE_ROW_OF(8),
};

void avx512_qmat_accumulate(float *y, size_t y_stride, const struct qmat *m, const float *z,
	size_t z_stride, size_t n, size_t group0, size_t group1)
{
	accumulate_fn *const *by_rows = accumulates[m->bits];

	assert(m->bits <= QMAT_MAX_BITS && by_rows[0]);
	for (size_t t = 0, rows; t < n; t += rows) {
		struct accumulation a = {.y = y + t * y_stride,
			.y_stride = y_stride,
			.m = m,
			.z = z + t * z_stride,
			.z_stride = z_stride};
		size_t g = group0;

		rows = n - t < MAX_SUM_ROWS ? n - t : MAX_SUM_ROWS;
		for (; rows == 1 && group1 - g >= 2 && g < group1; g += 2)
			by_rows[0](&a, g);
		for (; g < group1; g++)
			by_rows[rows](&a, g);
	}
}
