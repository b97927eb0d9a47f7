/* Lossless bf16 words: every pattern comes back, what did not change is free, nothing else is
 * accepted. */
#include "store/bf16_stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct matrix {
	uint32_t rows, cols;
	uint16_t *words;
	uint32_t next; /* rows are taken in order */
};

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static struct matrix matrix_new(uint32_t rows, uint32_t cols)
{
	struct matrix m = {rows, cols, calloc((size_t)rows * cols + 1, sizeof(uint16_t)), 0};

	assert_non_null(m.words);
	return m;
}

static void matrix_done(struct matrix *m)
{
	free(m->words);
}

static size_t matrix_bytes(const struct matrix *m)
{
	return (size_t)m->rows * m->cols * sizeof(*m->words);
}

static void row_get(void *user, uint32_t row, uint16_t *ret)
{
	const struct matrix *m = user;

	assert_true(row < m->rows);
	memcpy(ret, m->words + (size_t)row * m->cols, m->cols * sizeof(*ret));
}

static void row_take(void *user, uint32_t row, const uint16_t *words)
{
	struct matrix *m = user;

	assert_int_equal(row, m->next++);
	memcpy(m->words + (size_t)row * m->cols, words, m->cols * sizeof(*words));
}

static void encode(struct matrix *base, struct matrix *tuned, uint8_t **ret, uint64_t *ret_n)
{
	struct bf16_rows b = {row_get, base}, t = {row_get, tuned};

	assert_int_equal(bf16_stream_encode(base->rows, base->cols, &b, &t, ret, ret_n), 0);
}

static int decode(struct matrix *base, const uint8_t *bytes, size_t n, struct matrix *back)
{
	/* Nothing behind the last byte, so that a sanitizer sees reads past it. */
	_cleanup_(freep) uint8_t *exact = malloc(n ? n : 1);
	struct bf16_rows rows = {row_get, base};
	struct reason reason = {""};
	struct strips strips;
	int r;

	assert_non_null(exact);
	if (n)
		memcpy(exact, bytes, n);
	back->next = 0;
	r = bf16_stream_open(exact, n, base->rows, base->cols, &strips, &reason);
	if (r == 0)
		r = bf16_stream_decode(&strips, &rows, row_take, back, &reason);
	assert_true((r < 0) == (reason.text[0] != '\0'));
	return r;
}

static uint64_t expect_round_trip(struct matrix *base, struct matrix *tuned)
{
	_cleanup_(matrix_done) struct matrix back = matrix_new(base->rows, base->cols);
	_cleanup_(freep) uint8_t *bytes = NULL;
	uint64_t n;

	encode(base, tuned, &bytes, &n);
	assert_int_equal(decode(base, bytes, n, &back), 0);
	assert_int_equal(back.next, base->cols ? base->rows : 0);
	assert_memory_equal(back.words, tuned->words, matrix_bytes(tuned));
	return n;
}

static void test_every_word_against_hostile_bases(void **state)
{
	/* Zeros, denormals, one and its neighbours, the largest, infinities, NaNs quiet and not. */
	static const uint16_t bases[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x3f80,
		0x3f7f, 0xbf80, 0x3d1a, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7f81, 0xff81, 0x7fc0,
		0x7fff, 0xffff};
	_cleanup_(matrix_done) struct matrix base = matrix_new(256, 256);
	_cleanup_(matrix_done) struct matrix tuned = matrix_new(256, 256);

	(void)state;
	for (size_t k = 0; k < array_len(bases); k++) {
		for (uint32_t i = 0; i < 65536; i++) {
			base.words[i] = bases[k];
			tuned.words[i] = (uint16_t)(i * 40503); /* odd: all, in mixed order */
		}
		expect_round_trip(&base, &tuned);
	}
}

static void test_random_words_of_odd_sizes(void **state)
{
	static const uint32_t sizes[][2] = {
		{0, 0}, {0, 3}, {3, 0}, {1, 1}, {1, 777}, {777, 1}, {31, 17}, {129, 65}};
	uint64_t seed = 1;

	(void)state;
	for (size_t k = 0; k < array_len(sizes); k++) {
		_cleanup_(matrix_done) struct matrix base = matrix_new(sizes[k][0], sizes[k][1]);
		_cleanup_(matrix_done) struct matrix tuned = matrix_new(sizes[k][0], sizes[k][1]);
		uint64_t n;

		for (size_t i = 0; i < matrix_bytes(&base) / 2; i++) {
			base.words[i] = (uint16_t)random_next(&seed);
			tuned.words[i] = (uint16_t)random_next(&seed);
		}
		n = expect_round_trip(&base, &tuned);
		assert_true((n == 0) == (matrix_bytes(&base) == 0));
		assert_true(n < 1.4 * (double)matrix_bytes(&base) + 64);
	}
}

/* Base weights as trained ones look, from a sum of uniform numbers; bits of a float cut to 16. */
static uint16_t random_weight(uint64_t *seed)
{
	float value = 0;
	uint32_t bits;

	for (int i = 0; i < 4; i++)
		value += (float)(int32_t)random_next(seed) * 0x1p-31f * 0.03f;
	memcpy(&bits, &value, sizeof(bits));
	return (uint16_t)(bits >> 16);
}

