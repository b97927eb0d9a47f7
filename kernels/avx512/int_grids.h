/*
 * What the grids of a group of 4 bits say (kernels/types.h, struct mat_int), for all rows of a
 * block.
 */
#pragma once

#include "kernels/avx512/lanes.h"
#include "kernels/types.h"

struct int_grids {
	__m512i steps[2];     /* those of four sub-groups in the bytes of a lane */
	__m512i negatives[4]; /* of two sub-groups, what is as much below zero as their offsets are
				 above, in the words of a lane */
};

/* From the bytes of each lane to its words: which byte goes to the lower, and to the upper one. */
static always_inline_ __m512i lanes_spread(__m512i bytes, int lower, int upper)
{
	const __m512i lane = _mm512_set4_epi32(0x0c000c, 0x080008, 0x040004, 0);
	const int from = (int)(0x80008000 | (unsigned int)(upper << 16 | lower));

	return _mm512_shuffle_epi8(bytes, _mm512_or_si512(lane, _mm512_set1_epi32(from)));
}

/* offset = (step * quarters + 2) / 4, and that of a negative number rounds upwards. */
static always_inline_ struct int_grids int_grids_of(const uint8_t lines[static MAT_INT_GRIDS])
{
	const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(MAT_INT_STEPS, MAT_INT_STEPS));
	struct int_grids ret;

#pragma GCC unroll 2
	for (int i = 0; i < 2; i++) {
		__m512i line = _mm512_load_si512(lines + i * MAT_INT_LINE), quarters;

		ret.steps[i] =
			_mm512_shuffle_epi8(table, _mm512_and_si512(line, _mm512_set1_epi8(7)));
		quarters = _mm512_add_epi8(_mm512_set1_epi8(MAT_INT_LEAST_ZERO),
			_mm512_and_si512(_mm512_srli_epi16(line, 2), _mm512_set1_epi8(14)));
#pragma GCC unroll 2
		for (int pair = 0; pair < 2; pair++) {
			int lower = 2 * pair, upper = lower + 1;
			__m512i fours = _mm512_mullo_epi16(lanes_spread(ret.steps[i], lower, upper),
				lanes_spread(quarters, lower, upper));

			ret.negatives[2 * i + pair] =
				_mm512_srai_epi16(_mm512_sub_epi16(_mm512_set1_epi16(1), fours), 2);
		}
	}
	return ret;
}

/* The scales: two bits at the top of each byte, which come together 64 times as large. */
static always_inline_ __m512 int_grids_scale(const uint8_t lines[static MAT_INT_GRIDS])
{
	const __m512i top = _mm512_set1_epi8((char)0xc0), places = _mm512_set1_epi32(0x40100401);
	__m512i low = _mm512_and_si512(_mm512_load_si512(lines), top);
	__m512i high = _mm512_and_si512(_mm512_load_si512(lines + MAT_INT_LINE), top);
	__m512i upper = _mm512_dpbusd_epi32(_mm512_setzero_si512(), high, places);
	__m512i sum = _mm512_dpbusd_epi32(_mm512_slli_epi32(upper, 8), low, places);

	return _mm512_castsi512_ps(_mm512_slli_epi32(sum, 16 - 6));
}
