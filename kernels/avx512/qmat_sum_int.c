/*
 * Sums of rows of codes with rounded factors. Bytes of four rows are brought side by side, so that
 * one instruction adds the products of four rows for 16 columns. The codes of a byte are masked
 * where they stand, each into a sum of its own, whose place value comes off in the end.
 *
 * A unit is the columns of whole groups of which the narrowest plane has 64 bytes a row; the
 * factors of up to 16 groups are rounded side by side, since each may have its own scales.
 */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/lanes.h"
#include "kernels/planes.h"
#include "kernels/qmat.h"

#include <assert.h>

#define LANES 16 /* groups of columns whose factors are rounded at once */
#define QUADS (QMAT_SUM_BLOCK / 4)
#define SPAN 4      /* groups of a unit, at most */
#define STEPS 8     /* vectors of columns in a group, codes in a byte at most */
#define QUARTERS 4  /* vectors of sums of 64 bytes */
#define ROW_SUMS 16 /* of a row of z that are in registers at once, at most */
#define MAX_ROWS QMAT_SUM_ROWS

/* Of a block of rows of the matrix, for one row of z: by four rows, and by group. */
struct factors {
	int32_t quads[QUADS][LANES]; /* four codes each */
	int32_t offsets[LANES];      /* sum of 2 zero * code */
	float scales[LANES];
} __attribute__((aligned(64)));

/* A block of rows of the matrix, and some groups of columns. */
struct block {
	const struct qmat *m;
	size_t row_bytes;
	size_t row, height;
	size_t group, n_groups; /* at most LANES */
};

/* A few groups of a block. */
struct unit {
	const struct block *block;
	const struct factors *factors; /* of each row of z */
	const uint8_t *codes;          /* of the block's first row */
	size_t lane, n_groups;         /* of the block's */
};

/* Of a unit, for one row of z: of 16 columns each. */
struct sums {
	__m512i of[SPAN][STEPS];
};

static always_inline_ __m512 scales_load(const struct block *b, size_t row)
{
	const struct qmat *m = b->m;
	const uint16_t *at;

	if (!m->scales)
		return _mm512_set1_ps(1);
	at = m->scales + row * m->scale_row;
	if (m->scale_group == 0)
		return _mm512_set1_ps(_cvtsh_ss(*at));
	return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_before(b->n_groups), at + b->group));
}

static always_inline_ __m512i zeros_load(const struct block *b, size_t row)
{
	const uint8_t *at = b->m->zeros + row * qmat_groups(b->m->cols) + b->group;

	return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes_before(b->n_groups), at));
}

/* The lowest bytes of four vectors, side by side. */
static always_inline_ __m512i bytes_join(const __m512i from[4])
{
	__m512i ret = _mm512_setzero_si512();

#pragma GCC unroll 4
	for (unsigned int i = 0; i < 4; i++)
		ret = _mm512_or_si512(
			ret, _mm512_slli_epi32(
				     _mm512_and_si512(from[i], _mm512_set1_epi32(255)), 8 * i));
	return ret;
}

/* As act_round() does it, group by group. */
static void factors_fill(struct factors *f, const struct block *b, const float *z)
{
	const __m512i size = _mm512_set1_epi32(0x7fffffff);
	const size_t n_quads = div_up(b->height, 4), last = b->row + b->height - 1;
	__m512i most = _mm512_setzero_si512(), zeros = _mm512_set1_epi8(1), sum = most;
	__m512 numbers[QMAT_SUM_BLOCK], largest, inverse;
	__mmask16 is_number;

	for (size_t i = 0; i < 4 * n_quads; i++) {
		numbers[i] = _mm512_setzero_ps();
		if (i < b->height)
			numbers[i] = _mm512_mul_ps(
				_mm512_set1_ps(z[b->row + i]), scales_load(b, b->row + i));
		most = _mm512_max_epu32(
			most, _mm512_and_si512(_mm512_castps_si512(numbers[i]), size));
	}
	largest = _mm512_castsi512_ps(most);
	is_number = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(0x1p-100f), _CMP_NLT_UQ);
	inverse = _mm512_maskz_div_ps(is_number, _mm512_set1_ps(127), largest);
	_mm512_store_ps(f->scales, _mm512_maskz_div_ps(is_number, largest, _mm512_set1_ps(127)));
	for (size_t i = 0; i < n_quads; i++) {
		__m512i parts[4], quad;

#pragma GCC unroll 4
		for (size_t r = 0; r < 4; r++)
			parts[r] = _mm512_cvtps_epi32(_mm512_mul_ps(numbers[4 * i + r], inverse));
		quad = bytes_join(parts);
		_mm512_store_si512(f->quads[i], quad);
		if (b->m->zeros) {
#pragma GCC unroll 4
			for (size_t r = 0; r < 4; r++)
				parts[r] = zeros_load(b, min_u64(b->row + 4 * i + r, last));
			zeros = bytes_join(parts);
		}
		sum = _mm512_dpbusd_epi32(sum, zeros, quad);
	}
	_mm512_store_si512(f->offsets,
		_mm512_mullo_epi32(
			sum, _mm512_set1_epi32(b->m->zeros ? 2 : (int32_t)(2 * b->m->zero))));
}

