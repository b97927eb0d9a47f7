/*
 * Codes by rounded inputs, two groups at a time. vpmaddubsw adds two products in 16 bits; codes of
 * 8 bits are taken as two halves, so that a group's products of 4 bits at most are added there:
 * 4 x 2 x 15 x 127 is the largest sum.
 */
#include "kernels/qmat_int.h"

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/lanes.h"

#define TILE QMAT_INT_TILE
#define HALF 32 /* bytes of a register */

/* Register number `part` of a plane of two groups; `is_full`: both are there. */
static always_inline_ __m256i plane_load(
	const uint8_t *codes, bool is_full, int part, struct plane p, int bits)
{
	const uint8_t *second = codes + QMAT_LANES * bits;
	__m128i low, high = _mm_setzero_si128();

	if (p.width == 1) {
		low = _mm_loadu_si128((const void *)codes);
		if (is_full)
			high = _mm_loadu_si128((const void *)second);
		return _mm256_set_m128i(high, low);
	}
	if (part < p.width / 2)
		return _mm256_loadu_si256((const void *)(codes + part * HALF));
	if (!is_full)
		return _mm256_setzero_si256();
	return _mm256_loadu_si256((const void *)(second + (part - p.width / 2) * HALF));
}

static always_inline_ __m256i codes_of_step(__m256i bytes, int step, int width)
{
	return _mm256_and_si256(
		_mm256_srli_epi16(bytes, step * width), _mm256_set1_epi8((char)((1 << width) - 1)));
}

static always_inline_ __m256i pairs_join(__m256i pairs)
{
	return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* sums + the products of a register, of 8 bits of their lower (half 0) or upper halves. */
static always_inline_ __m256i register_dot(
	__m256i sums, __m256i bytes, const int8_t *lines, int half, int width)
{
	const int steps = 8 / width;

#pragma GCC unroll 8
	for (int step = 0; step < steps; step++) {
		__m256i x = _mm256_load_si256((const void *)(lines + step * PLANE_LINE));
		__m256i codes = width == 8 ? codes_of_step(bytes, half, 4)
					   : codes_of_step(bytes, step, width);

		sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x));
	}
	return sums;
}

/* Registers [first, end) of a plane of two groups. */
static always_inline_ __m256i registers_dot(const uint8_t *codes, bool is_full, int first, int end,
	const int8_t (*lines)[PLANE_LINE], int pair, struct plane p, int bits)
{
	__m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
	const int halves = p.width == 8 ? 2 : 1;

#pragma GCC unroll 4
	for (int i = first; i < end; i++) {
		const int at = pair * p.width + i; /* of the four groups */
		__m256i bytes = plane_load(codes, is_full, i, p, bits);

#pragma GCC unroll 2
		for (int half = 0; half < halves; half++)
			sums[half] = register_dot(sums[half], bytes,
				lines[at / 2 * (8 / p.width)] + at % 2 * HALF, half, p.width);
	}
	if (halves == 1)
		return pairs_join(sums[0]);
	return _mm256_add_epi32(pairs_join(sums[0]), _mm256_slli_epi32(pairs_join(sums[1]), 4));
}

