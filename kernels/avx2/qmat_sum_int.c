/*
 * Sums of rows of codes with rounded factors, a group of columns at a time. vpmaddubsw adds the
 * products of two rows in 16 bits, which hold those of a strip of rows.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/lanes.h"
#include "kernels/planes.h"
#include "kernels/qmat.h"

#include <assert.h>

#define MAX_ROWS QMAT_SUM_ROWS
#define STEPS 8 /* codes in a byte, at most */

/* Some rows of the matrix and one group of columns. */
struct block {
	const struct qmat *m;
	const uint8_t *codes; /* of the first row */
	size_t row_bytes;
	size_t row, height;
	size_t group;
};

/* For one row of z. */
struct sums {
	int32_t of[QMAT_GROUP] __attribute__((aligned(32)));
};

/* What the compiler knows. */
struct pass {
	struct plane plane;
	int rows; /* of z */
	int part; /* of 16 bytes of the plane, one of a lane */
};

/* Scales of a block's rows, and zeros, 0 past the last. */
struct grid {
	float scales[QMAT_SUM_BLOCK];
	uint8_t zeros[QMAT_SUM_BLOCK] __attribute__((aligned(32)));
};

static void grid_load(struct grid *ret, const struct block *b)
{
	const struct qmat *m = b->m;
	const size_t n_groups = qmat_groups(m->cols);

	memset(ret, 0, sizeof(*ret));
	for (size_t i = 0; i < b->height; i++) {
		const size_t row = b->row + i, at = row * m->scale_row + b->group * m->scale_group;

		ret->scales[i] = m->scales ? _cvtsh_ss(m->scales[at]) : 1;
		ret->zeros[i] = m->zeros ? m->zeros[row * n_groups + b->group] : 1;
	}
}

static void factors_fill(
	struct act_group *ret, const struct block *b, const struct grid *grid, const float *z)
{
	float numbers[QMAT_SUM_BLOCK] = {0};

	for (size_t i = 0; i < b->height; i++)
		numbers[i] = z[b->row + i] * grid->scales[i];
	avx2_act_round(ret, 1, numbers, QMAT_SUM_BLOCK, 1, QMAT_SUM_BLOCK);
}

/* sum of 2 zero * code. A zero is 128 at most, so that 16 bits hold two products. */
static int32_t zeros_sum(const struct block *b, const struct grid *grid, const struct act_group *f)
{
	__m256i sums = _mm256_setzero_si256();
	int32_t sum = 0, lanes[8];

	for (size_t i = 0; i < QMAT_SUM_BLOCK; i += 32)
		sums = _mm256_add_epi32(
			sums, _mm256_madd_epi16(_mm256_set1_epi16(1),
				      _mm256_maddubs_epi16(
					      _mm256_load_si256((const void *)(grid->zeros + i)),
					      _mm256_load_si256((const void *)(f->codes + i)))));
	_mm256_storeu_si256((void *)lanes, sums);
	for (size_t i = 0; i < 8; i++)
		sum += lanes[i];
	return sum * (b->m->zeros ? 2 : (int32_t)(2 * b->m->zero));
}

/* Bytes of two rows side by side, where those of a lane are two. */
static always_inline_ __m256i halves_join(const uint8_t *a, const uint8_t *b, int half)
{
	const __m256i first = _mm256_loadu_si256((const void *)a);
	const __m256i second = _mm256_loadu_si256((const void *)b);

	if (half)
		return _mm256_blendv_epi8(
			_mm256_srli_epi16(first, 8), second, _mm256_set1_epi16((short)0xff00));
	return _mm256_blendv_epi8(
		first, _mm256_slli_epi16(second, 8), _mm256_set1_epi16((short)0xff00));
}