/* One way through the rows of a block, of which the compiler knows all. */
struct pass {
	struct plane plane;
	int bits;     /* of a code */
	int rows;     /* of z */
	int first, n; /* quarters */
};

/* 64 bytes of a plane, of the groups that there are. Where groups stand apart, each gives its
 * part. */
static always_inline_ __m512i plane_load(const uint8_t *at, size_t n_groups, struct pass p)
{
	const size_t plane_bytes = (size_t)(QMAT_LANES * p.plane.width);
	const size_t n_bytes = n_groups * plane_bytes, n_parts = 64 / plane_bytes;
	const __mmask64 mask = n_bytes >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n_bytes) - 1;
	__m512i ret = _mm512_setzero_si512();

	if (p.plane.width == p.bits || p.plane.width >= 4)
		return _mm512_maskz_loadu_epi8(mask, at);
#pragma GCC unroll 4
	for (size_t i = 0; i < n_parts; i++) {
		__mmask64 part = ((UINT64_C(1) << plane_bytes) - 1) << (i * plane_bytes);

		ret = _mm512_mask_loadu_epi8(
			ret, mask & part, at + i * (size_t)(QMAT_LANES * p.bits) - i * plane_bytes);
	}
	return ret;
}

/* Groups of which a plane has 64 bytes. */
static always_inline_ size_t plane_span(int width)
{
	return width == 1 ? 4 : width == 2 ? 2 : 1;
}

/* Groups of a unit: those of the narrowest plane. */
static always_inline_ size_t unit_span(int bits)
{
	return plane_span(bits % 2 ? 1 : bits % 4 ? 2 : 4);
}

/* Asks for what the next unit will read where this one reads 64 bytes of its lowest plane; any
 * address is harmless. */
static always_inline_ void codes_prefetch(const uint8_t *at, struct pass p)
{
	const char *next = (const char *)at + unit_span(p.bits) * (size_t)(QMAT_LANES * p.bits);
	const int n_bytes = 64 * p.bits / p.plane.width;

#pragma GCC unroll 4
	for (int byte = 0; byte < n_bytes; byte += 64)
		_mm_prefetch(next + byte, _MM_HINT_T1);
}

/* The factors of four rows for each lane of sums of 64 bytes of a plane. */
static always_inline_ __m512i factors_load(const int32_t *of_groups, int width)
{
	const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);

	if (width == 1)
		return _mm512_permutexvar_epi32(
			lane, _mm512_castsi128_si512(_mm_loadu_si128((const void *)of_groups)));
	if (width == 2)
		return _mm512_permutexvar_epi32(_mm512_srli_epi32(lane, 1),
			_mm512_castsi128_si512(_mm_loadl_epi64((const void *)of_groups)));
	return _mm512_set1_epi32(*of_groups);
}

/* Four rows' bytes side by side: quarters of each 16 bytes. */
static always_inline_ void rows_join(__m512i ret[], const __m512i bytes[4], struct pass p)
{
#pragma GCC unroll 2
	for (int i = 0; i < p.n; i += 2) {
		const bool upper = p.first + i > 0;
		__m512i a = upper ? _mm512_unpackhi_epi8(bytes[0], bytes[1])
				  : _mm512_unpacklo_epi8(bytes[0], bytes[1]);
		__m512i b = upper ? _mm512_unpackhi_epi8(bytes[2], bytes[3])
				  : _mm512_unpacklo_epi8(bytes[2], bytes[3]);

		ret[i] = _mm512_unpacklo_epi16(a, b);
		ret[i + 1] = _mm512_unpackhi_epi16(a, b);
	}
}

/* sums += codes where they stand in quarters of four rows' bytes, times factors. */
static always_inline_ void quarters_add(
	__m512i sums[ROW_SUMS], const __m512i quarters[], __m512i factors, struct pass p)
{
	const int width = p.plane.width;

	/* Bounds that differ from call to call keep clang from unrolling. */
#pragma GCC unroll 16
	for (int i = 0; i < ROW_SUMS; i++) {
		const int place = i / p.n * width;

		if (place < 8)
			sums[i] = _mm512_dpbusd_epi32(sums[i],
				_mm512_and_si512(quarters[i % p.n],
					_mm512_set1_epi8((char)(((1 << width) - 1) << place))),
				factors);
	}
}

