/*
 * Sums of rows of codes with rounded factors, a group of columns at a time. vpmaddubsw adds the
 * products of two rows in 16 bits, which hold those of a strip of rows. The factors of up to 8
 * groups are rounded side by side, since each may have its own scales.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/lanes.h"
#include "kernels/planes.h"
#include "kernels/qmat.h"

#include <assert.h>

#define MAX_ROWS QMAT_SUM_ROWS
#define VECTORS 8 /* of 16 columns, in a group */
#define LANES 8   /* groups of columns whose factors are rounded at once */
#define PAIRS (QMAT_SUM_BLOCK / 2)

/* Of a block of rows of the matrix, for one row of z: by two rows, and by group. */
struct factors {
	int32_t pairs[PAIRS][LANES]; /* two codes each, in the lower half */
	int32_t offsets[LANES];      /* sum of 2 zero * code */
	float scales[LANES];
} __attribute__((aligned(32)));

/* A block of rows of the matrix, and some groups of columns. */
struct block {
	const struct qmat *m;
	size_t row_bytes;
	size_t row, height;
	size_t group, n_groups; /* at most LANES */
};

/* One group of a block. */
struct unit {
	const uint8_t *codes; /* of the block's first row */
	size_t row_bytes;
	size_t height;
	size_t lane; /* the group's in the factors */
};

/* For one row of z. */
struct sums {
	int32_t of[QMAT_GROUP] __attribute__((aligned(32)));
};

/* What the compiler knows. */
struct pass {
	struct plane plane;
	int rows;           /* of z */
	int first, n_parts; /* of 16 bytes of the plane, one of a lane */
};

/* The lower lanes; what stands behind the groups is not read. */
static always_inline_ __m256 scales_load(const struct block *b, size_t row)
{
	const struct qmat *m = b->m;
	uint16_t left[LANES] = {0};
	const uint16_t *at;

	if (!m->scales)
		return _mm256_set1_ps(1);
	at = m->scales + row * m->scale_row;
	if (m->scale_group == 0)
		return _mm256_set1_ps(_cvtsh_ss(*at));
	at += b->group;
	if (b->n_groups < LANES)
		at = memcpy(left, at, b->n_groups * sizeof(*at));
	return _mm256_cvtph_ps(_mm_loadu_si128((const void *)at));
}

static always_inline_ __m256i zeros_load(const struct block *b, size_t row)
{
	const uint8_t *at = b->m->zeros + row * qmat_groups(b->m->cols) + b->group;
	uint8_t left[LANES] = {0};

	if (b->n_groups < LANES)
		at = memcpy(left, at, b->n_groups);
	return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)at));
}

/* What becomes the codes of a block's factors; those of rows past the last are 0. */
static __m256 numbers_fill(__m256 ret[static QMAT_SUM_BLOCK], const struct block *b, const float *z)
{
	const __m256i size = _mm256_set1_epi32(0x7fffffff);
	__m256i most = _mm256_setzero_si256();

	for (size_t i = 0; i < b->height; i++) {
		ret[i] = _mm256_mul_ps(_mm256_set1_ps(z[b->row + i]), scales_load(b, b->row + i));
		most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(ret[i]), size));
	}
	if (b->height % 2)
		ret[b->height] = _mm256_setzero_ps();
	return _mm256_castsi256_ps(most);
}

