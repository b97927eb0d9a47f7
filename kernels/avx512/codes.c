/*
 * Dots with codes of one grid a row, in whole numbers: rows of x become three digits of base 256 in
 * blocks of columns, a block in units of its largest number, so that one instruction multiplies 64
 * codes by 64 digits and the sum of a block is exact. Digits are laid out as the bytes of a plane
 * are; planes are added from the highest down.
 */
#include "kernels/avx512/codes.h"

#include "kernels/avx512/lanes.h"
#include "kernels/planes.h"

#include <math.h>
#include <string.h>

#define BLOCK 1024 /* columns: a lane's sum then stays below 2^23 */
#define BLOCK_GROUPS (BLOCK / QMAT_GROUP)
#define BLOCK_STEPS (BLOCK / 64)
#define CHUNK_BLOCKS 4 /* of which the digits are on the stack */
#define CHUNK (CHUNK_BLOCKS * BLOCK)
#define DIGITS 3
#define MAX_ROWS 4         /* of x of which the digits are kept */
#define STRIP 32           /* rows of the matrix that all those meet before the next */
#define TILE 4             /* rows of the matrix at once */
#define LARGEST 8355000.0f /* a little below what three digits can hold */
#define SMALLEST 0x1p-100f /* what blocks of smaller numbers are measured by */

/* Digits of a chunk of a row of x. */
struct panel {
	int8_t digits[PLANES_MAX][CHUNK_BLOCKS * BLOCK_STEPS][DIGITS][64];
	int32_t zeros[CHUNK_BLOCKS][DIGITS][16]; /* what the whole part of the zero adds */
	float units[CHUNK_BLOCKS];
	float rest; /* what the rest of the zero adds to each row, before its factor */
};

struct chunk {
	const struct qmat *m;
	float *z;
	const struct panel *panel;
	size_t group, n_groups; /* of the matrix's row */
	bool is_first;
};

/* Numbers of a block in units of the block, in digits; columns past the last are 0. */
static void block_digits(int8_t ret[DIGITS][BLOCK], float *ret_unit, const float *x, size_t left)
{
	__m512 largest = _mm512_setzero_ps(), broken = _mm512_setzero_ps(), factor;
	float most;

	for (size_t i = 0; i < BLOCK / 16; i++) {
		__m512 v = _mm512_maskz_loadu_ps(lanes_of_vector(i, left), x + i * 16);

		largest = _mm512_max_ps(largest, _mm512_abs_ps(v));
		broken = _mm512_add_ps(broken, _mm512_sub_ps(v, v)); /* NaN past the finite */
	}
	most = _mm512_reduce_max_ps(largest);
	most = most > SMALLEST ? most : SMALLEST;
	*ret_unit = most / LARGEST + _mm512_reduce_add_ps(broken);
	factor = _mm512_set1_ps(LARGEST / most);
	for (size_t i = 0; i < BLOCK / 16; i++) {
		__m512 v = _mm512_maskz_loadu_ps(lanes_of_vector(i, left), x + i * 16);
		__m512i number = _mm512_cvtps_epi32(_mm512_mul_ps(v, factor));

		for (size_t d = 0; d < DIGITS; d++) {
			_mm_storeu_si128((void *)&ret[d][i * 16], _mm512_cvtepi32_epi8(number));
			number = _mm512_srai_epi32(
				_mm512_add_epi32(number, _mm512_set1_epi32(128)), 8);
		}
	}
}

/* The digits of a block in the order in which the bytes of a plane meet them. */
static void block_arrange(int8_t (*ret)[DIGITS][64], const int8_t digits[DIGITS][BLOCK], int width)
{
	for (size_t d = 0; d < DIGITS; d++)
		for (size_t g = 0; g < BLOCK_GROUPS; g++)
			plane_arrange(
				ret[0][d], sizeof(*ret), &digits[d][g * QMAT_GROUP], g, width);
}

/* What a zero adds to a block's sums: its whole part by lanes, exactly; returns the sum of the
 * block's numbers. */
static double block_zeros(int32_t ret[DIGITS][16], int8_t (*digits)[DIGITS][64], int32_t whole)
{
	double total = 0;

	for (int d = DIGITS - 1; d >= 0; d--) {
		__m512i sum = _mm512_setzero_si512();

		for (int i = 0; i < BLOCK_STEPS; i++)
			sum = _mm512_dpbusd_epi32(
				sum, _mm512_set1_epi8(1), _mm512_loadu_si512(digits[i][d]));
		total = total * 256 + _mm512_reduce_add_epi32(sum);
		_mm512_storeu_si512(ret[d], _mm512_mullo_epi32(sum, _mm512_set1_epi32(-whole)));
	}
	return total;
}