/* The dots with one plane of two groups, four lanes a group. */
static always_inline_ __m256i plane_dot(const uint8_t *codes, bool is_full,
	const int8_t (*lines)[PLANE_LINE], int pair, struct plane p, int bits)
{
	__m256i a, b;

	if (p.width == 1)
		return registers_dot(codes, is_full, 0, 1, lines, pair, p, bits);
	a = registers_dot(codes, is_full, 0, p.width / 2, lines, pair, p, bits);
	b = registers_dot(codes, is_full, p.width / 2, p.width, lines, pair, p, bits);
	return _mm256_add_epi32(
		_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

/* From four lanes a group in each row to [group][row]. */
static always_inline_ __m256i rows_join(const __m256i sums[TILE])
{
	__m256i a = _mm256_add_epi32(
		_mm256_unpacklo_epi32(sums[0], sums[1]), _mm256_unpackhi_epi32(sums[0], sums[1]));
	__m256i b = _mm256_add_epi32(
		_mm256_unpacklo_epi32(sums[2], sums[3]), _mm256_unpackhi_epi32(sums[2], sums[3]));

	return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

/* A tile's rows, the last one again where they are fewer, from the block's first group on. */
struct tile_rows {
	size_t rows[TILE];
	const uint8_t *codes[TILE];
};

static always_inline_ struct tile_rows tile_rows_of(
	const struct qmat_int_tile *t, const size_t rows[TILE])
{
	struct tile_rows ret;

	for (size_t r = 0; r < TILE; r++) {
		ret.rows[r] = rows[r];
		ret.codes[r] = t->m->codes + (ret.rows[r] * t->n_groups + t->first) *
						     qmat_group_bytes(t->m->bits);
	}
	return ret;
}

/* 2 sum (code - zero) * x of two groups from `group` of the block on, `n` of which are there. */
static always_inline_ __m256i pair_finish(__m256i sum, const struct qmat_int_tile *t,
	const struct tile_rows *rows, size_t group, size_t n)
{
	const struct qmat_int_lanes *lanes = &t->panel->lanes[group / PLANE_GROUPS];
	__m256i offsets = _mm256_load_si256((const void *)lanes->sums[group % PLANE_GROUPS]);
	int32_t zeros[2][TILE] = {{0}};

	sum = _mm256_add_epi32(sum, sum);
	if (!t->m->zeros)
		return _mm256_add_epi32(sum, offsets);
	for (size_t g = 0; g < n; g++)
		for (size_t r = 0; r < TILE; r++)
			zeros[g][r] =
				2 * t->m->zeros[rows->rows[r] * t->n_groups + t->first + group + g];
	return _mm256_sub_epi32(
		sum, _mm256_mullo_epi32(offsets, _mm256_loadu_si256((const void *)zeros)));
}

static always_inline_ __m256 pair_scales(
	const struct qmat_int_tile *t, const struct tile_rows *rows, size_t group, size_t n)
{
	const struct qmat_int_lanes *lanes = &t->panel->lanes[group / PLANE_GROUPS];
	const struct qmat *m = t->m;
	__m256 scales = _mm256_load_ps(lanes->scales[group % PLANE_GROUPS]);
	uint16_t halves[2][TILE] = {{0}};

	if (!qmat_has_group_scales(m))
		return scales;
	for (size_t g = 0; g < n; g++)
		for (size_t r = 0; r < TILE; r++)
			halves[g][r] = m->scales[rows->rows[r] * m->scale_row +
						 (t->first + group + g) * m->scale_group];
	return _mm256_mul_ps(scales, _mm256_cvtph_ps(_mm_loadu_si128((const void *)halves)));
}

/* chains = fma of the sums of two groups. */
static always_inline_ __m256 pair_add(__m256 chains, const struct qmat_int_tile *t,
	const struct tile_rows *rows, size_t group, int bits)
{
	const size_t n = min_u64(t->block - group, 2), quad = group / PLANE_GROUPS;
	const int pair = (int)(group % PLANE_GROUPS / 2);
	const size_t ahead = TILE * t->n_groups * qmat_group_bytes((uint32_t)bits);
	__m256i sums[TILE];

	for (size_t r = 0; r < TILE; r++) {
		const uint8_t *codes = rows->codes[r] + group * qmat_group_bytes((uint32_t)bits);

		sums[r] = _mm256_setzero_si256();
		for (int line = 0; line < bits; line += 2)
			_mm_prefetch((const char *)codes + ahead + line * HALF, _MM_HINT_T0);
#pragma GCC unroll 3
		for (int i = 0; i < PLANES_MAX; i++) {
			const struct plane p = plane_of(bits, i);

			if (p.width == 0)
				continue;
			sums[r] = _mm256_add_epi32(sums[r],
				_mm256_slli_epi32(plane_dot(codes + p.shift * QMAT_LANES, n == 2,
							  t->panel->lines[i] + quad * PLANE_LINES,
							  pair, p, bits),
					p.shift));
		}
	}
	return _mm256_fmadd_ps(_mm256_cvtepi32_ps(pair_finish(rows_join(sums), t, rows, group, n)),
		pair_scales(t, rows, group, n), chains);
}

static always_inline_ void dot_tile(
	const struct qmat_int_tile *t, const size_t at[TILE], float ret[TILE], int bits)
{
	const struct tile_rows rows = tile_rows_of(t, at);
	__m256 chains[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, two;

	for (size_t group = 0; group < t->block; group += 2)
		chains[group / 2 % 2] = pair_add(chains[group / 2 % 2], t, &rows, group, bits);
	two = _mm256_add_ps(chains[0], chains[1]);
	_mm_storeu_ps(ret, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
}

#define DOT(bits)                                                                                  \
	static void dot_##bits(                                                                    \
		const struct qmat_int_tile *t, const size_t rows[TILE], float ret[TILE])           \
	{                                                                                          \
		dot_tile(t, rows, ret, bits);                                                      \
	}
DOT(1)
DOT(2)
DOT(3)
DOT(4)
DOT(5)
DOT(6)
DOT(7)
DOT(8)

static qmat_int_fn *const dots[QMAT_MAX_BITS + 1] = {
	NULL,
	dot_1,
	dot_2,
	dot_3,
	dot_4,
	dot_5,
	dot_6,
	dot_7,
	dot_8,
};

void avx2_qmat_dot_int(float *z, size_t z_stride, const struct qmat *m, const struct act_group *x,
	size_t x_stride, size_t n, size_t row0, size_t row1)
{
	const struct qmat_int_call c = {
		.z = z,
		.z_stride = z_stride,
		.m = m,
		.x = x,
		.x_stride = x_stride,
	};

	qmat_int_by_blocks(c, n, dots[m->bits], row0, row1);
}