/* As act_round() does it, group by group. */
static void factors_fill(struct factors *f, const struct block *b, const float *z)
{
	const __m256 most_code = _mm256_set1_ps(127);
	const __m256i byte = _mm256_set1_epi32(255);
	__m256i zeros[2] = {_mm256_set1_epi32(1), _mm256_set1_epi32(1)};
	__m256i sum = _mm256_setzero_si256();
	__m256 numbers[QMAT_SUM_BLOCK], largest, is_number, inverse;

	largest = numbers_fill(numbers, b, z);
	is_number = _mm256_cmp_ps(largest, _mm256_set1_ps(0x1p-100f), _CMP_NLT_UQ);
	inverse = _mm256_and_ps(is_number, _mm256_div_ps(most_code, largest));
	_mm256_store_ps(f->scales, _mm256_and_ps(is_number, _mm256_div_ps(largest, most_code)));
	for (size_t i = 0; i < b->height; i += 2) {
		__m256i codes[2];

#pragma GCC unroll 2
		for (size_t r = 0; r < 2; r++) {
			codes[r] = _mm256_cvtps_epi32(_mm256_mul_ps(numbers[i + r], inverse));
			if (b->m->zeros)
				zeros[r] = zeros_load(b, b->row + min_u64(i + r, b->height - 1));
			/* 16 bits hold both; the zeros' upper halves are 0. */
			sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes[r], zeros[r]));
		}
		_mm256_store_si256((__m256i *)(void *)f->pairs[i / 2],
			_mm256_or_si256(_mm256_and_si256(codes[0], byte),
				_mm256_slli_epi32(_mm256_and_si256(codes[1], byte), 8)));
	}
	_mm256_store_si256((__m256i *)(void *)f->offsets,
		_mm256_mullo_epi32(
			sum, _mm256_set1_epi32(b->m->zeros ? 2 : (int32_t)(2 * b->m->zero))));
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
static always_inline_ __m256i rows_join(const uint8_t *a, const uint8_t *b, int part, int width)
{
	const int left = part < 2 ? 16 : 0;
	__m256i low, high;

	if (width == 1)
		return _mm256_or_si256(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)a)),
			_mm256_slli_epi16(
				_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)b)), 8));
	if (width == 2)
		return halves_join(a, b, part);
	low = _mm256_slli_epi32(halves_join(a, b, part % 2), left);
	high = _mm256_slli_epi32(halves_join(a + 32, b + 32, part % 2), left);
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

/* products += those of two rows, by part and code in a byte. */
static always_inline_ void pair_add(__m256i products[VECTORS][MAX_ROWS], const uint8_t *a,
	const uint8_t *b, const __m256i pairs[MAX_ROWS], struct pass p)
{
	const int width = p.plane.width, steps = 8 / width;

	/* Bounds that differ from call to call keep clang from unrolling. */
#pragma GCC unroll 8
	for (int i = 0; i < VECTORS; i++) {
		__m256i codes;

		if (i >= p.n_parts * steps)
			continue;
		codes = rows_join(a, b, p.first + i / steps, width);
		codes = _mm256_and_si256(_mm256_srli_epi16(codes, i % steps * width),
			_mm256_set1_epi8((char)((1 << width) - 1)));
#pragma GCC unroll 3
		for (int t = 0; t < MAX_ROWS; t++)
			if (t < p.rows)
				lanes_add_words(
					&products[i][t], _mm256_maddubs_epi16(codes, pairs[t]));
	}
}

/* sums += a strip's rows from `first` on, of some parts of a plane. */
static always_inline_ void strip_add(struct sums *sums, const struct unit *u,
	const struct factors *factors, size_t first, struct pass p)
{
	const int steps = 8 / p.plane.width;
	const size_t end = min_u64(first + strip_height(p.plane.width), u->height);
	const uint8_t *codes = u->codes + first * u->row_bytes;
	__m256i products[VECTORS][MAX_ROWS];

#pragma GCC unroll 24
	for (int i = 0; i < VECTORS * MAX_ROWS; i++)
		products[i / MAX_ROWS][i % MAX_ROWS] = _mm256_setzero_si256();
	for (size_t row = first; row < end; row += 2, codes += 2 * u->row_bytes) {
		/* A row without a partner meets itself, with a factor of 0. */
		const uint8_t *below = codes + (row + 1 < end ? u->row_bytes : 0);
		__m256i pairs[MAX_ROWS];

#pragma GCC unroll 3
		for (int t = 0; t < p.rows; t++)
			pairs[t] = _mm256_set1_epi16((int16_t)factors[t].pairs[row / 2][u->lane]);
		pair_add(products, codes, below, pairs, p);
	}
#pragma GCC unroll 24
	for (int i = 0; i < VECTORS * MAX_ROWS; i++) {
		const int vector = i / MAX_ROWS, t = i % MAX_ROWS;

		if (vector < p.n_parts * steps && t < p.rows)
			strip_finish(sums[t].of + (p.first * steps + vector) * QMAT_LANES,
				products[vector][t], p.plane.shift);
	}
}

