/*
 * Codes by rounded inputs. The codes of each half of a byte are masked where they stand, highest
 * first, and what was summed so far is moved down between them: one instruction multiplies 64 codes
 * by 64 inputs, and one more than half as many bring them there.
 */
#include "kernels/qmat_int.h"

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/lanes.h"

#define TILE QMAT_INT_TILE
#define AHEAD_BYTES 2048 /* of each row of a tile, memory is asked for this much before its use */

/* 64 bytes of a plane from byte `vector` * 64 of four groups on, of which `left` are there. */
static always_inline_ __m512i plane_load(
	const uint8_t *codes, size_t left, int vector, struct plane p, int bits, bool is_full)
{
	const size_t plane_bytes = (size_t)(QMAT_LANES * p.width);
	const size_t group = (size_t)vector * PLANE_LINE / plane_bytes;
	const size_t n_bytes = left > group ? (left - group) * plane_bytes : 0;
	const __mmask64 mask =
		is_full || n_bytes >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n_bytes) - 1;
	const uint8_t *at = codes + group * (size_t)(QMAT_LANES * bits);
	const size_t n_parts = 64 / plane_bytes;
	__m512i ret = _mm512_setzero_si512();

	if (p.width == 8)
		at += vector % 2 * PLANE_LINE;
	if (p.width == bits || p.width >= 4)
		return _mm512_maskz_loadu_epi8(mask, at);
		/* Groups stand apart: each gives its part. */
#pragma GCC unroll 4
	for (size_t i = 0; i < n_parts; i++) {
		__mmask64 part = ((UINT64_C(1) << plane_bytes) - 1) << (i * plane_bytes);

		ret = _mm512_mask_loadu_epi8(
			ret, mask & part, at + i * (size_t)(QMAT_LANES * bits) - i * plane_bytes);
	}
	return ret;
}