/* Byte number `part` of each lane of a plane, of two rows side by side. */
static always_inline_ __m256i rows_join(const uint8_t *a, const uint8_t *b, struct pass p)
{
	const int left = p.part < 2 ? 16 : 0;
	__m256i low, high;

	if (p.plane.width == 1)
		return _mm256_or_si256(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)a)),
			_mm256_slli_epi16(
				_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)b)), 8));
	if (p.plane.width == 2)
		return halves_join(a, b, p.part);
	low = _mm256_slli_epi32(halves_join(a, b, p.part % 2), left);
	high = _mm256_slli_epi32(halves_join(a + 32, b + 32, p.part % 2), left);
	low = _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16));
	return _mm256_permute4x64_epi64(low, 0xd8);
}

/* sums += products of a strip of rows in 16 bits, in the place of the plane. */
static always_inline_ void strip_finish(int32_t *sums, __m256i products, int shift)
{
	const __m128i halves[2] = {
		_mm256_castsi256_si128(products), _mm256_extracti128_si256(products, 1)};

#pragma GCC unroll 2
	for (int i = 0; i < 2; i++) {
		__m256i *at = (__m256i *)(void *)(sums + i * 8);

		*at = _mm256_add_epi32(
			*at, _mm256_slli_epi32(_mm256_cvtepi16_epi32(halves[i]), shift));
	}
}

/* Rows whose products 16 bits hold: (2^width - 1) x 127 each, of widths up to 4. */
static always_inline_ size_t strip_height(int width)
{
	return (size_t)(256 / (width * width));
}

/* products += those of two rows. */
static always_inline_ void pair_add(__m256i products[STEPS][MAX_ROWS], __m256i bytes,
	const struct act_group *factors, size_t row, struct pass p)
{
	const int width = p.plane.width;
	__m256i pairs[MAX_ROWS];

#pragma GCC unroll 3
	for (int t = 0; t < p.rows; t++) {
		int16_t pair;

		memcpy(&pair, factors[t].codes + row, sizeof(pair));
		pairs[t] = _mm256_set1_epi16(pair);
	}
	/* Bounds that differ from call to call keep clang from unrolling. */
#pragma GCC unroll 8
	for (int step = 0; step < STEPS; step++) {
		const __m256i codes = _mm256_and_si256(_mm256_srli_epi16(bytes, step * width),
			_mm256_set1_epi8((char)((1 << width) - 1)));

#pragma GCC unroll 3
		for (int t = 0; t < MAX_ROWS; t++)
			if (step * width < 8 && t < p.rows)
				products[step][t] = _mm256_add_epi16(
					products[step][t], _mm256_maddubs_epi16(codes, pairs[t]));
	}
}

/* sums += a strip's rows from `first` on, of one part of a plane. */
static always_inline_ void strip_add(struct sums *sums, const struct block *b,
	const struct act_group *factors, size_t first, struct pass p)
{
	const int steps = 8 / p.plane.width;
	const size_t end = min_u64(first + strip_height(p.plane.width), b->height);
	__m256i products[STEPS][MAX_ROWS];

#pragma GCC unroll 24
	for (int i = 0; i < STEPS * MAX_ROWS; i++)
		products[i / MAX_ROWS][i % MAX_ROWS] = _mm256_setzero_si256();
	for (size_t row = first; row < end; row += 2) {
		const size_t below = min_u64(row + 1, b->height - 1);

		pair_add(products,
			rows_join(
				b->codes + row * b->row_bytes, b->codes + below * b->row_bytes, p),
			factors, row, p);
	}
#pragma GCC unroll 24
	for (int i = 0; i < STEPS * MAX_ROWS; i++) {
		const int step = i / MAX_ROWS, t = i % MAX_ROWS;

		if (step < steps && t < p.rows)
			strip_finish(sums[t].of + (p.part * steps + step) * QMAT_LANES,
				products[step][t], p.plane.shift);
	}
}

/* sums += one plane, if there is such a one. */
static always_inline_ void plane_add(struct sums *sums, const struct block *b,
	const struct act_group *factors, int rows, struct plane plane)
{
	/* Of single bits, one row's sums are all that registers hold. */
	struct pass p = {plane, .rows = plane.width == 1 ? 1 : rows};
	struct block part = *b;

	part.codes += plane.shift * QMAT_LANES;
	if (plane.width == 0)
		return;
	for (int t = 0; t < rows; t += p.rows)
#pragma GCC unroll 4
		for (p.part = 0; p.part < plane.width; p.part++)
			for (size_t row = 0; row < b->height; row += strip_height(plane.width))
				strip_add(sums + t, &part, factors + t, row, p);
}

