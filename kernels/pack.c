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

/* A whole block of rows, in the order of the packed numbers. */
static void pack_block(uint16_t *packed, const uint16_t *source, uint32_t cols)
{
	for (uint32_t c = 0; c < cols; c += 2)
		for (uint32_t lane = 0; lane < MAT_BLOCK; lane++)
			memcpy(packed + (size_t)c * MAT_BLOCK + 2 * lane,
				source + (size_t)lane * cols + c, 2 * sizeof(*packed));
}

void mat_bf16_pack(uint16_t *ret, const uint16_t *source, uint32_t rows, uint32_t cols)
{
	uint32_t whole = cols % 2 == 0 ? rows - rows % MAT_BLOCK : 0;
	size_t first = mat_bf16_index(cols, whole, 0);

	for (uint32_t r = 0; r < whole; r += MAT_BLOCK)
		pack_block(ret + mat_bf16_index(cols, r, 0), source + (size_t)r * cols, cols);
	memset(ret + first, 0, (mat_bf16_size(rows, cols) - first) * sizeof(*ret));
	for (uint32_t r = whole; r < rows; r++)
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
	return (bits >= 1 && bits <= QMAT_MAX_BITS) || bits == 16 || bits == 32;
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

/* Adds what the plane holds to the codes. */
static void plane_unpack(uint8_t *codes, const uint8_t *plane, uint32_t width, uint32_t shift)
{
	uint64_t mask = (1u << width) - 1;

	for (uint32_t lane = 0; lane < QMAT_LANES; lane++) {
		uint64_t packed = 0;

		for (uint32_t byte = 0; byte < width; byte++)
			packed |= (uint64_t)plane[lane * width + byte] << (8 * byte);
		for (uint32_t s = 0; s < QMAT_GROUP / QMAT_LANES; s++)
			codes[QMAT_LANES * s + lane] |=
				(uint8_t)(((packed >> (s * width)) & mask) << shift);
	}
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

void qmat_group_unpack(uint8_t ret_codes[static QMAT_GROUP], const uint8_t *packed, uint32_t bits)
{
	memset(ret_codes, 0, QMAT_GROUP);
	for (uint32_t shift = 0; shift < bits;) {
		uint32_t width = plane_bits(bits - shift);

		plane_unpack(ret_codes, packed, width, shift);
		packed += QMAT_LANES * width;
		shift += width;
	}
}

/* Columns of a group that exist. */
static uint32_t group_columns(uint32_t cols, size_t group)
{
	size_t left = cols - group * QMAT_GROUP;

	return (uint32_t)(left < QMAT_GROUP ? left : QMAT_GROUP);
}

void qmat_row_pack(
	uint8_t *ret, const uint8_t *codes, const uint8_t *zeros, uint32_t cols, uint32_t bits)
{
	for (size_t g = 0; g < qmat_groups(cols); g++) {
		uint32_t n = group_columns(cols, g);
		uint8_t group[QMAT_GROUP];

		memcpy(group, codes + g * QMAT_GROUP, n);
		memset(group + n, zeros ? zeros[g] : 0, QMAT_GROUP - n);
		qmat_group_pack(ret + g * qmat_group_bytes(bits), group, bits);
	}
}

void qmat_pack(uint8_t *ret, const uint8_t *codes, const uint8_t *zeros, uint32_t rows,
	uint32_t cols, uint32_t bits)
{
	const size_t n_groups = qmat_groups(cols);

	for (size_t r = 0; r < rows; r++)
		qmat_row_pack(ret + r * n_groups * qmat_group_bytes(bits), codes + r * cols,
			zeros ? zeros + r * n_groups : NULL, cols, bits);
}

void qmat_row_pack_plain(void *ret, const float *values, uint32_t cols, uint32_t bits)
{
	uint16_t *halves = ret;

	assert(bits == 16 || bits == 32);
	memset(ret, 0, qmat_groups(cols) * qmat_group_bytes(bits));
	if (bits == 32)
		memcpy(ret, values, cols * sizeof(*values));
	else
		for (uint32_t c = 0; c < cols; c++)
			halves[c] = f16_from_f32(values[c]);
}

static const uint8_t *group_codes(const struct qmat *m, uint32_t row, size_t group)
{
	return m->codes + (row * qmat_groups(m->cols) + group) * qmat_group_bytes(m->bits);
}

static void group_values_plain(double *ret, const struct qmat *m, uint32_t row, size_t group)
{
	const void *numbers = group_codes(m, row, group);
	const uint16_t *halves = numbers;
	const float *singles = numbers;

	for (size_t i = 0; i < QMAT_GROUP; i++)
		ret[i] = (double)m->step * (m->bits == 16 ? f16_to_f32(halves[i]) : singles[i]);
}

void qmat_group_values(
	double ret[static QMAT_GROUP], const struct qmat *m, uint32_t row, size_t group)
{
	double factor = m->step, zero = m->zero;
	uint8_t codes[QMAT_GROUP];

	if (m->bits > QMAT_MAX_BITS) {
		group_values_plain(ret, m, row, group);
		return;
	}
	if (m->scales)
		factor *=
			f16_to_f32(m->scales[(size_t)row * m->scale_row + group * m->scale_group]);
	if (m->zeros)
		zero = m->zeros[row * qmat_groups(m->cols) + group];
	qmat_group_unpack(codes, group_codes(m, row, group), m->bits);
	for (size_t i = 0; i < QMAT_GROUP; i++)
		ret[i] = factor * (codes[i] - zero);
}

uint8_t qmat_code(const struct qmat *m, uint32_t row, uint32_t col)
{
	uint8_t codes[QMAT_GROUP];

	qmat_group_unpack(codes, group_codes(m, row, col / QMAT_GROUP), m->bits);
	return codes[col % QMAT_GROUP];
}

float qmat_value(const struct qmat *m, uint32_t row, uint32_t col)
{
	double values[QMAT_GROUP];

	qmat_group_values(values, m, row, col / QMAT_GROUP);
	return (float)values[col % QMAT_GROUP];
}

void qmat_row_unpack(uint8_t *ret_codes, const struct qmat *m, uint32_t row)
{
	for (size_t g = 0; g < qmat_groups(m->cols); g++) {
		uint8_t codes[QMAT_GROUP];

		qmat_group_unpack(codes, group_codes(m, row, g), m->bits);
		memcpy(ret_codes + g * QMAT_GROUP, codes, group_columns(m->cols, g));
	}
}

void qmat_row_values(float *ret, const struct qmat *m, uint32_t row)
{
	for (size_t g = 0; g < qmat_groups(m->cols); g++) {
		double values[QMAT_GROUP];

		qmat_group_values(values, m, row, g);
		for (size_t i = 0; i < group_columns(m->cols, g); i++)
			ret[g * QMAT_GROUP + i] = (float)values[i];
	}
}

uint32_t dropmat_index_bits(uint32_t group)
{
	uint32_t bits = 0;

	while (bits < 32 && (uint64_t)1 << bits < group)
		bits++;
	return bits;
}

uint64_t dropmat_entries_bytes(const struct dropmat *m)
{
	return (uint64_t)m->rows * dropmat_row_entries(m->cols, m->group, m->n_keep) *
	       (dropmat_entry_bits(m->index_bits, m->bits) / 8);
}

struct dropmat_survivor dropmat_survivor(const struct dropmat *m, uint32_t row, size_t entry)
{
	size_t at = row * dropmat_row_entries(m->cols, m->group, m->n_keep) + entry;
	double factor = m->step;
	uint32_t word;

	if (dropmat_entry_bits(m->index_bits, m->bits) == 8)
		word = ((const uint8_t *)m->entries)[at];
	else
		word = ((const uint16_t *)m->entries)[at];
	if (m->scales)
		factor *= f16_to_f32(m->scales[(size_t)row * m->scale_row]);
	return (struct dropmat_survivor){
		.col = (uint32_t)(entry / m->n_keep) * m->group +
		       (word & ((1u << m->index_bits) - 1)),
		.value = factor * ((double)(word >> m->index_bits) - m->zero),
	};
}

void dropmat_row_values(float *ret, const struct dropmat *m, uint32_t row)
{
	size_t n = dropmat_row_entries(m->cols, m->group, m->n_keep);

	memset(ret, 0, m->cols * sizeof(*ret));
	for (size_t e = 0; e < n; e++) {
		struct dropmat_survivor s = dropmat_survivor(m, row, e);

		ret[s.col] = (float)s.value;
	}
}