/*
 * Sums of bytes of a plane where the codes stand, for p.rows rows of z: [code in the
 * byte][quarter], a quarter being four of each 16 bytes.
 */
static always_inline_ void quarters_sum(
	__m512i (*ret)[STEPS][QUARTERS], const struct unit *u, struct pass p)
{
	const struct block *b = u->block;
	const size_t last = b->height - 1;
	__m512i sums[MAX_ROWS][ROW_SUMS];

#pragma GCC unroll 48
	for (int i = 0; i < MAX_ROWS * ROW_SUMS; i++)
		sums[i / ROW_SUMS][i % ROW_SUMS] = _mm512_setzero_si512();
	for (size_t row = 0; row <= last; row += 4) {
		__m512i bytes[4], quarters[QUARTERS];

#pragma GCC unroll 4
		for (size_t r = 0; r < 4; r++) {
			const uint8_t *at = u->codes + min_u64(row + r, last) * b->row_bytes;

			bytes[r] = plane_load(at + p.plane.shift * QMAT_LANES, u->n_groups, p);
			if (p.plane.shift == 0 && p.first == 0)
				codes_prefetch(at, p);
		}
		rows_join(quarters, bytes, p);
#pragma GCC unroll 3
		for (int t = 0; t < p.rows; t++)
			quarters_add(sums[t], quarters,
				factors_load(u->factors[t].quads[row / 4] + u->lane, p.plane.width),
				p);
	}
#pragma GCC unroll 48
	for (int i = 0; i < MAX_ROWS * ROW_SUMS; i++) {
		const int t = i / ROW_SUMS, step = i % ROW_SUMS / p.n;

		if (t < p.rows && step * p.plane.width < 8)
			ret[t][step][p.first + i % p.n] = sums[t][i % ROW_SUMS];
	}
}

/* From quarters to vector number `i` of 16 columns: of bytes `width` apart. */
static always_inline_ __m512i columns_take(const __m512i quarters[QUARTERS], int i, int width)
{
	const __m512i lane =
		_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	const __m512i byte = _mm512_add_epi32(_mm512_slli_epi32(lane, (unsigned int)width / 2),
		_mm512_set1_epi32(i / width * 16 * width + i % width));
	/* Bits of a byte's number: 0 and 1 stay in the lane, 2 and 3 are the quarter. */
	const __m512i low = _mm512_and_si512(byte, _mm512_set1_epi32(3));
	const __m512i high = _mm512_and_si512(_mm512_srli_epi32(byte, 2), _mm512_set1_epi32(12));
	const __m512i odd = _mm512_and_si512(_mm512_slli_epi32(byte, 2), _mm512_set1_epi32(16));
	const __m512i from = _mm512_or_si512(_mm512_or_si512(low, high), odd);

	return _mm512_mask_blend_epi32(_mm512_test_epi32_mask(byte, _mm512_set1_epi32(8)),
		_mm512_permutex2var_epi32(quarters[0], from, quarters[1]),
		_mm512_permutex2var_epi32(quarters[2], from, quarters[3]));
}

/* sums += codes of 64 bytes of a plane times factors, from group `first` of the unit on. */
static always_inline_ void plane_sum(
	struct sums *sums, const struct unit *u, size_t first, struct pass p)
{
	const int width = p.plane.width, steps = 8 / width;
	const struct unit rest = {
		.block = u->block,
		.factors = u->factors,
		.codes = u->codes + first * (size_t)(QMAT_LANES * p.bits),
		.lane = u->lane + first,
		.n_groups = u->n_groups - first,
	};
	__m512i raw[MAX_ROWS][STEPS][QUARTERS];

	/* As many as have their sums in registers. */
	p.n = width > 1 && p.rows == 1 ? QUARTERS : QUARTERS / 2;
#pragma GCC unroll 2
	for (p.first = 0; p.first < QUARTERS; p.first += p.n)
		quarters_sum(raw, &rest, p);
	for (int t = 0; t < p.rows; t++) {
#pragma GCC unroll 32
		for (int i = 0; i < 4 * steps; i++) {
			const int step = i % steps, at = i / steps;
			const int place = step * width - p.plane.shift;
			__m512i *sum = &sums[t].of[first + (size_t)(at / width)]
						  [at % width * steps + step];
			__m512i part = columns_take(raw[t][step], at, width);

			part = place < 0 ? _mm512_slli_epi32(part, (unsigned int)-place)
					 : _mm512_srai_epi32(part, (unsigned int)place);
			*sum = _mm512_add_epi32(*sum, part);
		}
	}
}