/* Lanes of 128 bits: those of a are halves of its groups, likewise those of b; halves are added. */
static always_inline_ __m512i halves_add(__m512i a, __m512i b)
{
	return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

/* Four lanes of each of four groups, to be added; from as many sums as the width needs. */
static always_inline_ __m512i groups_join(const __m512i sums[4], int width)
{
	if (width == 1)
		return sums[0];
	if (width == 2)
		return halves_add(sums[0], sums[1]);
	return halves_add(halves_add(sums[0], sums[1]), halves_add(sums[2], sums[3]));
}

/* Adds the dots of a vector of a plane of whole bytes to the sum of each row. */
static always_inline_ void bytes_dot(
	__m512i sums[TILE], const __m512i codes[TILE], const int8_t (*lines)[PLANE_LINE])
{
#pragma GCC unroll 4
	for (int r = 0; r < TILE; r++)
		sums[r] = _mm512_dpbusd_epi32(sums[r], codes[r], _mm512_load_si512(lines[0]));
}

/* Likewise of a narrower one. */
static always_inline_ void vector_dot(
	__m512i sums[TILE], const __m512i codes[TILE], const int8_t (*lines)[PLANE_LINE], int width)
{
	const int half = 4 / width; /* codes in half a byte */
	__m512i upper[TILE];

#pragma GCC unroll 4
	for (int r = 0; r < TILE; r++)
		upper[r] = _mm512_srli_epi16(codes[r], 4);
#pragma GCC unroll 4
	for (int step = half - 1; step >= 0; step--) {
		const __m512i mask = _mm512_set1_epi8((char)(((1 << width) - 1) << step * width));
		const __m512i x_lower = _mm512_load_si512(lines[step]);
		const __m512i x_upper = _mm512_load_si512(lines[half + step]);

#pragma GCC unroll 4
		for (int r = 0; r < TILE; r++) {
			if (step < half - 1)
				sums[r] = _mm512_srai_epi32(sums[r], (unsigned int)width);
			sums[r] = _mm512_dpbusd_epi32(
				sums[r], _mm512_and_si512(codes[r], mask), x_lower);
			sums[r] = _mm512_dpbusd_epi32(
				sums[r], _mm512_and_si512(upper[r], mask), x_upper);
		}
	}
}

/* sums[row] += the dots with one plane of four groups, times its place value; four lanes a group.
 */
static always_inline_ void plane_dot(__m512i sums[TILE], const uint8_t *const codes[TILE],
	size_t left, const int8_t (*lines)[PLANE_LINE], int bits, int plane, bool is_full)
{
	const struct plane p = plane_of(bits, plane);
	__m512i parts[TILE][4];

#pragma GCC unroll 16
	for (int i = 0; i < TILE * 4; i++)
		parts[i / 4][i % 4] = _mm512_setzero_si512();
#pragma GCC unroll 8
	for (int v = 0; v < p.width; v++) {
		const int part = p.width == 8 ? v / 2 : v;
		__m512i bytes[TILE], so_far[TILE];

#pragma GCC unroll 4
		for (int r = 0; r < TILE; r++) {
			bytes[r] = plane_load(
				codes[r] + p.shift * QMAT_LANES, left, v, p, bits, is_full);
			so_far[r] = parts[r][part];
		}
		if (p.width == 8)
			bytes_dot(so_far, bytes, lines + v);
		else
			vector_dot(so_far, bytes, lines + v * (8 / p.width), p.width);
#pragma GCC unroll 4
		for (int r = 0; r < TILE; r++)
			parts[r][part] = so_far[r];
	}
#pragma GCC unroll 4
	for (int r = 0; r < TILE; r++)
		sums[r] = _mm512_add_epi32(sums[r],
			_mm512_slli_epi32(groups_join(parts[r], p.width), (unsigned int)p.shift));
}

/* From four lanes a group in each row to [group][row]. */
static always_inline_ __m512i rows_join(const __m512i sums[TILE])
{
	__m512i a = _mm512_add_epi32(
		_mm512_unpacklo_epi32(sums[0], sums[1]), _mm512_unpackhi_epi32(sums[0], sums[1]));
	__m512i b = _mm512_add_epi32(
		_mm512_unpacklo_epi32(sums[2], sums[3]), _mm512_unpackhi_epi32(sums[2], sums[3]));

	return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* The grids of four groups, of which `left` are there, of each row: what stands at at[row], by
 * [group][row]. */
static always_inline_ __m512i zeros_load(const uint8_t *const at[TILE], size_t left)
{
	uint8_t bytes[TILE][PLANE_GROUPS] = {0};
	const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);

	for (size_t r = 0; r < TILE; r++)
		memcpy(bytes[r], at[r], left);
	return _mm512_cvtepu8_epi32(_mm_shuffle_epi8(_mm_loadu_si128((const void *)bytes), order));
}

static always_inline_ __m512 scales_load(const uint16_t *const at[TILE], size_t stride, size_t left)
{
	uint16_t halves[PLANE_GROUPS][TILE] = {0};

	for (size_t g = 0; g < left; g++)
		for (size_t r = 0; r < TILE; r++)
			halves[g][r] = at[r][g * stride];
	return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)halves));
}

/* Where a block begins in the rows of a tile. */
struct tile_rows {
	const uint8_t *codes[TILE];
	const uint8_t *zeros[TILE];
	const uint16_t *scales[TILE];
};

static always_inline_ struct tile_rows tile_rows_of(
	const struct qmat_int_tile *t, const size_t rows[TILE], int bits)
{
	const struct qmat *m = t->m;
	struct tile_rows ret = {.zeros = {NULL}, .scales = {NULL}};

	for (size_t r = 0; r < TILE; r++) {
		size_t index = rows[r] * t->n_groups + t->first;

		ret.codes[r] = m->codes + index * qmat_group_bytes((uint32_t)bits);
		if (m->zeros)
			ret.zeros[r] = m->zeros + index;
		if (qmat_has_group_scales(m))
			ret.scales[r] =
				m->scales + rows[r] * m->scale_row + t->first * m->scale_group;
	}
	return ret;
}

/* Asks for four groups of a row that will be read soon; any address is harmless. */
static always_inline_ void codes_prefetch(const uint8_t *at, int bits)
{
#pragma GCC unroll 8
	for (int line = 0; line < bits; line++)
		_mm_prefetch((const char *)at + line * 64, _MM_HINT_T0);
}