/* `n` columns from x on. */
static void panel_fill(struct panel *p, const struct qmat *m, const float *x, size_t n)
{
	const int32_t whole = (int32_t)floorf(m->zero);
	double sum = 0;

	for (size_t b = 0; b * BLOCK < n; b++) {
		int8_t digits[DIGITS][BLOCK];

		block_digits(digits, &p->units[b], x + b * BLOCK, n - b * BLOCK);
		for (int i = 0; i < PLANES_MAX; i++)
			block_arrange(&p->digits[i][b * BLOCK_STEPS], digits,
				plane_of((int)m->bits, i).width);
		sum += p->units[b] *
		       block_zeros(p->zeros[b], &p->digits[0][b * BLOCK_STEPS], whole);
	}
	p->rest = (float)(-((double)m->zero - whole) * sum);
}

/* 64 bytes of a plane; of the `left` groups that there are, if they are not enough. */
static always_inline_ __m512i plane_load(
	const uint8_t *codes, size_t left, struct plane p, int bits, bool is_full)
{
	const size_t plane_bytes = (size_t)(QMAT_LANES * p.width), n_bytes = left * plane_bytes;
	const __mmask64 mask =
		is_full || n_bytes >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n_bytes) - 1;
	const size_t n_parts = 64 / plane_bytes;
	__m512i ret = _mm512_setzero_si512();

	if (p.width == bits || p.width >= 4)
		return _mm512_maskz_loadu_epi8(mask, codes);
		/* Groups stand apart: each gives its part. */
#pragma GCC unroll 4
	for (size_t i = 0; i < n_parts; i++) {
		__mmask64 part = ((UINT64_C(1) << plane_bytes) - 1) << (i * plane_bytes);

		ret = _mm512_mask_loadu_epi8(ret, mask & part,
			codes + i * (size_t)(QMAT_LANES * bits) - i * plane_bytes);
	}
	return ret;
}

/* Asks for what the next tile will read where this one reads a vector of the lowest plane. */
static always_inline_ void codes_prefetch(const uint8_t *at, struct plane p, int bits)
{
	const int n_bytes = 64 * bits / p.width;

#pragma GCC unroll 4
	for (int byte = 0; byte < n_bytes; byte += 64)
		_mm_prefetch((const char *)at + byte, _MM_HINT_T0);
}

struct sums {
	__m512i digits[TILE][DIGITS];
};

/* Adds the dots with one plane of a block. */
static always_inline_ void plane_dot(struct sums *s, const struct chunk *c, const size_t *offsets,
	size_t block, int bits, int plane, bool is_full)
{
	const struct plane p = plane_of(bits, plane);
	const int steps = 8 / p.width; /* codes of a byte */
	const int vector_groups = p.width < 4 ? 4 / p.width : 1;
	const size_t n_groups = is_full ? BLOCK_GROUPS : c->n_groups - block * BLOCK_GROUPS;
	const uint8_t *codes =
		c->m->codes + (c->group + block * BLOCK_GROUPS) * qmat_group_bytes((uint32_t)bits) +
		p.shift * QMAT_LANES;
	const __m512i mask = _mm512_set1_epi8((char)((1 << p.width) - 1));
	const size_t n = (n_groups * (size_t)p.width + 3) / 4;

	for (size_t v = 0; v < n; v++) {
		const size_t group = p.width < 8 ? v * (size_t)vector_groups : v / 2;
		const uint8_t *at = codes + group * qmat_group_bytes((uint32_t)bits) +
				    (p.width == 8 ? v % 2 * 64 : 0);
		__m512i bytes[TILE];

#pragma GCC unroll 4
		for (int r = 0; r < TILE; r++) {
			const uint8_t *line = at + offsets[r];

			bytes[r] = plane_load(line, n_groups - group, p, bits, is_full);
			if (plane == 0)
				codes_prefetch(line + offsets[TILE], p, bits);
		}
#pragma GCC unroll 8
		for (int step = 0; step < steps; step++) {
			const size_t at_step =
				block * BLOCK_STEPS + v * (size_t)steps + (size_t)step;

#pragma GCC unroll 4
			for (int r = 0; r < TILE; r++) {
				__m512i code = _mm512_and_si512(
					mask, _mm512_srli_epi32(
						      bytes[r], (unsigned int)(step * p.width)));

#pragma GCC unroll 3
				for (int d = 0; d < DIGITS; d++)
					s->digits[r][d] = _mm512_dpbusd_epi32(s->digits[r][d], code,
						_mm512_loadu_si512(
							c->panel->digits[plane][at_step][d]));
			}
		}
	}
}

/* The sums of a block, in its units, as numbers. */
static always_inline_ __m512 block_sum(
	const __m512i digits[DIGITS], const struct panel *p, size_t block)
{
	__m512 sum = _mm512_setzero_ps();

#pragma GCC unroll 3
	for (int d = DIGITS - 1; d >= 0; d--) {
		__m512i exact = _mm512_add_epi32(digits[d], _mm512_loadu_si512(p->zeros[block][d]));

		sum = _mm512_fmadd_ps(sum, _mm512_set1_ps(256), _mm512_cvtepi32_ps(exact));
	}
	return sum;
}

