/*
 * Every half and every bf16, and rounding at every place where it can change: since rounding is
 * monotone, the midpoint of each two neighbours and the floats on either side of it say it all.
 */
#include "tests/kernels/sets.h"

#include "kernels/convert.h"

/* What a pattern means, from the definition of the formats. */
static double meaning(uint32_t bits, int exponent_bits, int fraction_bits)
{
	int bias = (1 << (exponent_bits - 1)) - 1;
	int exponent = (int)(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
	double fraction = ldexp((double)(bits & ((1u << fraction_bits) - 1)), -fraction_bits);
	double sign = bits >> (exponent_bits + fraction_bits) ? -1 : 1;

	if (exponent == (1 << exponent_bits) - 1)
		return fraction != 0 ? NAN : sign * INFINITY;
	if (exponent == 0)
		return sign * ldexp(fraction, 1 - bias);
	return sign * ldexp(1 + fraction, exponent - bias);
}

static void expect_meaning(float got, double expected)
{
	if (isnan(expected))
		assert_true(isnan(got));
	else
		assert_true((double)got == expected && !signbit(got) == !signbit(expected));
}

static void test_all_patterns(void **unused)
{
	(void)unused;
	for (uint32_t bits = 0; bits <= 0xffff; bits++) {
		expect_meaning(f16_to_f32((uint16_t)bits), meaning(bits, 5, 10));
		expect_meaning(bf16_to_f32((uint16_t)bits), meaning(bits, 8, 7));
		if (!isnan(meaning(bits, 5, 10)))
			assert_int_equal(f16_from_f32(f16_to_f32((uint16_t)bits)), bits);
		if (!isnan(meaning(bits, 8, 7)))
			assert_int_equal(bf16_from_f32(bf16_to_f32((uint16_t)bits)), bits);
	}
}

typedef uint16_t from_f32(float value);

static void check_midpoints(from_f32 *from, int exponent_bits, int fraction_bits)
{
	const uint32_t infinity = ((1u << exponent_bits) - 1) << fraction_bits;

	for (uint32_t bits = 0; bits < infinity; bits++) {
		double below = meaning(bits, exponent_bits, fraction_bits);
		/* Past the largest number, infinity takes the place of the next one. */
		double above = bits + 1 < infinity ? meaning(bits + 1, exponent_bits, fraction_bits)
						   : 2 * below - meaning(bits - 1, exponent_bits,
									 fraction_bits);
		float middle = (float)((below + above) / 2);
		uint32_t even = bits % 2 ? bits + 1 : bits;

		assert_true((double)middle == (below + above) / 2);
		for (uint32_t sign = 0; sign < 2; sign++) {
			float s = sign ? -1 : 1;
			uint32_t top = sign << 15;

			assert_int_equal(from(s * middle), top | even);
			assert_int_equal(from(s * nextafterf(middle, 0)), top | bits);
			assert_int_equal(from(s * nextafterf(middle, INFINITY)), top | (bits + 1));
		}
	}
}

static void test_rounding(void **unused)
{
	(void)unused;
	check_midpoints(f16_from_f32, 5, 10);
	check_midpoints(bf16_from_f32, 8, 7);
}

static void test_specials(void **unused)
{
	(void)unused;
	assert_int_equal(f16_from_f32(INFINITY), 0x7c00);
	assert_int_equal(f16_from_f32(-INFINITY), 0xfc00);
	assert_int_equal(f16_from_f32(3e38f), 0x7c00);
	assert_int_equal(f16_from_f32(1e-40f), 0);
	assert_int_equal(bf16_from_f32(INFINITY), 0x7f80);
	assert_int_equal(bf16_from_f32(-INFINITY), 0xff80);
	/* NaN with its only bits below the cut, and with all of them. */
	for (uint32_t low = 1; low < 0x800000; low = low * 2 + 1) {
		uint16_t half = f16_from_f32(f32_from_bits(0x7f800000 | low));
		uint16_t brain = bf16_from_f32(f32_from_bits(0xff800000 | low));

		assert_true(isnan(meaning(half, 5, 10)));
		assert_true(isnan(meaning(brain, 8, 7)));
	}
}

static void test_against_compiler(void **unused)
{
	(void)unused;
#ifdef __FLT16_MAX__
	for (int i = 0; i < 1 << 20; i++) {
		float value = f32_from_bits(random_u32());
		_Float16 half = (_Float16)value;
		uint16_t bits;

		memcpy(&bits, &half, sizeof(bits));
		if (!isnan(value))
			assert_int_equal(f16_from_f32(value), bits);
	}
#else
	skip();
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_patterns),
		cmocka_unit_test(test_rounding),
		cmocka_unit_test(test_specials),
		cmocka_unit_test(test_against_compiler),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