/* chains = fma of the sums of four groups, `left` of which are there. */
static always_inline_ __m512 quad_add(__m512 chains, const struct qmat_int_tile *t,
	const struct tile_rows *rows, size_t quad, size_t left, int bits, bool has_grids,
	bool is_full)
{
	const struct qmat_int_lanes *lanes = &t->panel->lanes[quad];
	const size_t group = quad * PLANE_GROUPS, n = is_full ? PLANE_GROUPS : left;
	__m512i sums[TILE], offsets = _mm512_load_si512(lanes->sums), sum;
	__m512 scale = _mm512_load_ps(lanes->scales);
	const uint8_t *codes[TILE];

#pragma GCC unroll 4
	for (int r = 0; r < TILE; r++) {
		sums[r] = _mm512_setzero_si512();
		codes[r] = rows->codes[r] + group * qmat_group_bytes((uint32_t)bits);
		codes_prefetch(codes[r] + AHEAD_BYTES, bits);
	}
#pragma GCC unroll 3
	for (int plane = 0; plane < PLANES_MAX; plane++)
		if (plane_of(bits, plane).width)
			plane_dot(sums, codes, left, t->panel->lines[plane] + quad * PLANE_LINES,
				bits, plane, is_full);
	sum = rows_join(sums);
	sum = _mm512_add_epi32(sum, sum);
	if (has_grids && rows->zeros[0]) {
		const uint8_t *const at[TILE] = {rows->zeros[0] + group, rows->zeros[1] + group,
			rows->zeros[2] + group, rows->zeros[3] + group};
		__m512i zeros = zeros_load(at, n);

		offsets = _mm512_mullo_epi32(offsets, _mm512_slli_epi32(zeros, 1));
		sum = _mm512_sub_epi32(sum, offsets);
	} else {
		sum = _mm512_add_epi32(sum, offsets);
	}
	if (has_grids && rows->scales[0]) {
		const size_t stride = t->m->scale_group, first = group * stride;
		const uint16_t *const at[TILE] = {rows->scales[0] + first, rows->scales[1] + first,
			rows->scales[2] + first, rows->scales[3] + first};

		scale = _mm512_mul_ps(scale, scales_load(at, stride, n));
	}
	return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, chains);
}

static always_inline_ void dot_tile(const struct qmat_int_tile *t, const size_t at[TILE],
	float ret[TILE], int bits, bool has_grids)
{
	const struct tile_rows rows = tile_rows_of(t, at, bits);
	const size_t n_full = t->block / PLANE_GROUPS, left = t->block % PLANE_GROUPS;
	__m512 chains = _mm512_setzero_ps();
	__m256 two;

	for (size_t quad = 0; quad < n_full; quad++)
		chains = quad_add(chains, t, &rows, quad, PLANE_GROUPS, bits, has_grids, true);
	if (left)
		chains = quad_add(chains, t, &rows, n_full, left, bits, has_grids, false);
	two = _mm256_add_ps(_mm512_castps512_ps256(chains), _mm512_extractf32x8_ps(chains, 1));
	_mm_storeu_ps(ret, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
}

#define DOT(bits, has_grids)                                                                       \
	static void dot_##bits##_##has_grids(                                                      \
		const struct qmat_int_tile *t, const size_t rows[TILE], float ret[TILE])           \
	{                                                                                          \
		dot_tile(t, rows, ret, bits, has_grids);                                           \
	}
#define DOTS(bits) DOT(bits, 0) DOT(bits, 1)
DOTS(1)
DOTS(2)
DOTS(3)
DOTS(4)
DOTS(5)
DOTS(6)
DOTS(7)
DOTS(8)

/* By width, and by whether groups have scales or zeros of their own. */
static qmat_int_fn *const dots[QMAT_MAX_BITS + 1][2] = {
	{NULL, NULL},
	{dot_1_0, dot_1_1},
	{dot_2_0, dot_2_1},
	{dot_3_0, dot_3_1},
	{dot_4_0, dot_4_1},
	{dot_5_0, dot_5_1},
	{dot_6_0, dot_6_1},
	{dot_7_0, dot_7_1},
	{dot_8_0, dot_8_1},
};

void avx512_qmat_dot_int(float *z, size_t z_stride, const struct qmat *m, const struct act_group *x,
	size_t x_stride, size_t n, size_t row0, size_t row1)
{
	const struct qmat_int_call c = {
		.z = z,
		.z_stride = z_stride,
		.m = m,
		.x = x,
		.x_stride = x_stride,
	};
	const bool has_grids = m->zeros || qmat_has_group_scales(m);

	qmat_int_by_blocks(c, n, dots[m->bits][has_grids], row0, row1);
}
