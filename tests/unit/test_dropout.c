/*
 * The generator of dropout's places against frozen vectors, which a second implementation of the
 * prose in deltad-format(5) computed, and the expansion of seed and codes.
 */
#include "store/dropout.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

struct vector {
	uint64_t seed;
	uint32_t row, group, group_size, n_keep;
	uint16_t columns[16];
};

/* The vectors of deltad-format(5). */
static const struct vector vectors[] = {
	{0, 0, 0, 8, 1, {1}},
	{1, 0, 0, 8, 1, {5}},
	{1, 0, 1, 8, 1, {4}},
	{1, 1, 0, 8, 1, {0}},
	{UINT64_C(0xdeadbeefcafef00d), 4095, 511, 16, 1, {5}},
	{42, 7, 3, 12, 1, {11}},
	{42, 7, 3, 64, 8, {11, 19, 23, 36, 38, 49, 53, 57}},
	{42, 7, 3, 96, 5, {18, 57, 61, 77, 86}},
	{UINT64_MAX, 123456, 9, 384, 12, {3, 13, 55, 136, 141, 179, 218, 229, 233, 299, 303, 305}},
	{5, 2, 0, 10, 10, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
	{UINT64_C(0x0123456789abcdef), 31, 0, 32768, 4, {12886, 13797, 25953, 31453}},
};

static void test_vectors(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(vectors); i++) {
		const struct vector *v = &vectors[i];
		uint16_t columns[16];

		dropout_draw(v->seed, v->row, v->group, v->group_size, v->n_keep, columns);
		for (uint32_t k = 0; k < v->n_keep; k++)
			assert_int_equal(columns[k], v->columns[k]);
	}
	assert_true(dropout_seed(0, 2, 0, 0) == UINT64_C(0xee2751b92135351c));
	assert_true(dropout_seed(0, 17, 5, 3) == UINT64_C(0x8589e251a584dd14));
}

/* Every column of a group is kept equally often: chi-square over the columns, for sizes that do not
 * divide a power of two either. */
static void test_no_column_is_favoured(void **state)
{
	static const uint32_t sizes[][2] = {{8, 1}, {12, 1}, {12, 5}, {96, 3}, {100, 60}};
	enum { DRAWS = 20000 };

	(void)state;
	for (size_t i = 0; i < array_len(sizes); i++) {
		uint32_t h = sizes[i][0], n = sizes[i][1];
		uint16_t columns[128];
		uint32_t counts[128] = {0};
		double expected = (double)DRAWS * n / h, chi = 0;

		for (uint32_t draw = 0; draw < DRAWS; draw++) {
			dropout_draw(99, draw / 100, draw % 100, h, n, columns);
			for (uint32_t k = 0; k < n; k++) {
				assert_true(columns[k] < h);
				assert_true(k == 0 || columns[k - 1] < columns[k]);
				counts[columns[k]]++;
			}
		}
		for (uint32_t c = 0; c < h; c++)
			chi += pow(counts[c] - expected, 2) / expected;
		/* h - 1 degrees of freedom, shrunk by drawing without replacement. */
		chi /= 1 - (double)n / h * (n > 1);
		assert_true(fabs(chi - (h - 1)) < 5 * sqrt(2.0 * (h - 1)));
	}
}

static uint32_t entry_of(const struct dropout_layout *l, const void *entries, uint64_t i)
{
	return l->entry_bytes == 1 ? ((const uint8_t *)entries)[i] : ((const uint16_t *)entries)[i];
}

