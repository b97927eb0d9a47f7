/* Coded matrices of small integers: they come back, they are short, and nothing else is accepted.
 */
#include "store/code_stream.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static size_t shape_size(const struct code_shape *s)
{
	return (size_t)s->rows * s->cols;
}

/* Codes around the centre, geometric with the given chance of going on, in 1/256. */
static uint8_t *random_codes(const struct code_shape *s, uint32_t chance, uint64_t seed)
{
	uint8_t *codes = malloc(shape_size(s) + 1);
	int top = (1 << s->bits) - 1;

	assert_non_null(codes);
	for (size_t i = 0; i < shape_size(s); i++) {
		int magnitude = 0, code;

		while (magnitude < top && (random_next(&seed) & 255) < chance)
			magnitude++;
		code = s->centre + (random_next(&seed) & 1 ? magnitude : -magnitude);
		codes[i] = (uint8_t)(code < 0 ? 0 : code > top ? top : code);
	}
	return codes;
}

struct rows {
	const struct code_shape *shape;
	uint8_t *codes;
	uint32_t next; /* rows come in order */
};

static void take_row(void *user, uint32_t row, const uint8_t *codes)
{
	struct rows *rows = user;

	assert_int_equal(row, rows->next++);
	for (uint32_t c = 0; c < rows->shape->cols; c++)
		assert_int_equal(codes[c] >> rows->shape->bits, 0);
	memcpy(rows->codes + (size_t)row * rows->shape->cols, codes, rows->shape->cols);
}

static int decode(const struct code_shape *shape, const uint8_t *bytes, size_t n, uint8_t *codes)
{
	struct rows rows = {.shape = shape, .codes = codes};
	/* Nothing behind the last byte, so that a sanitizer sees reads past it. */
	_cleanup_(freep) uint8_t *exact = malloc(n ? n : 1);
	struct code_stream stream;
	struct reason reason = {""};
	int r;

	assert_non_null(exact);
	if (n)
		memcpy(exact, bytes, n);
	r = code_stream_open(exact, n, shape, &stream, &reason);
	if (r == 0)
		r = code_stream_decode(&stream, take_row, &rows, &reason);
	assert_true((r < 0) == (reason.text[0] != '\0'));
	if (r == 0)
		assert_int_equal(rows.next, shape->cols ? shape->rows : 0);
	return r;
}

static uint64_t expect_round_trip(const struct code_shape *shape, const uint8_t *codes)
{
	_cleanup_(freep) uint8_t *back = malloc(shape_size(shape) + 1);
	_cleanup_(freep) uint8_t *bytes = NULL;
	uint64_t n;

	assert_non_null(back);
	assert_int_equal(code_stream_encode(shape, codes, &bytes, &n), 0);
	assert_int_equal(decode(shape, bytes, n, back), 0);
	assert_memory_equal(codes, back, shape_size(shape));
	return n;
}

static void test_every_width_centre_and_odd_size(void **state)
{
	static const uint32_t sizes[][2] = {
		{0, 0}, {0, 5}, {5, 0}, {1, 1}, {1, 300}, {300, 1}, {17, 31}, {130, 67}};

	(void)state;
	for (uint32_t bits = 1; bits <= 8; bits++)
		for (uint32_t centre = 0; centre < 1u << bits; centre += centre < 4 ? 1 : 11)
			for (size_t k = 0; k < array_len(sizes); k++) {
				struct code_shape s = {
					sizes[k][0], sizes[k][1], bits, (uint8_t)centre};
				_cleanup_(freep) uint8_t *codes = random_codes(&s, 120, k + bits);

				expect_round_trip(&s, codes);
			}
}

static void test_extreme_values(void **state)
{
	(void)state;
	for (uint32_t bits = 1; bits <= 8; bits++) {
		uint8_t top = (uint8_t)((1 << bits) - 1), centres[] = {0, top / 2, top};

		for (size_t k = 0; k < array_len(centres); k++) {
			struct code_shape s = {70, 33, bits, centres[k]};
			_cleanup_(freep) uint8_t *codes = malloc(shape_size(&s));
			uint64_t seed = bits;

			assert_non_null(codes);
			memset(codes, 0, shape_size(&s));
			expect_round_trip(&s, codes);
			memset(codes, top, shape_size(&s));
			expect_round_trip(&s, codes);
			for (size_t i = 0; i < shape_size(&s); i++)
				codes[i] = random_next(&seed) & 1 ? top : 0;
			expect_round_trip(&s, codes);
			for (size_t i = 0; i < shape_size(&s); i++)
				codes[i] = random_next(&seed) & top;
			expect_round_trip(&s, codes);
		}
	}
}