/* y += the unit. */
static always_inline_ void unit_store(
	const struct unit *u, float *y, const struct factors *f, const struct sums *sums)
{
	const struct block *b = u->block;

	for (size_t g = 0; g < u->n_groups; g++) {
		const size_t lane = u->lane + g, col = (b->group + lane) * QMAT_GROUP;
		const __m512 scale = _mm512_set1_ps(f->scales[lane] * (b->m->step / 2));
		const __m512i offset = _mm512_set1_epi32(f->offsets[lane]);

		for (size_t i = 0; i < STEPS; i++) {
			const __mmask16 lanes = lanes_of_vector(i, b->m->cols - col);
			float *at = y + col + i * QMAT_LANES;
			__m512i sum = _mm512_sub_epi32(
				_mm512_add_epi32(sums->of[g][i], sums->of[g][i]), offset);

			_mm512_mask_storeu_ps(at, lanes,
				_mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale,
					_mm512_maskz_loadu_ps(lanes, at)));
		}
	}
}

/* sums += one plane, if there is such a one. */
static always_inline_ void planes_add(
	struct sums *sums, const struct unit *u, int rows, struct plane plane, int bits)
{
	/* Of single bits, one row's sums are all that registers hold. */
	const struct pass p = {plane, .bits = bits, .rows = plane.width == 1 ? 1 : rows};

	if (plane.width == 0)
		return;
	for (int t = 0; t < rows; t += p.rows) {
		struct unit of_rows = *u;

		of_rows.factors += t;
		for (size_t first = 0; first < u->n_groups; first += plane_span(plane.width))
			plane_sum(sums + t, &of_rows, first, p);
	}
}

/* y += `rows` rows of z times a unit. */
static always_inline_ void unit_add(
	const struct unit *u, float *y, size_t y_stride, int rows, int bits)
{
	struct sums sums[MAX_ROWS];

	memset(sums, 0, sizeof(*sums) * (size_t)rows);
	planes_add(sums, u, rows, plane_of(bits, 0), bits);
	planes_add(sums, u, rows, plane_of(bits, 1), bits);
	planes_add(sums, u, rows, plane_of(bits, 2), bits);
	for (int t = 0; t < rows; t++)
		unit_store(u, y + (size_t)t * y_stride, &u->factors[t], &sums[t]);
}

typedef void unit_fn(const struct unit *u, float *y, size_t y_stride);

#define ADD(rows, bits)                                                                            \
	static void add_##rows##_##bits(const struct unit *u, float *y, size_t y_stride)           \
	{                                                                                          \
		unit_add(u, y, y_stride, rows, bits);                                              \
	}
QMAT_SUM_EACH(ADD)

static unit_fn *const adds[QMAT_MAX_BITS][MAX_ROWS] = {
	QMAT_SUM_ENTRIES(add),
};

/* y += `rows` rows of z from `first` on, times a block. */
static void block_add(const struct qmat_sum *a, const struct block *b, size_t first, size_t rows)
{
	const size_t group_bytes = qmat_group_bytes(b->m->bits);
	const size_t span = unit_span((int)b->m->bits);
	const uint8_t *codes = b->m->codes + b->row * b->row_bytes + b->group * group_bytes;
	struct factors factors[MAX_ROWS];

	for (size_t t = 0; t < rows; t++)
		factors_fill(&factors[t], b, a->z + (first + t) * a->z_stride);
	for (size_t lane = 0; lane < b->n_groups; lane += span) {
		const struct unit u = {
			.block = b,
			.factors = factors,
			.codes = codes + lane * group_bytes,
			.lane = lane,
			.n_groups = min_u64(b->n_groups - lane, span),
		};

		adds[b->m->bits][rows - 1](&u, a->y + first * a->y_stride, a->y_stride);
	}
}

void avx512_qmat_accumulate_int(float *y, size_t y_stride, const struct qmat *m, const float *z,
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
	for (b.group = group0; b.group < group1; b.group += b.n_groups) {
		b.n_groups = min_u64(group1 - b.group, LANES);
		for (b.row = 0; b.row < m->rows; b.row += b.height) {
			b.height = min_u64(m->rows - b.row, QMAT_SUM_BLOCK);
			for (size_t t = 0; t < n; t += MAX_ROWS)
				block_add(&a, &b, t, min_u64(n - t, MAX_ROWS));
		}
	}
}