static void check_expansion(const struct dropout_shape *s, uint64_t seed)
{
	struct dropout_layout l;
	_cleanup_(freep) uint8_t *codes = NULL, *packed = NULL;
	_cleanup_(freep) void *entries = NULL, *again = NULL;
	uint64_t at = 0;

	assert_int_equal(dropout_layout(s, &l, NULL), 0);
	codes = malloc(l.n_codes);
	packed = malloc(l.code_bytes);
	entries = malloc(l.expanded_bytes);
	again = malloc(l.expanded_bytes);
	for (uint64_t i = 0; i < l.n_codes; i++)
		codes[i] = (uint8_t)((i * 37 + i / 5) & ((1u << s->bits) - 1));
	dropout_pack(codes, l.n_codes, s->bits, packed);
	/* Rows in any order. */
	dropout_expand_rows(s, seed, packed, s->rows / 2, s->rows, entries);
	dropout_expand_rows(s, seed, packed, 0, s->rows / 2, entries);
	for (uint32_t row = 0; row < s->rows; row++) {
		for (uint32_t g = 0; g < l.n_groups; g++) {
			uint16_t columns[512];

			dropout_draw(seed, row, g, s->group, s->n_keep, columns);
			for (uint32_t k = 0; k < s->n_keep; k++, at++) {
				uint32_t entry = entry_of(&l, entries, at);

				assert_int_equal(entry >> l.index_bits, codes[at]);
				assert_int_equal(entry & ((1u << l.index_bits) - 1), columns[k]);
			}
		}
	}
	assert_true(at == l.n_codes);
	dropout_expand_bytes(s, seed, codes, 0, s->rows, again);
	assert_memory_equal(entries, again, l.expanded_bytes);
}

static void test_expansion(void **state)
{
	static const struct dropout_shape shapes[] = {
		{6, 96, 8, 1, 4},
		{7, 96, 8, 1, 5},
		{6, 96, 8, 1, 6},
		{5, 384, 384, 48, 3},
		{3, 40, 10, 3, 1},
		{4, 64, 64, 64, 8},
		{2, 1024, 512, 5, 7},
		{1, 5, 1, 1, 2},
	};

	(void)state;
	for (size_t i = 0; i < array_len(shapes); i++)
		check_expansion(&shapes[i], 1000 + i);
}

static void test_layout(void **state)
{
	struct dropout_layout l;
	const struct dropout_shape byte = {4096, 4096, 8, 1, 5}, word = {4096, 4096, 4096, 512, 4};

	(void)state;
	assert_int_equal(dropout_layout(&byte, &l, NULL), 0);
	assert_int_equal(l.n_groups, 512);
	assert_int_equal(l.entries_of_row, 512);
	assert_int_equal(l.index_bits, 3);
	assert_int_equal(l.entry_bytes, 1);
	assert_true(l.n_codes == 4096 * 512);
	assert_true(l.code_bytes == 4096 * 512 * 5 / 8);
	assert_true(l.expanded_bytes == 4096 * 512);
	assert_int_equal(dropout_layout(&word, &l, NULL), 0);
	assert_int_equal(l.index_bits, 12);
	assert_int_equal(l.entry_bytes, 2);
	assert_true(l.expanded_bytes == 2 * 4096 * 512);
}

static void test_impossible_shapes(void **state)
{
	static const struct {
		struct dropout_shape shape;
		const char *says;
	} cases[] = {
		{{0, 8, 8, 1, 4}, "no numbers"},
		{{8, 0, 8, 1, 4}, "no numbers"},
		{{8, 8, 8, 1, 0}, "0 bits"},
		{{8, 8, 8, 1, 9}, "9 bits"},
		{{8, 8, 0, 1, 4}, "groups of 0"},
		{{8, 8, 3, 1, 4}, "do not divide"},
		{{8, 8, 16, 1, 4}, "do not divide"},
		{{8, 8, 8, 0, 4}, "keeps 0"},
		{{8, 8, 8, 9, 4}, "keeps 9"},
		{{8, 8192, 8192, 9, 4}, "an entry has 16 bits"},
		{{8, 65536, 65536, 9, 1}, "an entry has 16 bits"},
		{{UINT32_MAX, UINT32_MAX, 1, 1, 8}, "too large"},
	};

	(void)state;
	for (size_t i = 0; i < array_len(cases); i++) {
		struct dropout_layout l;
		struct reason reason = {""};

		assert_int_equal(dropout_layout(&cases[i].shape, &l, &reason), -EBADMSG);
		assert_non_null(strstr(reason.text, cases[i].says));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_no_column_is_favoured),
		cmocka_unit_test(test_expansion),
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_impossible_shapes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
