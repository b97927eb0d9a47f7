#include "tests/kernels/sets.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

static void check_mat_round_trip(uint32_t rows, uint32_t cols)
{
	size_t size = mat_bf16_size(rows, cols);
	_cleanup_(freep) uint16_t *source = numbers_new((size_t)rows * cols, sizeof(*source));
	_cleanup_(freep) uint16_t *packed = numbers_new(size, sizeof(*packed));
	_cleanup_(freep) uint16_t *back = numbers_new((size_t)rows * cols, sizeof(*back));
	struct mat_bf16 m = {.data = packed, .rows = rows, .cols = cols};
	size_t stored = 0;

	/* Never zero, so that what is not zero in the packed form must be an element. */
	for (size_t i = 0; i < (size_t)rows * cols; i++)
		source[i] = (uint16_t)(random_u32() % 65535 + 1);
	memset(packed, 0xff, size * sizeof(*packed));
	mat_bf16_pack(packed, source, rows, cols);
	mat_bf16_unpack(back, &m);
	assert_memory_equal(back, source, (size_t)rows * cols * sizeof(*source));
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t c = 0; c < cols; c++)
			assert_int_equal(packed[((size_t)(r / 16) * ((cols + 1) / 2) + c / 2) * 32 +
						 r % 16 * 2 + c % 2],
				source[(size_t)r * cols + c]);
	for (size_t i = 0; i < size; i++)
		stored += packed[i] != 0;
	assert_int_equal(stored, (size_t)rows * cols);
}

static void test_mat_round_trip(void **unused)
{
	static const uint32_t sizes[] = {0, 1, 2, 3, 15, 16, 17, 31, 33, 64};

	(void)unused;
	for (size_t i = 0; i < array_len(sizes); i++)
		for (size_t j = 0; j < array_len(sizes); j++)
			check_mat_round_trip(sizes[i], sizes[j]);
}

/* Every width of the plane scheme, whatever files may use today. */
static void test_group_round_trip(void **unused)
{
	(void)unused;
	for (uint32_t bits = 1; bits <= QMAT_MAX_BITS; bits++) {
		for (int repeat = 0; repeat < 20; repeat++) {
			uint8_t codes[QMAT_GROUP], back[QMAT_GROUP];
			_cleanup_(freep) uint8_t *packed = numbers_new(qmat_group_bytes(bits), 1);

			for (size_t i = 0; i < QMAT_GROUP; i++)
				codes[i] = (uint8_t)(random_u32() % (1u << bits));
			memset(packed, 0xff, qmat_group_bytes(bits));
			qmat_group_pack(packed, codes, bits);
			qmat_group_unpack(back, packed, bits);
			assert_memory_equal(back, codes, sizeof(codes));
		}
	}
}

/* The layout as types.h tells it, written down once more: column 16 s + i is sub-position s of lane
 * i. */
static void test_layout(void **unused)
{
	uint8_t codes[QMAT_GROUP], packed[QMAT_LANES * 8], expected[QMAT_LANES * 8] = {0};

	(void)unused;
	for (size_t i = 0; i < QMAT_GROUP; i++)
		codes[i] = (uint8_t)(random_u32() % 8);
	qmat_group_pack(packed, codes, 3);
	for (size_t i = 0; i < 16; i++) {
		for (size_t s = 0; s < 8; s++) {
			unsigned int code = codes[16 * s + i];

			expected[2 * i + s / 4] |= (uint8_t)((code & 3) << (2 * (s % 4)));
			expected[32 + i] |= (uint8_t)((code >> 2) << s);
		}
	}
	assert_memory_equal(packed, expected, qmat_group_bytes(3));
	qmat_group_pack(packed, codes, 8);
	for (size_t i = 0; i < 16; i++)
		for (size_t s = 0; s < 8; s++)
			assert_int_equal(packed[8 * i + s], codes[16 * s + i]);
}

static void check_row_round_trip(uint32_t cols, uint32_t bits)
{
	enum { ROWS = 3 };
	const size_t n_groups = qmat_groups(cols), row_bytes = n_groups * qmat_group_bytes(bits);
	_cleanup_(freep) uint8_t *codes = numbers_new((size_t)ROWS * cols, 1);
	_cleanup_(freep) uint8_t *zeros = numbers_new(ROWS * n_groups, 1);
	_cleanup_(freep) uint16_t *scales = numbers_new(ROWS * n_groups, sizeof(*scales));
	_cleanup_(freep) uint8_t *packed = numbers_new(qmat_codes_bytes(ROWS, cols, bits), 1);
	_cleanup_(freep) uint8_t *back = numbers_new(cols, 1);
	_cleanup_(freep) float *values = numbers_new(cols, sizeof(*values));
	struct qmat m = {.codes = packed,
		.scales = scales,
		.zeros = zeros,
		.rows = ROWS,
		.cols = cols,
		.bits = bits,
		.scale_row = (uint32_t)n_groups,
		.scale_group = 1,
		.step = 1};

	for (size_t i = 0; i < (size_t)ROWS * cols; i++)
		codes[i] = (uint8_t)(random_u32() % (1u << bits));
	for (size_t i = 0; i < ROWS * n_groups; i++) {
		zeros[i] = (uint8_t)(random_u32() % (1u << bits));
		scales[i] = f16_from_f32(random_f32());
	}
	for (uint32_t r = 0; r < ROWS; r++)
		qmat_row_pack(packed + r * row_bytes, codes + (size_t)r * cols,
			zeros + r * n_groups, cols, bits);
	for (uint32_t r = 0; r < ROWS; r++) {
		qmat_row_unpack(back, &m, r);
		qmat_row_values(values, &m, r);
		assert_memory_equal(back, codes + (size_t)r * cols, cols);
		for (uint32_t c = 0; c < cols; c++) {
			size_t g = r * n_groups + c / QMAT_GROUP;
			double exact = (double)f16_to_f32(scales[g]) * (back[c] - zeros[g]);

			assert_true((double)values[c] == exact);
			assert_true((double)qmat_value(&m, r, c) == exact);
			assert_int_equal(qmat_code(&m, r, c), back[c]);
		}
		/* Missing columns have the value 0. */
		if (cols % QMAT_GROUP) {
			uint8_t group[QMAT_GROUP];

			qmat_group_unpack(
				group, packed + (r + 1) * row_bytes - qmat_group_bytes(bits), bits);
			for (size_t i = cols % QMAT_GROUP; i < QMAT_GROUP; i++)
				assert_int_equal(group[i], zeros[(r + 1) * n_groups - 1]);
		}
	}
}

static void test_row_round_trip(void **unused)
{
	static const uint32_t cols[] = {0, 1, 15, 16, 17, 127, 128, 129, 255, 256, 333};

	(void)unused;
	for (uint32_t bits = 1; bits <= QMAT_MAX_BITS; bits++)
		for (size_t i = 0; i < array_len(cols); i++)
			check_row_round_trip(cols[i], bits);
}

static void test_sizes(void **unused)
{
	(void)unused;
	assert_int_equal(mat_bf16_size(17, 3), 2 * 16 * 2 * 2);
	assert_int_equal(qmat_codes_bytes(5, 129, 3), 5 * 2 * 48);
	assert_int_equal(qmat_n_scales(5, 129), 10);
	for (uint32_t bits = 0; bits < 20; bits++)
		assert_int_equal(qmat_bits_valid(bits), (bits >= 1 && bits <= 8) || bits == 16);
	assert_true(qmat_bits_valid(32));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mat_round_trip),
		cmocka_unit_test(test_group_round_trip),
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_row_round_trip),
		cmocka_unit_test(test_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
