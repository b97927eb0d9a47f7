#include "kernels/amx/expand.h"

#include "kernels/avx512/int_grids.h"

#define UNIT_LINES 8
#define HALF_LINES 16    /* of 4 bits' low halves, and of a tile */
#define SUBGROUP_LINES 4 /* of 4 bits */

static void unit_of_8(int8_t *ret, const uint8_t *codes)
{
	const __m512i zero = _mm512_set1_epi8((char)0x80);

#pragma GCC unroll 8
	for (size_t i = 0; i < UNIT_LINES * MAT_INT_LINE; i += MAT_INT_LINE)
		_mm512_store_si512(ret + i, _mm512_xor_si512(_mm512_load_si512(codes + i), zero));
}

/* step * code - offset of one sub-group: step * code fits a byte, so that one multiplication serves
 * two codes, and the rest is a sum modulo 256. */
struct grid {
	__m512i step;     /* in both words of a lane */
	__m512i negative; /* what is as much below zero as the offset is above, in each byte */
};

static always_inline_ struct grid grid_of(const struct int_grids *g, int subgroup)
{
	const int byte = subgroup % 2 * 2;
	const __m512i lane = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);

	return (struct grid){
		lanes_spread(g->steps[subgroup / 4], subgroup % 4, subgroup % 4),
		_mm512_shuffle_epi8(g->negatives[subgroup / 2],
			_mm512_or_si512(lane, _mm512_set1_epi8((char)byte))),
	};
}

static always_inline_ __m512i number_of(__m512i codes, const struct grid *g)
{
	return _mm512_add_epi8(_mm512_mullo_epi16(codes, g->step), g->negative);
}

/* Two sub-groups: `low` and the one whose codes stand above its. */
static always_inline_ void subgroups_expand(
	int8_t *ret, const uint8_t *codes, const struct int_grids *g, int low)
{
	const __m512i mask = _mm512_set1_epi8(0x0f);
	const struct grid lower = grid_of(g, low), upper = grid_of(g, low + 4);

#pragma GCC unroll 4
	for (int i = low * SUBGROUP_LINES; i < (low + 1) * SUBGROUP_LINES; i++) {
		__m512i line = _mm512_load_si512(codes + i * MAT_INT_LINE);
		__m512i above = _mm512_and_si512(_mm512_srli_epi16(line, 4), mask);

		_mm512_store_si512(
			ret + i * MAT_INT_LINE, number_of(_mm512_and_si512(line, mask), &lower));
		_mm512_store_si512(ret + (i + HALF_LINES) * MAT_INT_LINE, number_of(above, &upper));
	}
}

/* Four sub-groups: two neighbours, and those whose codes stand above theirs. */
static void unit_of_4(int8_t *ret, const uint8_t *codes, const uint8_t *grids, size_t half)
{
	const struct int_grids g = int_grids_of(grids);

	if (half == 0) {
		subgroups_expand(ret, codes, &g, 0);
		subgroups_expand(ret, codes, &g, 1);
	} else {
		subgroups_expand(ret, codes, &g, 2);
		subgroups_expand(ret, codes, &g, 3);
	}
}

void expand_unit(int8_t ret[static EXPAND_GROUP_BYTES], const uint8_t *codes, const uint8_t *grids,
	uint32_t bits, size_t unit)
{
	const size_t at = unit * UNIT_LINES * MAT_INT_LINE;

	if (bits == 4)
		unit_of_4(ret, codes, grids, unit);
	else
		unit_of_8(ret + at, codes + at);
}

void expand_scales(float ret[static MAT_BLOCK], const struct mat_int *w, size_t index)
{
	_mm512_store_ps(ret, w->bits == 4 ? int_grids_scale(w->grids + index * MAT_INT_GRIDS)
					  : lanes_bf16(w->scales + index * MAT_BLOCK));
}