static void test_an_empty_matrix_has_no_bytes(void **state)
{
	const struct code_shape s = {0, 7, 4, 8};
	uint8_t *bytes = &(uint8_t){0}, none[1];
	uint64_t n = 1;

	(void)state;
	assert_int_equal(code_stream_encode(&s, NULL, &bytes, &n), 0);
	assert_null(bytes);
	assert_int_equal(n, 0);
	assert_int_equal(decode(&s, (uint8_t[]){0, 0, 0, 0}, 4, none), -EBADMSG);
}

static void test_bad_shapes_and_codes_are_refused(void **state)
{
	static const struct code_shape bad[] = {{1, 1, 0, 0}, {1, 1, 9, 0}, {1, 1, 3, 8}};
	const struct code_shape good = {1, 2, 3, 4};
	struct code_stream stream;
	struct reason reason;
	uint8_t *bytes = NULL;
	uint64_t n;

	(void)state;
	for (size_t i = 0; i < array_len(bad); i++) {
		assert_int_equal(code_stream_encode(&bad[i], (uint8_t[]){0}, &bytes, &n), -EINVAL);
		assert_int_equal(
			code_stream_open((uint8_t[8]){4}, 8, &bad[i], &stream, &reason), -EBADMSG);
	}
	assert_int_equal(code_stream_encode(&good, (uint8_t[]){7, 8}, &bytes, &n), -EINVAL);
	assert_null(bytes);
}

/* Rows and columns of different energy: what a code that counts all values together cannot know.
 * Bits against the entropy of each code's own distribution, and against that of all together. */
static void test_energies_of_rows_and_columns_are_found(void **state)
{
	const struct code_shape s = {600, 500, 4, 8};
	_cleanup_(freep) uint8_t *codes = malloc(shape_size(&s));
	double own = 0, together = 0, count[16] = {0};
	uint64_t seed = 11, n;

	(void)state;
	assert_non_null(codes);
	for (uint32_t r = 0; r < s.rows; r++)
		for (uint32_t c = 0; c < s.cols; c++) {
			double go =
				0.4 * (0.1 + 0.9 * (r % 7) / 6.0) * (0.1 + 0.9 * (c % 11) / 10.0);
			int magnitude = 0, code;

			while (magnitude < 7 && (double)(random_next(&seed) >> 11) * 0x1p-53 < go)
				magnitude++;
			own -= magnitude * log2(go) + (magnitude < 7 ? log2(1 - go) : 0);
			own += magnitude > 0;
			code = 8 + (random_next(&seed) & 1 ? magnitude : -magnitude);
			codes[(size_t)r * s.cols + c] = (uint8_t)code;
			count[code]++;
		}
	for (size_t i = 0; i < array_len(count); i++)
		together -= count[i] ? count[i] * log2(count[i] / (double)shape_size(&s)) : 0;
	n = 8 * expect_round_trip(&s, codes);
	assert_true((double)n > own * 0.99);
	assert_true((double)n < own * 1.04);
	assert_true((double)n < together * 0.95);
}

static void test_zeros_cost_nothing(void **state)
{
	const struct code_shape s = {1000, 1000, 8, 128};
	_cleanup_(freep) uint8_t *codes = malloc(shape_size(&s));

	(void)state;
	assert_non_null(codes);
	memset(codes, 128, shape_size(&s));
	assert_in_range(expect_round_trip(&s, codes), 8, 40);
}

