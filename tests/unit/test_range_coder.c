/* The range coder: lengths against entropy, exactly one string of bytes for each sequence. */
#include "store/range_coder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define N_CONTEXTS 3

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Bit i goes to context i % N_CONTEXTS; every fourth is even. */
static void encode(const bool *bits, size_t n, uint8_t **ret, size_t *ret_n)
{
	struct range_bit contexts[N_CONTEXTS];
	struct range_encoder e;

	for (size_t i = 0; i < N_CONTEXTS; i++)
		contexts[i] = range_bit_of(32768, 0);
	range_encoder_begin(&e, SIZE_MAX);
	for (size_t i = 0; i < n; i++) {
		if (i % 4 == 3)
			range_encode_even(&e, bits[i]);
		else
			range_encode(&e, &contexts[i % N_CONTEXTS], bits[i]);
	}
	assert_int_equal(range_encoder_finish(&e, ret, ret_n), 0);
}

/* Both ways to decode a learnt bit take turns. */
static bool decode_bit(struct range_decoder *d, struct range_bit *b, size_t i)
{
	if (i % 4 == 3)
		return range_decode_even(d);
	return i % 4 == 1 ? range_decode_close(d, b) : range_decode(d, b);
}

static int decode(const uint8_t *bytes, size_t n_bytes, bool *bits, size_t n)
{
	struct range_bit contexts[N_CONTEXTS];
	/* Nothing behind the last byte, so that a sanitizer sees reads past it. */
	_cleanup_(freep) uint8_t *exact = malloc(n_bytes ? n_bytes : 1);
	struct range_decoder d;

	assert_non_null(exact);
	memcpy(exact, bytes, n_bytes);
	for (size_t i = 0; i < N_CONTEXTS; i++)
		contexts[i] = range_bit_of(32768, 0);
	range_decoder_begin(&d, exact, n_bytes);
	for (size_t i = 0; i < n; i++)
		bits[i] = decode_bit(&d, &contexts[i % N_CONTEXTS], i);
	return range_decoder_finish(&d);
}

static void expect_round_trip(const bool *bits, size_t n)
{
	_cleanup_(freep) uint8_t *bytes = NULL;
	_cleanup_(freep) bool *back = malloc(n + 1);
	size_t n_bytes;

	assert_non_null(back);
	encode(bits, n, &bytes, &n_bytes);
	assert_int_equal(decode(bytes, n_bytes, back, n), 0);
	assert_memory_equal(bits, back, n);
}

static void test_every_short_sequence_comes_back(void **state)
{
	(void)state;
	for (size_t n = 0; n <= 12; n++)
		for (uint32_t all = 0; all < 1u << n; all++) {
			bool bits[12] = {false};

			for (size_t i = 0; i < n; i++)
				bits[i] = all >> i & 1;
			expect_round_trip(bits, n);
		}
}

static void test_long_sequences_of_every_skew_come_back(void **state)
{
	uint64_t seed = 1;

	(void)state;
	for (uint32_t skew = 0; skew <= 16; skew++) {
		static bool bits[20000];

		for (size_t i = 0; i < array_len(bits); i++)
			bits[i] = (random_next(&seed) & 0xffff) < skew * UINT64_C(0x1000);
		expect_round_trip(bits, array_len(bits));
	}
}

/* Splits chosen so that the interval keeps reaching over one half while words of ones leave. */
static void test_a_carry_runs_through_all_words(void **state)
{
	const uint64_t ones = UINT32_MAX;
	_cleanup_(freep) uint8_t *bytes = NULL;
	struct range_encoder e;
	size_t n;

	(void)state;
	range_encoder_begin(&e, SIZE_MAX);
	range_encode_split(&e, UINT64_MAX >> 1, false);
	for (int i = 0; i < 10; i++) {
		range_encode_split(&e, ones, true);
		assert_int_equal(e.low >> 32, ones);
		range_encode_split(&e, ones, false);
	}
	assert_int_equal(e.n, 40);
	assert_int_equal(e.bytes[3], 0x7f);
	range_encode_even(&e, false);
	assert_int_equal(range_encoder_finish(&e, &bytes, &n), 0);
	assert_int_equal(bytes[3], 0x80);
	for (size_t i = 0; i < 40; i++)
		assert_true(i == 3 || bytes[i] == 0);
}

