/* Intrinsics in software where the manual's words matter: at the edges of memory, of numbers and of
 * rounding. Compiled as the kernels in software are. */
#include "tests/kernels/sets.h"

#ifdef __x86_64__

#include <immintrin.h>
#include <sys/mman.h>

/* The end of memory that may be touched, `size` bytes of it set to `byte`. */
static char *edge_new(size_t size, int byte)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *pages =
		mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(pages != MAP_FAILED && size <= page);
	assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
	memset(pages + page - size, byte, size);
	return pages + page;
}

static void edge_done(char *end)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);

	munmap(end - page, 2 * page);
}

static void expect_bytes(const void *got, size_t n_set, size_t n, int byte, int rest)
{
	for (size_t i = 0; i < n; i++)
		assert_int_equal(((const uint8_t *)got)[i], i < n_set ? byte : rest);
}

static void test_masked(void **unused)
{
	char *end = edge_new(64, 0x55);

	(void)unused;
	for (uint32_t n = 0; n <= 16; n++) {
		const __mmask16 mask = (__mmask16)((1u << n) - 1);
		__m512 floats = _mm512_maskz_loadu_ps(mask, end - 4 * n);
		__m512i numbers = _mm512_maskz_loadu_epi32(mask, end - 4 * n);
		__m256i words = _mm256_maskz_loadu_epi16(mask, end - 2 * n);
		__m128i bytes = _mm_maskz_loadu_epi8(mask, end - n);
		__m512i mixed = _mm512_mask_loadu_epi8(_mm512_set1_epi8(1), mask, end - n);

		expect_bytes(&floats, 4 * n, sizeof(floats), 0x55, 0);
		expect_bytes(&numbers, 4 * n, sizeof(numbers), 0x55, 0);
		expect_bytes(&words, 2 * n, sizeof(words), 0x55, 0);
		expect_bytes(&bytes, n, sizeof(bytes), 0x55, 0);
		expect_bytes(&mixed, n, sizeof(mixed), 0x55, 1);
	}
	for (uint32_t n = 0; n <= 16; n++) {
		const __mmask16 mask = (__mmask16)((1u << n) - 1);

		_mm512_mask_storeu_ps(end - 4 * n, mask, _mm512_setzero_ps());
		expect_bytes(end - 64, 64 - 4 * n, 64, 0x55, 0);
		_mm512_mask_cvtepi32_storeu_epi16(end - 2 * n, mask, _mm512_set1_epi32(0x75555));
		_mm_mask_storeu_epi8(end - n, mask, _mm_set1_epi8(3));
		expect_bytes(end - n, n, n, 3, 0);
		memset(end - 64, 0x55, 64);
	}
	edge_done(end);
}

static void test_bf16(void **unused)
{
	static const struct {
		uint32_t from;
		uint16_t to;
	} cases[] = {
		{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81}, /* to nearest */
		{0x3f818000, 0x3f82}, {0xbf818000, 0xbf82},                       /* even */
		{0x7f7fffff, 0x7f80}, {0xff800000, 0xff80},                       /* infinity */
		{0x007fffff, 0x0000}, {0x807fffff, 0x8000}, {0x00800000, 0x0080}, /* 2^-126 */
		{0x7f800001, 0x7fc0}, {0xffd23456, 0xffd2},                       /* not a number */
	};

	(void)unused;
	for (size_t i = 0; i < array_len(cases); i++) {
		__m256i got = (__m256i)_mm512_cvtneps_pbh(
			_mm512_castsi512_ps(_mm512_set1_epi32((int)cases[i].from)));
		uint16_t bits[16];

		memcpy(bits, &got, sizeof(bits));
		for (size_t lane = 0; lane < array_len(bits); lane++)
			assert_int_equal(bits[lane], cases[i].to);
	}
}

static float scaled(float a, float b)
{
	return _mm512_reduce_max_ps(_mm512_scalef_ps(_mm512_set1_ps(a), _mm512_set1_ps(b)));
}