static always_inline_ void row_store(const struct chunk *c, size_t row, __m512 sum)
{
	float factor = c->m->step, got;

	if (c->m->scales)
		factor *= _cvtsh_ss(c->m->scales[row * c->m->scale_row]);
	got = factor * (lanes_sum(sum) + c->panel->rest);
	c->z[row] = c->is_first ? got : c->z[row] + got;
}

/* Adds a block's dots, all planes, to the totals. */
static always_inline_ void block_dot(__m512 totals[TILE], const struct chunk *c,
	const size_t *offsets, size_t block, int bits, bool is_full)
{
	const __m512 unit = _mm512_set1_ps(c->panel->units[block]);
	struct sums s;

#pragma GCC unroll 12
	for (int i = 0; i < TILE * DIGITS; i++)
		s.digits[i / DIGITS][i % DIGITS] = _mm512_setzero_si512();
#pragma GCC unroll 3
	for (int plane = PLANES_MAX - 1; plane >= 0; plane--) {
		const int width = plane_of(bits, plane).width;

		if (width == 0)
			continue;
#pragma GCC unroll 12
		for (int i = 0; i < TILE * DIGITS; i++)
			s.digits[i / DIGITS][i % DIGITS] = _mm512_slli_epi32(
				s.digits[i / DIGITS][i % DIGITS], (unsigned int)width);
		plane_dot(&s, c, offsets, block, bits, plane, is_full);
	}
#pragma GCC unroll 4
	for (int r = 0; r < TILE; r++)
		totals[r] =
			_mm512_fmadd_ps(block_sum(s.digits[r], c->panel, block), unit, totals[r]);
}

/* `height` rows from `row` on, at most TILE; where they are fewer, the last one is read again. */
static always_inline_ void chunk_tile(const struct chunk *c, size_t row, size_t height, int bits)
{
	const size_t row_bytes = qmat_groups(c->m->cols) * qmat_group_bytes((uint32_t)bits);
	const size_t n_full = c->n_groups / BLOCK_GROUPS;
	size_t offsets[TILE + 1]; /* of rows, and from a row to the next tile's */
	__m512 totals[TILE];

#pragma GCC unroll 4
	for (size_t r = 0; r < TILE; r++) {
		offsets[r] = (row + min_u64(r, height - 1)) * row_bytes;
		totals[r] = _mm512_setzero_ps();
	}
	offsets[TILE] = TILE * row_bytes;
	for (size_t b = 0; b < n_full; b++)
		block_dot(totals, c, offsets, b, bits, true);
	if (c->n_groups % BLOCK_GROUPS)
		block_dot(totals, c, offsets, n_full, bits, false);
#pragma GCC unroll 4
	for (size_t r = 0; r < TILE; r++)
		if (r < height)
			row_store(c, row + r, totals[r]);
}

typedef void chunk_fn(const struct chunk *c, size_t row0, size_t row1);

#define DOT(bits)                                                                                  \
	static void dot_##bits(const struct chunk *c, size_t row0, size_t row1)                    \
	{                                                                                          \
		for (; row0 < row1; row0 += TILE)                                                  \
			chunk_tile(c, row0, min_u64(row1 - row0, TILE), bits);                     \
	}
DOT(1)
DOT(2)
DOT(3)
DOT(4)
DOT(5)
DOT(6)
DOT(7)
DOT(8)

static chunk_fn *const dots[QMAT_MAX_BITS + 1] = {
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

bool avx512_codes_fit(const struct qmat *m)
{
	return m->bits <= QMAT_MAX_BITS && !m->zeros && (!m->scales || m->scale_group == 0) &&
	       m->zero >= 0 && m->zero <= (float)(1 << QMAT_MAX_BITS);
}

/* `rows` rows of d->x from row `first` on, and a chunk of columns. */
static void chunk_dot(
	const struct qmat_dot *d, size_t first, size_t rows, size_t col, size_t row0, size_t row1)
{
	const size_t n_cols = min_u64(d->m->cols - col, CHUNK);
	struct panel panels[MAX_ROWS];
	struct chunk c = {
		.m = d->m,
		.group = col / QMAT_GROUP,
		.n_groups = qmat_groups((uint32_t)n_cols),
		.is_first = col == 0,
	};

	for (size_t t = 0; t < rows; t++)
		panel_fill(&panels[t], d->m, d->x + (first + t) * d->x_stride + col, n_cols);
	for (size_t row = row0; row < row1; row += STRIP) {
		for (size_t t = 0; t < rows; t++) {
			c.panel = &panels[t];
			c.z = d->z + (first + t) * d->z_stride;
			dots[d->m->bits](&c, row, min_u64(row + STRIP, row1));
		}
	}
}

void avx512_codes_dot(const struct qmat_dot *d, size_t n, size_t row0, size_t row1)
{
	for (size_t t = 0; t < n; t += MAX_ROWS)
		for (size_t col = 0; col == 0 || col < d->m->cols; col += CHUNK)
			chunk_dot(d, t, min_u64(n - t, MAX_ROWS), col, row0, row1);
}
