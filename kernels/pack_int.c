#include "kernels/convert.h"
#include "kernels/pack.h"

#include "common/base.h"

#define QUAD 4 /* inputs of an output that stand side by side */
#define HALF_QUADS (MAT_INT_GROUP / QUAD / 2)

uint64_t mat_int_codes_bytes(uint32_t rows, uint32_t cols, uint32_t bits)
{
	return (uint64_t)mat_int_blocks(rows) * mat_int_groups(cols) * mat_int_group_bytes(bits);
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
			at[q * MAT_INT_LINE + i] = low;
			at[(q + HALF_QUADS) * MAT_INT_LINE + i] = high;
		}
}

void mat_int_group_numbers(
	int8_t ret[static MAT_INT_GROUP], const struct mat_int *m, uint32_t row, size_t group)
{
	const uint8_t *at = m->codes + first_quad(m, row, group);
	uint16_t multipliers = m->bits == 4 ? m->multipliers[mat_int_lane(m, row, group)] : 0;

	for (size_t c = 0; c < MAT_INT_GROUP; c++) {
		size_t q = c / QUAD, i = c % QUAD;
		int code;

		if (m->bits == 8) {
			ret[c] = (int8_t)(at[q * MAT_INT_LINE + i] - 128);
			continue;
		}
		code = at[q % HALF_QUADS * MAT_INT_LINE + i] >> q / HALF_QUADS * 4 & 15;
		ret[c] = (int8_t)(mat_int_multiplier(multipliers, c / MAT_INT_SUBGROUP) *
				  (code - 8));
	}
}

float mat_int_scale(const struct mat_int *m, uint32_t row, size_t group)
{
	return bf16_to_f32(m->scales[mat_int_lane(m, row, group)]);
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
