#include "kernels/amx/expand.h"

#include "kernels/avx512/lanes.h"

#define UNIT_LINES 8
#define HALF_LINES 16 /* of 4 bits' low halves, and of a tile */

static void unit_of_8(int8_t *ret, const uint8_t *codes)
{
	const __m512i zero = _mm512_set1_epi8((char)0x80);

#pragma GCC unroll 8
	for (size_t i = 0; i < UNIT_LINES * MAT_INT_LINE; i += MAT_INT_LINE)
		_mm512_store_si512(ret + i, _mm512_xor_si512(_mm512_load_si512(codes + i), zero));
}

/* multiplier * (code - 8) of one sub-group: |multiplier| * code fits a byte, so that one
 * multiplication serves two codes, and the rest is a sum modulo 256. */
struct multiplier {
	__m512i size; /* in both words of a lane */
	__m512i sign; /* all ones if it is negative */
	__m512i zero; /* what to add after the bits were turned by the sign, in each byte */
};

static always_inline_ struct multiplier multiplier_of(__m512i bits, unsigned int subgroup)
{
	const __m512i four = _mm512_srli_epi32(bits, 4 * subgroup);
	struct multiplier m;
	__m512i bytes;

	m.size = _mm512_add_epi32(_mm512_and_si512(four, _mm512_set1_epi32(7)),
		_mm512_set1_epi32(MAT_INT_MULTIPLIER));
	m.size = _mm512_or_si512(m.size, _mm512_slli_epi32(m.size, 16));
	m.sign = _mm512_movm_epi32(_mm512_test_epi32_mask(four, _mm512_set1_epi32(8)));
	bytes = _mm512_or_si512(m.size, _mm512_slli_epi16(m.size, 8));
	bytes = _mm512_slli_epi16(bytes, 3);
	/* ~(size code) + 8 size + 1  or  size code - 8 size */
	m.zero = _mm512_mask_sub_epi8(_mm512_sub_epi8(_mm512_setzero_si512(), bytes),
		_mm512_movepi8_mask(m.sign), bytes, _mm512_set1_epi8(-1));
	return m;
}

static always_inline_ __m512i multiplied(__m512i codes, const struct multiplier *m)
{
	__m512i product = _mm512_mullo_epi16(codes, m->size);

	return _mm512_add_epi8(_mm512_xor_si512(product, m->sign), m->zero);
}

/* Two sub-groups: `half` and the one whose codes stand above its. */
static void unit_of_4(int8_t *ret, const uint8_t *codes, const uint16_t *multipliers, size_t half)
{
	const __m512i low_half = _mm512_set1_epi8(0x0f);
	const __m512i bits = lanes_words(multipliers);
	const struct multiplier low = multiplier_of(bits, (unsigned int)half),
				high = multiplier_of(bits, (unsigned int)half + 2);

	for (size_t i = half * UNIT_LINES; i < (half + 1) * UNIT_LINES; i++) {
		__m512i line = _mm512_load_si512(codes + i * MAT_INT_LINE);
		__m512i upper = _mm512_and_si512(_mm512_srli_epi16(line, 4), low_half);

		_mm512_store_si512(
			ret + i * MAT_INT_LINE, multiplied(_mm512_and_si512(line, low_half), &low));
		_mm512_store_si512(ret + (i + HALF_LINES) * MAT_INT_LINE, multiplied(upper, &high));
	}
}

void expand_unit(int8_t ret[static EXPAND_GROUP_BYTES], const uint8_t *codes,
	const uint16_t *multipliers, uint32_t bits, size_t unit)
{
	const size_t at = unit * UNIT_LINES * MAT_INT_LINE;

	if (bits == 4)
		unit_of_4(ret, codes, multipliers, unit);
	else
		unit_of_8(ret + at, codes + at);
}