static always_inline_ void block_sum(struct sums *sums, const struct block *b,
	const struct act_group *factors, int rows, int bits)
{
	memset(sums, 0, sizeof(*sums) * (size_t)rows);
	plane_add(sums, b, factors, rows, plane_of(bits, 0));
	plane_add(sums, b, factors, rows, plane_of(bits, 1));
	plane_add(sums, b, factors, rows, plane_of(bits, 2));
}

typedef void block_fn(struct sums *sums, const struct block *b, const struct act_group *factors);

#define SUM(rows, bits)                                                                            \
	static void sum_##rows##_##bits(                                                           \
		struct sums *sums, const struct block *b, const struct act_group *factors)         \
	{                                                                                          \
		block_sum(sums, b, factors, rows, bits);                                           \
	}
QMAT_SUM_EACH(SUM)

static block_fn *const block_sums[QMAT_MAX_BITS][MAX_ROWS] = {
	QMAT_SUM_ENTRIES(sum),
};

/* y += a block, of which y has the columns. */
static void block_store(
	float *y, const struct block *b, const struct sums *sums, int32_t offset, float scale)
{
	const size_t left = b->m->cols - b->group * QMAT_GROUP;

	for (size_t i = 0; i < QMAT_GROUP / 8; i++) {
		const __m256i lanes = lanes_of_vector(i, left);
		const __m256i sum = _mm256_load_si256((const void *)(sums->of + i * 8));
		const __m256i twice =
			_mm256_sub_epi32(_mm256_add_epi32(sum, sum), _mm256_set1_epi32(offset));

		_mm256_maskstore_ps(y + i * 8, lanes,
			_mm256_fmadd_ps(_mm256_cvtepi32_ps(twice), _mm256_set1_ps(scale),
				_mm256_maskload_ps(y + i * 8, lanes)));
	}
}

/* y += `rows` rows of z from `first` on, times a block. */
static void block_add(const struct qmat_sum *a, const struct block *b, const struct grid *grid,
	size_t first, size_t rows)
{
	struct act_group factors[MAX_ROWS];
	struct sums sums[MAX_ROWS];

	for (size_t t = 0; t < rows; t++)
		factors_fill(&factors[t], b, grid, a->z + (first + t) * a->z_stride);
	block_sums[b->m->bits][rows - 1](sums, b, factors);
	for (size_t t = 0; t < rows; t++)
		block_store(a->y + (first + t) * a->y_stride + b->group * QMAT_GROUP, b, &sums[t],
			zeros_sum(b, grid, &factors[t]), factors[t].scale * (b->m->step / 2));
}

void avx2_qmat_accumulate_int(float *y, size_t y_stride, const struct qmat *m, const float *z,
	size_t z_stride, size_t n, size_t group0, size_t group1)
{
	const struct qmat_sum a = {
		.y = y,
		.y_stride = y_stride,
		.m = m,
		.z = z,
		.z_stride = z_stride,
	};
	struct block b = {.m = m, .row_bytes = qmat_row_bytes(m)};

	assert(m->bits < QMAT_MAX_BITS);
	for (b.row = 0; b.row < m->rows; b.row += b.height) {
		b.height = min_u64(m->rows - b.row, QMAT_SUM_BLOCK);
		for (b.group = group0; b.group < group1; b.group++) {
			struct grid grid;

			b.codes = m->codes + b.row * b.row_bytes +
				  b.group * qmat_group_bytes(m->bits);
			grid_load(&grid, &b);
			for (size_t t = 0; t < n; t += MAX_ROWS)
				block_add(&a, &b, &grid, t, min_u64(n - t, MAX_ROWS));
		}
	}
}
