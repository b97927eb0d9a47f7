/*
 * Survivors by rounded inputs: a shuffle looks 16 inputs up in each quarter of a register, and one
 * instruction multiplies 64 codes, where they stand in their bytes, by 64 inputs.
 */
#include "kernels/dropmat_int.h"

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/lanes.h"

#define TILE DROPMAT_TILE
#define AHEAD_BYTES 2048 /* of each row of a tile, memory is asked for this much before its use */

struct form {
	__m512i index_mask, code_mask, above, zero;
	__mmask64 uses[DROPMAT_MAX_TABLES]; /* entries that a table serves */
};

static always_inline_ struct form form_of(const struct dropmat_int_tile *t, int tables)
{
	const __m128i table_of = _mm_loadu_si128((const void *)t->form.table_of);
	struct form f = {
		.index_mask = _mm512_set1_epi8((char)(t->m->group - 1)),
		.code_mask = _mm512_set1_epi8((char)~(t->m->group - 1)),
		.above = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)t->form.above)),
		.zero = _mm512_set1_epi8((char)t->form.zero),
	};

#pragma GCC unroll 16
	for (int i = 0; i < tables; i++)
		f.uses[i] = _mm512_cmpeq_epi8_mask(
			_mm512_broadcast_i32x4(table_of), _mm512_set1_epi8((char)i));
	return f;
}

/* What 64 entries add, by fours. */
static always_inline_ __m512i entries_dot(
	const struct form *f, __m512i entries, const int8_t (*x)[DROPMAT_LINE], int tables)
{
	/* (entries & index_mask) | above */
	const __m512i places = _mm512_ternarylogic_epi32(entries, f->index_mask, f->above, 0xea);
	__m512i inputs = _mm512_shuffle_epi8(_mm512_load_si512(x[0]), places);
	__m512i sums, zeros;

#pragma GCC unroll 16
	for (int i = 1; i < tables; i++)
		inputs = _mm512_mask_shuffle_epi8(
			inputs, f->uses[i], _mm512_load_si512(x[i]), places);
	sums = _mm512_dpbusd_epi32(
		_mm512_setzero_si512(), _mm512_and_si512(entries, f->code_mask), inputs);
	zeros = _mm512_dpbusd_epi32(_mm512_setzero_si512(), f->zero, inputs);
	return _mm512_sub_epi32(sums, zeros);
}

static always_inline_ void dot_tile(const struct dropmat_int_tile *t, float ret[TILE], int tables)
{
	const struct form f = form_of(t, tables);
	const int8_t(*x)[DROPMAT_LINE] = t->panel->tables;
	__m512 chains[TILE];

#pragma GCC unroll 4
	for (int r = 0; r < TILE; r++)
		chains[r] = _mm512_setzero_ps();
	for (size_t at = 0; at < t->n_bytes; at += DROPMAT_LINE, x += tables) {
		const size_t left = t->n_bytes - at;
		const __mmask64 there =
			left < DROPMAT_LINE ? (UINT64_C(1) << left) - 1 : ~UINT64_C(0);
		const __m512 scale = _mm512_load_ps(t->panel->scales[at / DROPMAT_LINE]);

#pragma GCC unroll 4
		for (int r = 0; r < TILE; r++) {
			const uint8_t *entries = t->rows[r] + at;
			__m512i sums =
				entries_dot(&f, _mm512_maskz_loadu_epi8(there, entries), x, tables);

			_mm_prefetch((const char *)entries + AHEAD_BYTES, _MM_HINT_T0);
			chains[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, chains[r]);
		}
	}
#pragma GCC unroll 4
	for (int r = 0; r < TILE; r++)
		ret[r] = lanes_sum(chains[r]);
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

void avx512_dropmat_dot_int(float *y, size_t y_stride, const struct dropmat *m,
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
