#include "kernels/pack.h"

#include "kernels/convert.h"

#include <assert.h>
#include <string.h>

size_t mat_bf16_size(uint32_t rows, uint32_t cols)
{
	return mat_bf16_blocks(rows) * MAT_BLOCK * 2 * mat_bf16_pairs(cols);
}

void mat_bf16_pack_row(uint16_t *packed, uint32_t cols, uint32_t row, const uint16_t *source)
{
	uint16_t *lane = packed + mat_bf16_index(cols, row, 0);

	for (uint32_t c = 0; c < cols; c++)
		lane[(size_t)(c / 2) * (2 * MAT_BLOCK) + c % 2] = source[c];
}

void mat_bf16_pack(uint16_t *ret, const uint16_t *source, uint32_t rows, uint32_t cols)
{
	memset(ret, 0, mat_bf16_size(rows, cols) * sizeof(*ret));
	for (uint32_t r = 0; r < rows; r++)
		mat_bf16_pack_row(ret, cols, r, source + (size_t)r * cols);
}

void mat_bf16_unpack_row(uint16_t *ret, const struct mat_bf16 *m, uint32_t row)
{
	const uint16_t *lane = m->data + mat_bf16_index(m->cols, row, 0);

	for (uint32_t c = 0; c < m->cols; c++)
		ret[c] = lane[(size_t)(c / 2) * (2 * MAT_BLOCK) + c % 2];
}

void mat_bf16_unpack(uint16_t *ret, const struct mat_bf16 *m)
{
	for (uint32_t r = 0; r < m->rows; r++)
		mat_bf16_unpack_row(ret + (size_t)r * m->cols, m, r);
}

bool qmat_bits_valid(uint32_t bits)
{
	return bits == 2 || bits == 3 || bits == 4 || bits == 8;
}

uint64_t qmat_n_scales(uint32_t rows, uint32_t cols)
{
	return (uint64_t)rows * qmat_groups(cols);
}

uint64_t qmat_codes_bytes(uint32_t rows, uint32_t cols, uint32_t bits)
{
	return qmat_n_scales(rows, cols) * qmat_group_bytes(bits);
}

/* The widest plane that a width of `bits` starts with; what is left makes the next planes. */
static uint32_t plane_bits(uint32_t bits)
{
	assert(bits >= 1 && bits <= QMAT_MAX_BITS);
	return bits >= 8 ? 8 : bits >= 4 ? 4 : bits >= 2 ? 2 : 1;
}

/* Bits `shift` and up of the codes, as many as the plane holds. */
static void plane_pack(uint8_t *ret, const uint8_t *codes, uint32_t width, uint32_t shift)
{
	uint32_t mask = (1u << width) - 1;

	for (uint32_t lane = 0; lane < QMAT_LANES; lane++) {
		uint64_t packed = 0;

		for (uint32_t s = 0; s < QMAT_GROUP / QMAT_LANES; s++) {
			uint64_t part = (codes[QMAT_LANES * s + lane] >> shift) & mask;

			packed |= part << (s * width);
		}
		for (uint32_t byte = 0; byte < width; byte++)
			ret[lane * width + byte] = (uint8_t)(packed >> (8 * byte));
	}
}

static uint32_t plane_get(const uint8_t *plane, uint32_t width, uint32_t column)
{
	uint32_t lane = column % QMAT_LANES;
	uint32_t bit = column / QMAT_LANES * width;

	return (plane[lane * width + bit / 8] >> (bit % 8)) & ((1u << width) - 1);
}

void qmat_group_pack(uint8_t *ret, const uint8_t codes[static QMAT_GROUP], uint32_t bits)
{
	for (uint32_t shift = 0; shift < bits;) {
		uint32_t width = plane_bits(bits - shift);

		plane_pack(ret, codes, width, shift);
		ret += QMAT_LANES * width;
		shift += width;
	}
}

static uint8_t group_code(const uint8_t *packed, uint32_t bits, uint32_t column)
{
	uint32_t code = 0;

	for (uint32_t shift = 0; shift < bits;) {
		uint32_t width = plane_bits(bits - shift);

		code |= plane_get(packed, width, column) << shift;
		packed += QMAT_LANES * width;
		shift += width;
	}
	return (uint8_t)code;
}

void qmat_group_unpack(uint8_t ret_codes[static QMAT_GROUP], const uint8_t *packed, uint32_t bits)
{
	for (uint32_t c = 0; c < QMAT_GROUP; c++)
		ret_codes[c] = group_code(packed, bits, c);
}

void qmat_row_pack(
	uint8_t *ret, const uint8_t *codes, const uint8_t *zeros, uint32_t cols, uint32_t bits)
{
	for (size_t g = 0; g < qmat_groups(cols); g++) {
		uint32_t left = cols - (uint32_t)g * QMAT_GROUP;
		uint32_t n = left < QMAT_GROUP ? left : QMAT_GROUP;
		uint8_t group[QMAT_GROUP];

		memcpy(group, codes + g * QMAT_GROUP, n);
		memset(group + n, zeros[g], QMAT_GROUP - n);
		qmat_group_pack(ret + g * qmat_group_bytes(bits), group, bits);
	}
}

/* The grid and codes of the group of a row that holds a column. */
struct group {
	const uint8_t *codes;
	float scale;
	int zero;
};

static struct group group_of(const struct qmat *m, uint32_t row, uint32_t col)
{
	size_t index = row * qmat_groups(m->cols) + col / QMAT_GROUP;

	return (struct group){
		.codes = m->codes + index * qmat_group_bytes(m->bits),
		.scale = f16_to_f32(m->scales[index]),
		.zero = m->zeros[index],
	};
}

uint8_t qmat_code(const struct qmat *m, uint32_t row, uint32_t col)
{
	return group_code(group_of(m, row, col).codes, m->bits, col % QMAT_GROUP);
}

float qmat_value(const struct qmat *m, uint32_t row, uint32_t col)
{
	struct group g = group_of(m, row, col);

	return g.scale * (float)(group_code(g.codes, m->bits, col % QMAT_GROUP) - g.zero);
}

void qmat_row_unpack(uint8_t *ret_codes, const struct qmat *m, uint32_t row)
{
	for (uint32_t c = 0; c < m->cols; c++)
		ret_codes[c] = qmat_code(m, row, c);
}

void qmat_row_values(float *ret, const struct qmat *m, uint32_t row)
{
	for (uint32_t c = 0; c < m->cols; c++)
		ret[c] = qmat_value(m, row, c);
}