/* sums += one plane, if there is such a one. */
static always_inline_ void plane_add(struct sums *sums, const struct unit *u,
	const struct factors *factors, int rows, struct plane plane)
{
	/* What registers hold the sums of: all parts for one row of z; one part for a few rows,
	 * though not of single bits. */
	struct pass p = {
		.plane = plane,
		.rows = plane.width == 1 ? 1 : rows,
		.n_parts = rows == 1 ? plane.width : 1,
	};
	struct unit part = *u;

	part.codes += plane.shift * QMAT_LANES;
	if (plane.width == 0)
		return;
	for (int t = 0; t < rows; t += p.rows)
#pragma GCC unroll 4
		for (p.first = 0; p.first < plane.width; p.first += p.n_parts)
			for (size_t row = 0; row < u->height; row += strip_height(plane.width))
				strip_add(sums + t, &part, factors + t, row, p);
}

static always_inline_ void unit_sum(
	struct sums *sums, const struct unit *u, const struct factors *factors, int rows, int bits)
{
	memset(sums, 0, sizeof(*sums) * (size_t)rows);
	plane_add(sums, u, factors, rows, plane_of(bits, 0));
	plane_add(sums, u, factors, rows, plane_of(bits, 1));
	plane_add(sums, u, factors, rows, plane_of(bits, 2));
}

typedef void unit_fn(struct sums *sums, const struct unit *u, const struct factors *factors);

#define SUM(rows, bits)                                                                            \
	static void sum_##rows##_##bits(                                                           \
		struct sums *sums, const struct unit *u, const struct factors *factors)            \
	{                                                                                          \
		unit_sum(sums, u, factors, rows, bits);                                            \
	}
QMAT_SUM_EACH(SUM)

static unit_fn *const unit_sums[QMAT_MAX_BITS][MAX_ROWS] = {
	QMAT_SUM_ENTRIES(sum),
};

/* y += a group of the block. */
static void unit_store(float *y, const struct block *b, size_t lane, const struct factors *f,
	const struct sums *sums)
{
	const size_t col = (b->group + lane) * QMAT_GROUP;
	const __m256 scale = _mm256_set1_ps(f->scales[lane] * (b->m->step / 2));
	const __m256i offset = _mm256_set1_epi32(f->offsets[lane]);

	for (size_t i = 0; i < QMAT_GROUP / 8; i++) {
		const __m256i lanes = lanes_of_vector(i, b->m->cols - col);
		const __m256i sum = _mm256_load_si256((const void *)(sums->of + i * 8));
		const __m256i twice = _mm256_sub_epi32(_mm256_add_epi32(sum, sum), offset);
		float *at = y + col + i * 8;

		_mm256_maskstore_ps(at, lanes,
			_mm256_fmadd_ps(
				_mm256_cvtepi32_ps(twice), scale, _mm256_maskload_ps(at, lanes)));
	}
}

/* y += `rows` rows of z from `first` on, times a block. */
static void block_add(const struct qmat_sum *a, const struct block *b, size_t first, size_t rows)
{
	const size_t group_bytes = qmat_group_bytes(b->m->bits);
	struct unit u = {
		.codes = b->m->codes + b->row * b->row_bytes + b->group * group_bytes,
		.row_bytes = b->row_bytes,
		.height = b->height,
	};
	struct factors factors[MAX_ROWS];
	struct sums sums[MAX_ROWS];

	for (size_t t = 0; t < rows; t++)
		factors_fill(&factors[t], b, a->z + (first + t) * a->z_stride);
	for (; u.lane < b->n_groups; u.lane++, u.codes += group_bytes) {
		unit_sums[b->m->bits][rows - 1](sums, &u, factors);
		for (size_t t = 0; t < rows; t++)
			unit_store(
				a->y + (first + t) * a->y_stride, b, u.lane, &factors[t], &sums[t]);
	}
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
		for (b.group = group0; b.group < group1; b.group += b.n_groups) {
			b.n_groups = min_u64(group1 - b.group, LANES);
			for (size_t t = 0; t < n; t += MAX_ROWS)
				block_add(&a, &b, t, min_u64(n - t, MAX_ROWS));
		}
	}
}
