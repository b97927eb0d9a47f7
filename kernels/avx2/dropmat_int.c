/*
 * Survivors by rounded inputs: a shuffle looks 16 inputs up in each half of a register and gives 0
 * for entries of other tables. Codes are moved to the lower end of their bytes, where two products
 * fit 16 bits: 2 x 127 x 127.
 */
#include "kernels/dropmat_int.h"

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/lanes.h"

#define TILE DROPMAT_TILE
#define HALVES 2 /* registers of a vector */
#define AHEAD_BYTES 2048

struct form {
	__m256i index_mask, code_mask, above;
	__m256i power, zero; /* 2^index_bits; times that */
	__m128i index_bits;
	__m256i others[DROPMAT_MAX_TABLES]; /* the highest bit is set where a table serves not */
};

static always_inline_ struct form form_of(const struct dropmat_int_tile *t)
{
	const __m256i table_of =
		_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)t->form.table_of));
	struct form f = {
		.index_mask = _mm256_set1_epi8((char)(t->m->group - 1)),
		.code_mask = _mm256_set1_epi8((char)(0xff >> t->m->index_bits)),
		.above = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)t->form.above)),
		.power = _mm256_set1_epi16((short)(1 << t->m->index_bits)),
		.zero = _mm256_set1_epi16(t->form.zero),
		.index_bits = _mm_cvtsi32_si128((int)t->m->index_bits),
	};

	for (uint32_t i = 0; i < t->form.tables; i++)
		f.others[i] =
			_mm256_andnot_si256(_mm256_cmpeq_epi8(table_of, _mm256_set1_epi8((char)i)),
				_mm256_set1_epi8((char)0x80));
	return f;
}

/* What 32 entries add, by fours. */
static always_inline_ __m256i entries_dot(
	const struct form *f, __m256i entries, const int8_t *x, int tables)
{
	const __m256i places = _mm256_or_si256(_mm256_and_si256(entries, f->index_mask), f->above);
	const __m256i codes =
		_mm256_and_si256(_mm256_srl_epi16(entries, f->index_bits), f->code_mask);
	const __m256i ones = _mm256_set1_epi8(1);
	__m256i inputs = _mm256_setzero_si256(), products, sums;

#pragma GCC unroll 16
	for (int i = 0; i < tables; i++)
		inputs = _mm256_or_si256(inputs,
			_mm256_shuffle_epi8(_mm256_load_si256((const void *)(x + i * DROPMAT_LINE)),
				_mm256_or_si256(places, f->others[i])));
	products = _mm256_madd_epi16(_mm256_maddubs_epi16(codes, inputs), f->power);
	sums = _mm256_madd_epi16(_mm256_maddubs_epi16(ones, inputs), f->zero);
	return _mm256_sub_epi32(products, sums);
}

/* 32 entries, of which `left` are there. */
static always_inline_ __m256i entries_load(const uint8_t *at, size_t left)
{
	uint8_t rest[DROPMAT_LINE / HALVES] = {0};

	if (left >= sizeof(rest))
		return _mm256_loadu_si256((const void *)at);
	memcpy(rest, at, left);
	return _mm256_loadu_si256((const void *)rest);
}

static always_inline_ void dot_tile(const struct dropmat_int_tile *t, float ret[TILE], int tables)
{
	const struct form f = form_of(t);
	const int8_t(*x)[DROPMAT_LINE] = t->panel->tables;
	__m256 chains[TILE][HALVES];

	for (int i = 0; i < TILE * HALVES; i++)
		chains[i / HALVES][i % HALVES] = _mm256_setzero_ps();
	for (size_t at = 0; at < t->n_bytes; at += DROPMAT_LINE, x += tables) {
#pragma GCC unroll 2
		for (int half = 0; half < HALVES; half++) {
			const size_t byte = at + (size_t)half * DROPMAT_LINE / HALVES;
			const size_t left = t->n_bytes > byte ? t->n_bytes - byte : 0;
			const __m256 scale =
				_mm256_load_ps(t->panel->scales[at / DROPMAT_LINE] + 8 * half);

#pragma GCC unroll 4
			for (int r = 0; r < TILE; r++) {
				__m256i sums =
					entries_dot(&f, entries_load(t->rows[r] + byte, left),
						x[0] + half * DROPMAT_LINE / HALVES, tables);

				if (half == 0)
					_mm_prefetch((const char *)t->rows[r] + at + AHEAD_BYTES,
						_MM_HINT_T0);
				chains[r][half] = _mm256_fmadd_ps(
					_mm256_cvtepi32_ps(sums), scale, chains[r][half]);
			}
		}
	}
	for (int r = 0; r < TILE; r++)
		ret[r] = lanes_sum(chains[r][0], chains[r][1]);
}

#define DOT(tables)                                                                                \
	static void dot_##tables(const struct dropmat_int_tile *t, float ret[TILE])                \
	{                                                                                          \
		dot_tile(t, ret, tables);                                                          \
	}
DOT(1)
DOT(2)
DOT(4)
DOT(8)
DOT(16)

void avx2_dropmat_dot_int(float *y, size_t y_stride, const struct dropmat *m,
	const struct act_group *x, size_t x_stride, size_t n, size_t row0, size_t row1)
{
	static dropmat_int_fn *const dots[] = {dot_1, dot_2, dot_4, dot_8, dot_16};
	const struct dropmat_int_call c = {
		.y = y,
		.y_stride = y_stride,
		.m = m,
		.x = x,
		.x_stride = x_stride,
	};

	dropmat_int_by_strips(&c, n, dots, row0, row1);
}
