#include "kernels/convert.h"
#include "kernels/pack.h"

#include "common/base.h"

#include <string.h>

#define QUAD 4 /* inputs of an output that stand side by side */
#define HALF_QUADS (MAT_INT_GROUP / QUAD / 2)
#define GRIDS_OF_LINE 4 /* of a row */
#define GRID_BITS 6     /* of a byte; those above are the scale's */
#define SIGN 0x80       /* of a byte: between a signed code and one with 128 for 0 */

uint64_t mat_int_codes_bytes(uint32_t rows, uint32_t cols, uint32_t bits)
{
	return (uint64_t)mat_int_blocks(rows) * mat_int_groups(cols) * mat_int_group_bytes(bits);
}

uint64_t mat_int_grids_bytes(uint32_t rows, uint32_t cols)
{
	return (uint64_t)mat_int_blocks(rows) * mat_int_groups(cols) * MAT_INT_GRIDS;
}

uint64_t mat_int_n_scales(uint32_t rows, uint32_t cols)
{
	return (uint64_t)mat_int_blocks(rows) * mat_int_groups(cols) * MAT_BLOCK;
}

/* Where the first quad of a group of a row stands in the codes; others follow, a line each. */
static size_t first_quad(const struct mat_int *m, uint32_t row, size_t group)
{
	return (row / MAT_BLOCK * mat_int_groups(m->cols) + group) * mat_int_group_bytes(m->bits) +
	       row % MAT_BLOCK * QUAD;
}

void mat_int_group_pack(uint8_t *ret, const struct mat_int *m, uint32_t row, size_t group,
	const uint8_t codes[static MAT_INT_GROUP])
{
	uint8_t *at = ret + first_quad(m, row, group);

	for (size_t q = 0; q < HALF_QUADS; q++)
		for (size_t i = 0; i < QUAD; i++) {
			uint8_t low = codes[q * QUAD + i],
				high = codes[(q + HALF_QUADS) * QUAD + i];

			if (m->bits == 4) {
				at[q * MAT_INT_LINE + i] = (uint8_t)(high << 4 | low);
				continue;
			}
			at[q * MAT_INT_LINE + i] = low ^ SIGN;
			at[(q + HALF_QUADS) * MAT_INT_LINE + i] = high ^ SIGN;
		}
}

/* Of the lane of a group of a row. */
static size_t grid_place(size_t lane, size_t subgroup)
{
	return lane / MAT_BLOCK * MAT_INT_GRIDS + subgroup / GRIDS_OF_LINE * MAT_INT_LINE +
	       lane % MAT_BLOCK * GRIDS_OF_LINE + subgroup % GRIDS_OF_LINE;
}

void mat_int_grids_pack(uint8_t *ret, const struct mat_int *m, uint32_t row, size_t group,
	const uint8_t grids[static MAT_INT_SUBGROUPS], uint16_t scale)
{
	size_t lane = mat_int_lane(m, row, group);

	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++)
		ret[grid_place(lane, s)] = (uint8_t)(grids[s] | (scale >> 2 * s & 3) << GRID_BITS);
}

uint8_t mat_int_grid(const struct mat_int *m, uint32_t row, size_t group, size_t subgroup)
{
	size_t place = grid_place(mat_int_lane(m, row, group), subgroup);

	return m->grids[place] & ((1 << GRID_BITS) - 1);
}

static uint8_t code_at(const uint8_t *group, uint32_t bits, size_t input)
{
	size_t quad = input / QUAD, i = input % QUAD;

	if (bits == 8)
		return group[quad * MAT_INT_LINE + i] ^ SIGN;
	return group[quad % HALF_QUADS * MAT_INT_LINE + i] >> quad / HALF_QUADS * 4 & 15;
}

void mat_int_group_numbers(
	int8_t ret[static MAT_INT_GROUP], const struct mat_int *m, uint32_t row, size_t group)
{
	const uint8_t *codes = m->codes + first_quad(m, row, group);

	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
		uint8_t grid = m->bits == 4 ? mat_int_grid(m, row, group, s) : 0;
		int step = m->bits == 4 ? mat_int_step(grid) : 1;
		int offset = m->bits == 4 ? mat_int_offset(grid) : 128;

		for (size_t i = s * MAT_INT_SUBGROUP; i < (s + 1) * MAT_INT_SUBGROUP; i++)
			ret[i] = (int8_t)(step * code_at(codes, m->bits, i) - offset);
	}
}

static uint16_t lane_scale(const struct mat_int *m, size_t lane)
{
	unsigned int scale = 0;

	if (m->bits == 8)
		return m->scales[lane];
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++)
		scale |= (unsigned int)m->grids[grid_place(lane, s)] >> GRID_BITS << 2 * s;
	return (uint16_t)scale;
}

float mat_int_scale(const struct mat_int *m, uint32_t row, size_t group)
{
	return bf16_to_f32(lane_scale(m, mat_int_lane(m, row, group)));
}

void mat_int_row_values(float *ret, const struct mat_int *m, uint32_t row)
{
	int8_t numbers[MAT_INT_GROUP];

	for (size_t c = 0; c < m->cols; c += MAT_INT_GROUP) {
		float scale = mat_int_scale(m, row, c / MAT_INT_GROUP);
		size_t n = min_u64(m->cols - c, MAT_INT_GROUP);

		mat_int_group_numbers(numbers, m, row, c / MAT_INT_GROUP);
		for (size_t i = 0; i < n; i++)
			ret[c + i] = scale * (float)numbers[i];
	}
}

#define EXPONENT 0x7f80 /* of bf16; all of it set: not a finite number */
/* Where it stands in a row's grids, as two words. */
#define EXPONENT_LOW 0x80000000
#define EXPONENT_HIGH 0x40c0c0c0

/* Of all rows of a block, in one group. */
static bool grids_finite(const uint8_t grids[static MAT_INT_GRIDS])
{
	uint32_t words[2][MAT_BLOCK], found = 0;

	memcpy(words, grids, sizeof(words));
	for (size_t i = 0; i < MAT_BLOCK; i++)
		found |= (words[0][i] & EXPONENT_LOW) == EXPONENT_LOW &&
			 (words[1][i] & EXPONENT_HIGH) == EXPONENT_HIGH;
	return !found;
}

uint64_t mat_int_finite_scales(const struct mat_int *m)
{
	uint64_t n = mat_int_n_scales(m->rows, m->cols), lane = 0;

	while (m->bits == 4 && lane < n &&
		grids_finite(m->grids + lane / MAT_BLOCK * MAT_INT_GRIDS))
		lane += MAT_BLOCK;
	while (lane < n && (lane_scale(m, lane) & EXPONENT) != EXPONENT)
		lane++;
	return lane;
}