static void test_numbers(void **unused)
{
	const __m512 one = _mm512_set1_ps(1), nan = _mm512_set1_ps(NAN);
	__m512i r = _mm512_cvtps_epi32(_mm512_castsi512_ps(_mm512_setr_epi32(0x3f000000, 0x3fc00000,
		0x40200000, 0x4f800000, 0x7fc00000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)));
	const int32_t expected[16] = {0, 2, 2, INT32_MIN, INT32_MIN};

	(void)unused;
	assert_memory_equal(&r, expected, sizeof(expected)); /* of 0.5, 1.5, 2.5, 2^32 and NaN */
	assert_true(scaled(0x1.8p0f, -149) == 0x1p-148f);
	assert_true(scaled(0x1.8p0f, -150) == 0x1p-149f);
	assert_true(scaled(0x1p-149f, 149.9f) == 1);
	assert_true(scaled(1, 128) == INFINITY && scaled(-0.0f, 5) == 0);
	assert_false(signbit(_mm512_reduce_max_ps(_mm512_abs_ps(_mm512_set1_ps(-0.0f)))));
	/* The second of two operands of which one is not a number. */
	assert_true(_mm512_reduce_add_ps(_mm512_max_ps(nan, one)) == 16);
	assert_true(_mm512_reduce_add_ps(_mm512_min_ps(nan, one)) == 16);
	assert_int_equal(_mm512_cmp_ps_mask(_mm512_max_ps(one, nan), one, _CMP_EQ_OQ), 0);
}

/* Neither product saturates, and sums wrap. */
static void test_dot_products(void **unused)
{
	__m512i bytes = _mm512_dpbusd_epi32(
		_mm512_set1_epi32(INT32_MIN), _mm512_set1_epi8(-1), _mm512_set1_epi8(-128));
	__m512i words = _mm512_dpwssd_epi32(_mm512_setzero_si512(),
		_mm512_set1_epi32((int)0x80008000), _mm512_set1_epi32((int)0x80008000));

	(void)unused;
	assert_int_equal(_mm512_reduce_max_epu32(bytes), 0x80000000u - 4 * 255 * 128);
	assert_int_equal(_mm512_reduce_max_epu32(words), 0x80000000u);
}

/* Row 0 of a tile of inputs and all lines of one of weights: `even` for the first of each pair. */
struct tiles {
	uint16_t inputs[32], weights[16][32];
};

static float tile_sum(const struct tiles *t, float start)
{
	static const struct {
		uint8_t palette, start_row, reserved[14];
		uint16_t row_bytes[16];
		uint8_t rows[16];
	} config = {.palette = 1, .row_bytes = {64, 64, 64}, .rows = {1, 1, 16}};
	float sums[16];

	for (size_t i = 0; i < array_len(sums); i++)
		sums[i] = start;
	_tile_loadconfig(&config);
	_tile_loadd(0, sums, 64);
	_tile_loadd(1, t->inputs, 64);
	_tile_loadd(2, t->weights, 64);
	_tile_dpbf16ps(0, 1, 2);
	_tile_stored(0, sums, 64);
	_tile_release();
	for (size_t i = 1; i < array_len(sums); i++)
		assert_true(same_bits(sums[i], sums[0]));
	return sums[0];
}

static void tiles_set(struct tiles *t, size_t term, uint16_t input, uint16_t weight)
{
	t->inputs[term] = input;
	for (size_t o = 0; o < 16; o++)
		t->weights[term / 2][2 * o + term % 2] = weight;
}

static void test_tiles(void **unused)
{
	const uint16_t one = 0x3f80, large = 0x4b80; /* 2^24 */
	const unsigned int csr = _mm_getcsr();
	struct tiles t = {0};

	(void)unused;
	/* Even terms are summed apart from odd ones: 2^24 loses a 1 of its own chain. */
	tiles_set(&t, 0, large, one);
	tiles_set(&t, 2, one, one);
	assert_true(tile_sum(&t, 0) == 0x1p24f);
	tiles_set(&t, 2, 0, 0);
	tiles_set(&t, 1, one, one);
	tiles_set(&t, 3, one, one);
	assert_true(tile_sum(&t, 0) == 0x1p24f + 2);
	assert_true(tile_sum(&t, -0x1p24f) == 2);
	/* Numbers below 2^-126 are 0, as inputs, as products and as sums. */
	t = (struct tiles){0};
	tiles_set(&t, 0, 0x007f, one);
	assert_true(tile_sum(&t, 1) == 1 && tile_sum(&t, 0) == 0);
	tiles_set(&t, 0, 0x0080, 0x3f00);
	assert_true(tile_sum(&t, 0) == 0);
	assert_true(tile_sum(&t, 0x1p-130f) == 0);
	assert_int_equal(_mm_getcsr(), csr);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_masked),
		cmocka_unit_test(test_bf16),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_dot_products),
		cmocka_unit_test(test_tiles),
	};
	struct reason reason;
	struct kernels k;

	if (select_emulated(&k, "amx", &reason) < 0) {
		print_message("%s\n", reason.text);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
	print_message("nothing is emulated on this processor\n");
	return 0;
}

#endif