static void test_strips_decode_alone(void **state)
{
	const struct code_shape s = {70, 65536, 3, 3};
	_cleanup_(freep) uint8_t *codes = random_codes(&s, 40, 9);
	_cleanup_(freep) uint8_t *back = calloc(1, shape_size(&s));
	_cleanup_(freep) uint8_t *bytes = NULL;
	struct code_stream stream;
	struct reason reason;
	uint64_t n;

	(void)state;
	assert_non_null(back);
	assert_int_equal(code_stream_encode(&s, codes, &bytes, &n), 0);
	assert_int_equal(code_stream_open(bytes, n, &s, &stream, &reason), 0);
	assert_int_equal(stream.strips.n_strips, 5);
	for (uint32_t i = stream.strips.n_strips; i-- > 0;) {
		struct strip strip = strips_get(&stream.strips, i);
		struct rows rows = {.shape = &s, .codes = back, .next = strip.first_row};

		assert_int_equal(code_stream_decode_strip(&stream, i, take_row, &rows, &reason), 0);
		assert_int_equal(rows.next, strip.first_row + strip.n_rows);
	}
	assert_memory_equal(codes, back, shape_size(&s));
}

/* What is accepted is what the encoder writes for the codes that were handed out. */
static void expect_refused_or_canonical(
	const struct code_shape *s, const uint8_t *bytes, size_t n, size_t *n_accepted)
{
	_cleanup_(freep) uint8_t *codes = malloc(shape_size(s));
	_cleanup_(freep) uint8_t *again = NULL;
	uint64_t n_again;
	int r;

	assert_non_null(codes);
	r = decode(s, bytes, n, codes);
	if (r < 0) {
		assert_int_equal(r, -EBADMSG);
		return;
	}
	++*n_accepted;
	assert_int_equal(code_stream_encode(s, codes, &again, &n_again), 0);
	assert_int_equal(n_again, n);
	assert_memory_equal(again, bytes, n);
}

static void test_broken_bytes_are_refused_or_canonical(void **state)
{
	size_t n_accepted = 0, n_tried = 0;

	(void)state;
	for (uint32_t bits = 1; bits <= 8; bits++) {
		struct code_shape s = {9, 21, bits, (uint8_t)(1 << (bits - 1))};
		_cleanup_(freep) uint8_t *codes = random_codes(&s, 100, bits);
		_cleanup_(freep) uint8_t *bytes = NULL;
		uint64_t n;

		assert_int_equal(code_stream_encode(&s, codes, &bytes, &n), 0);
		for (size_t bit = 0; bit < 8 * n; bit++, n_tried++) {
			bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
			expect_refused_or_canonical(&s, bytes, n, &n_accepted);
			bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
	}
	assert_true(n_accepted < n_tried / 2);
}

static void test_only_one_length_is_valid(void **state)
{
	const struct code_shape s = {40, 50, 4, 7};
	_cleanup_(freep) uint8_t *codes = random_codes(&s, 60, 2);
	_cleanup_(freep) uint8_t *back = malloc(shape_size(&s));
	_cleanup_(freep) uint8_t *bytes = NULL;
	_cleanup_(freep) uint8_t *longer = NULL;
	uint64_t n;

	(void)state;
	assert_non_null(back);
	assert_int_equal(code_stream_encode(&s, codes, &bytes, &n), 0);
	longer = calloc(1, n + 16);
	assert_non_null(longer);
	for (uint64_t other = 0; other < n + 16; other++) {
		uint32_t entry = (uint32_t)(other - 4);

		if (other == n)
			continue;
		memcpy(longer, bytes, n);
		assert_int_equal(decode(&s, longer, other, back), -EBADMSG);
		/* With a table that agrees it is the coder that must see it. */
		memcpy(longer, &entry, sizeof(entry));
		assert_int_equal(decode(&s, longer, other, back), -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_width_centre_and_odd_size),
		cmocka_unit_test(test_extreme_values),
		cmocka_unit_test(test_an_empty_matrix_has_no_bytes),
		cmocka_unit_test(test_bad_shapes_and_codes_are_refused),
		cmocka_unit_test(test_energies_of_rows_and_columns_are_found),
		cmocka_unit_test(test_zeros_cost_nothing),
		cmocka_unit_test(test_strips_decode_alone),
		cmocka_unit_test(test_broken_bytes_are_refused_or_canonical),
		cmocka_unit_test(test_only_one_length_is_valid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
