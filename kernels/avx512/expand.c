#include "kernels/avx512/expand.h"

#include "kernels/avx512/int_grids.h"

#define HALF_LINES 16 /* of the codes' lower halves, and of a tile */
#define SUBGROUP_LINES 4
#define AHEAD_GROUPS 4 /* memory is asked for this much before it is used */

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

static void scales_expand(uint16_t ret[static MAT_BLOCK], const uint8_t lines[static MAT_INT_GRIDS])
{
	const __m512i scales = _mm512_castps_si512(int_grids_scale(lines));

	_mm512_mask_cvtepi32_storeu_epi16(ret, 0xffff, _mm512_srli_epi32(scales, 16));
}

static void codes_fetch(const uint8_t *codes)
{
	for (size_t i = 0; i < mat_int_group_bytes(4); i += MAT_INT_LINE)
		_mm_prefetch((const char *)codes + i, _MM_HINT_T0);
}

void expand_groups(int8_t *codes, uint16_t *scales, const struct mat_int *w, size_t block,
	size_t begin, size_t end)
{
	const size_t first = block * mat_int_groups(w->cols);

	for (size_t i = first + begin; i < first + end; i++) {
		const uint8_t *from = w->codes + i * mat_int_group_bytes(4);
		const uint8_t *lines = w->grids + i * MAT_INT_GRIDS;
		const struct int_grids grids = int_grids_of(lines);

		codes_fetch(from + AHEAD_GROUPS * mat_int_group_bytes(4));
		subgroups_expand(codes, from, &grids, 0);
		subgroups_expand(codes, from, &grids, 1);
		subgroups_expand(codes, from, &grids, 2);
		subgroups_expand(codes, from, &grids, 3);
		scales_expand(scales, lines);
		codes += EXPAND_GROUP_BYTES;
		scales += MAT_BLOCK;
	}
}