static void test_lengths_are_those_of_the_entropy(void **state)
{
	static const uint32_t per_mille[] = {1, 10, 50, 200, 500, 900, 999};
	uint64_t seed = 7;

	(void)state;
	for (size_t k = 0; k < array_len(per_mille); k++) {
		struct range_bit b = range_bit_of(32768, 0);
		const size_t n = 200000;
		double ones = 0, entropy, p;
		_cleanup_(freep) uint8_t *bytes = NULL;
		struct range_encoder e;
		size_t n_bytes;

		range_encoder_begin(&e, SIZE_MAX);
		for (size_t i = 0; i < n; i++) {
			bool bit = random_next(&seed) % 1000 < per_mille[k];

			ones += bit;
			range_encode(&e, &b, bit);
		}
		assert_int_equal(range_encoder_finish(&e, &bytes, &n_bytes), 0);
		p = ones / (double)n;
		entropy = -(double)n * (p * log2(p) + (1 - p) * log2(1 - p));
		assert_true(8.0 * (double)n_bytes > entropy - 64);
		/* A probability that follows with steps of 1/1024 is never quite right. */
		assert_true(8.0 * (double)n_bytes < entropy + 0.0006 * (double)n + 64);
	}
}

static void test_certainty_costs_nothing(void **state)
{
	struct range_bit b = range_bit_of(32768, 0);
	_cleanup_(freep) uint8_t *bytes = NULL;
	struct range_encoder e;
	size_t n;

	(void)state;
	range_encoder_begin(&e, SIZE_MAX);
	for (int i = 0; i < 1000000; i++)
		range_encode(&e, &b, false);
	assert_int_equal(range_encoder_finish(&e, &bytes, &n), 0);
	assert_in_range(n, 4, 32);
}

/* What is accepted is what an encoder writes: decoding and encoding again gives the same bytes. */
static void expect_refused_or_canonical(const uint8_t *bytes, size_t n_bytes, size_t n)
{
	_cleanup_(freep) bool *bits = malloc(n + 1);
	_cleanup_(freep) uint8_t *again = NULL;
	size_t n_again;
	int r;

	assert_non_null(bits);
	r = decode(bytes, n_bytes, bits, n);
	if (r < 0) {
		assert_int_equal(r, -EBADMSG);
		return;
	}
	encode(bits, n, &again, &n_again);
	assert_int_equal(n_again, n_bytes);
	assert_memory_equal(again, bytes, n_bytes);
}

static void test_foreign_bytes_are_refused_or_canonical(void **state)
{
	uint64_t seed = 3;
	size_t n_accepted = 0;

	(void)state;
	for (size_t round = 0; round < 1000; round++) {
		uint64_t noise[2] = {random_next(&seed), random_next(&seed)};
		size_t n_bytes = round % (sizeof(noise) + 1);

		if (round % 3 == 0)
			memset(noise, 0xff, 1 + round % sizeof(noise));
		for (size_t n = 0; n < 150; n++) {
			bool bits[150];

			expect_refused_or_canonical((uint8_t *)noise, n_bytes, n);
			n_accepted += decode((uint8_t *)noise, n_bytes, bits, n) == 0;
		}
	}
	assert_true(n_accepted > 100);
}

static void test_only_one_length_is_valid(void **state)
{
	uint8_t longer[4096] = {0};
	_cleanup_(freep) uint8_t *bytes = NULL;
	uint64_t seed = 5;
	bool bits[2000], back[2000];
	size_t n;

	(void)state;
	for (size_t i = 0; i < array_len(bits); i++)
		bits[i] = random_next(&seed) % 5 == 0;
	encode(bits, array_len(bits), &bytes, &n);
	assert_in_range(n, 100, sizeof(longer) - 64);
	memcpy(longer, bytes, n);
	for (size_t shorter = 0; shorter < n; shorter++)
		assert_int_equal(decode(bytes, shorter, back, array_len(back)), -EBADMSG);
	for (size_t more = 1; more < 64; more++)
		assert_int_equal(decode(longer, n + more, back, array_len(back)), -EBADMSG);
	assert_int_equal(decode(bytes, n, back, array_len(back)), 0);
	assert_int_equal(decode(bytes, n, back, array_len(back) - 100), -EBADMSG);
}

static void test_the_limit_holds(void **state)
{
	_cleanup_(freep) uint8_t *bytes = NULL;
	struct range_encoder e;
	size_t n;

	(void)state;
	range_encoder_begin(&e, 8);
	for (int i = 0; i < 1000; i++)
		range_encode_even(&e, i % 3 == 0);
	assert_int_equal(range_encoder_finish(&e, &bytes, &n), -EFBIG);
	assert_null(bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_short_sequence_comes_back),
		cmocka_unit_test(test_long_sequences_of_every_skew_come_back),
		cmocka_unit_test(test_a_carry_runs_through_all_words),
		cmocka_unit_test(test_lengths_are_those_of_the_entropy),
		cmocka_unit_test(test_certainty_costs_nothing),
		cmocka_unit_test(test_foreign_bytes_are_refused_or_canonical),
		cmocka_unit_test(test_only_one_length_is_valid),
		cmocka_unit_test(test_the_limit_holds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