static void test_what_did_not_change_is_free(void **state)
{
	_cleanup_(matrix_done) struct matrix base = matrix_new(1000, 500);
	_cleanup_(matrix_done) struct matrix tuned = matrix_new(1000, 500);
	uint64_t seed = 2;

	(void)state;
	for (size_t i = 0; i < matrix_bytes(&base) / 2; i++)
		base.words[i] = random_weight(&seed);
	memcpy(tuned.words, base.words, matrix_bytes(&base));
	assert_in_range(expect_round_trip(&base, &tuned), 8, 300);
	/* Ten rows of a thousand cost what they hold, at 16 bits a word. */
	for (size_t i = 0; i < 5000; i++)
		tuned.words[(i / 500 * 97) * 500 + i % 500] = (uint16_t)random_next(&seed);
	assert_in_range(expect_round_trip(&base, &tuned), 9000, 10000 * 1.15);
}

/* Every weight moved by -3 to 3 words: no more than the entropy of that, 2.81 bits, and some. */
static void test_small_moves_cost_their_entropy(void **state)
{
	_cleanup_(matrix_done) struct matrix base = matrix_new(500, 400);
	_cleanup_(matrix_done) struct matrix tuned = matrix_new(500, 400);
	double bits;
	uint64_t seed = 6;

	(void)state;
	for (size_t i = 0; i < 200000; i++) {
		base.words[i] = (uint16_t)(0x3c00 + (random_next(&seed) & 0x8fff) % 0x300);
		tuned.words[i] = (uint16_t)(base.words[i] + random_next(&seed) % 7 - 3);
	}
	bits = 8.0 * (double)expect_round_trip(&base, &tuned) / 200000;
	assert_true(bits > 2.807);
	assert_true(bits < 2.85);
}

static void expect_refused_or_canonical(
	struct matrix *base, const uint8_t *bytes, size_t n, size_t *n_accepted)
{
	_cleanup_(matrix_done) struct matrix back = matrix_new(base->rows, base->cols);
	_cleanup_(freep) uint8_t *again = NULL;
	uint64_t n_again;
	int r = decode(base, bytes, n, &back);

	if (r < 0) {
		assert_int_equal(r, -EBADMSG);
		return;
	}
	++*n_accepted;
	encode(base, &back, &again, &n_again);
	assert_int_equal(n_again, n);
	assert_memory_equal(again, bytes, n);
}

static void test_broken_bytes_are_refused_or_canonical(void **state)
{
	_cleanup_(matrix_done) struct matrix base = matrix_new(7, 11);
	_cleanup_(matrix_done) struct matrix tuned = matrix_new(7, 11);
	_cleanup_(matrix_done) struct matrix back = matrix_new(7, 11);
	_cleanup_(freep) uint8_t *bytes = NULL;
	_cleanup_(freep) uint8_t *longer = NULL;
	size_t n_accepted = 0;
	uint64_t seed = 3, n;

	(void)state;
	for (size_t i = 0; i < 77; i++) {
		base.words[i] = random_weight(&seed);
		tuned.words[i] = (uint16_t)(base.words[i] ^ (random_next(&seed) & 0x1f));
	}
	encode(&base, &tuned, &bytes, &n);
	longer = calloc(1, n + 16);
	assert_non_null(longer);
	for (size_t bit = 0; bit < 8 * n; bit++) {
		memcpy(longer, bytes, n);
		longer[bit / 8] ^= (uint8_t)(1 << bit % 8);
		expect_refused_or_canonical(&base, longer, n, &n_accepted);
	}
	assert_true(n_accepted < 4 * n);
	for (uint64_t other = 0; other < n + 16; other++) {
		uint32_t entry = (uint32_t)(other - 4);

		if (other == n)
			continue;
		memcpy(longer, bytes, n);
		assert_int_equal(decode(&base, longer, other, &back), -EBADMSG);
		/* With a table that agrees it is the coder that must see it. */
		memcpy(longer, &entry, sizeof(entry));
		assert_int_equal(decode(&base, longer, other, &back), -EBADMSG);
	}
}

static void test_strips_decode_alone(void **state)
{
	_cleanup_(matrix_done) struct matrix base = matrix_new(9, 400000);
	_cleanup_(matrix_done) struct matrix tuned = matrix_new(9, 400000);
	_cleanup_(matrix_done) struct matrix back = matrix_new(9, 400000);
	struct bf16_rows rows = {row_get, &base};
	_cleanup_(freep) uint8_t *bytes = NULL;
	struct strips strips;
	struct reason reason;
	uint64_t seed = 8, n;

	(void)state;
	for (size_t i = 0; i < matrix_bytes(&base) / 2; i++) {
		base.words[i] = random_weight(&seed);
		tuned.words[i] = (uint16_t)(base.words[i] + (random_next(&seed) & 3));
	}
	encode(&base, &tuned, &bytes, &n);
	assert_int_equal(bf16_stream_open(bytes, n, 9, 400000, &strips, &reason), 0);
	assert_int_equal(strips.n_strips, 5);
	for (uint32_t i = strips.n_strips; i-- > 0;) {
		back.next = strips_get(&strips, i).first_row;
		assert_int_equal(
			bf16_stream_decode_strip(&strips, i, &rows, row_take, &back, &reason), 0);
	}
	assert_memory_equal(back.words, tuned.words, matrix_bytes(&tuned));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_word_against_hostile_bases),
		cmocka_unit_test(test_random_words_of_odd_sizes),
		cmocka_unit_test(test_what_did_not_change_is_free),
		cmocka_unit_test(test_small_moves_cost_their_entropy),
		cmocka_unit_test(test_broken_bytes_are_refused_or_canonical),
		cmocka_unit_test(test_strips_decode_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
