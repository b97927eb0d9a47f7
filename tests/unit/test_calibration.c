/* Calibration windows, from the base of models/ and its own text. */
#include "compress/calibration.h"

#include "foreign/tokenizer_json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static uint8_t *tables;
static struct tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
	struct reason reason = {0};
	size_t n;

	(void)state;
	if (tokenizer_compile("models/Llama-deltad-16M", &tables, &n, &reason) < 0)
		return -1;
	return tokenizer_new(tables, n, NULL, 0, &tokenizer, &reason);
}

static int close_tokenizer(void **state)
{
	(void)state;
	tokenizer_free(tokenizer);
	free(tables);
	return 0;
}

/* Documents of one word each: document i is the i-th number, so each token tells where it is from.
 */
static char *numbered_documents(size_t n)
{
	char *text = malloc(n * 16 + 1), *at = text;

	assert_non_null(text);
	*at = '\0';
	for (size_t i = 0; i < n; i++)
		at += snprintf(at, 16, "w%06zu\n\n\n", i);
	return text;
}

static struct calibration *made(const char *text, uint32_t max_tokens, uint32_t window)
{
	const struct calibration_limits limits = {.max_tokens = max_tokens, .window = window};
	struct calibration *c;
	struct reason reason = {0};

	if (calibration_of_text(tokenizer, text, strlen(text), &limits, &c, &reason) < 0)
		fail_msg("%s", reason.text);
	return c;
}

static bool same_window(const uint32_t *a, const uint32_t *b, uint32_t n)
{
	return memcmp(a, b, n * sizeof(*a)) == 0;
}

static void test_held_out_windows_are_apart(void **state)
{
	_cleanup_(freep) char *text = numbered_documents(2000);
	_cleanup_(calibration_freep) struct calibration *c = made(text, 1u << 20, 32);

	(void)state;
	assert_true(c->n_windows > 100);
	assert_true(c->n_held_out > 10);
	for (uint32_t i = 0; i < c->n_held_out; i++)
		for (uint32_t k = 0; k < c->n_windows; k++)
			assert_false(same_window(c->held_out + i * 32, c->ids + k * 32, 32));
	for (uint32_t i = 1; i < c->n_windows; i++)
		for (uint32_t k = 0; k < i; k++)
			assert_false(same_window(c->ids + i * 32, c->ids + k * 32, 32));
}

static void test_every_document_has_its_begin(void **state)
{
	_cleanup_(freep) char *text = numbered_documents(500);
	_cleanup_(calibration_freep) struct calibration *c = made(text, 1u << 20, 64);
	size_t n_begins = 0, n = (size_t)c->n_windows * c->window;
	int64_t bos = tokenizer_find(tokenizer, "<|begin_of_text|>", 17);

	(void)state;
	assert_true(bos >= 0);
	for (size_t i = 0; i < n; i++)
		n_begins += c->ids[i] == (uint32_t)bos;
	/* A word of 7 characters is 2 to 7 tokens, and each comes with a begin. */
	assert_true(n_begins >= n / 9 && n_begins <= n / 2);
}

static void test_limits_hold(void **state)
{
	_cleanup_(freep) char *text = numbered_documents(3000);
	_cleanup_(calibration_freep) struct calibration *c = made(text, 640, 64);
	_cleanup_(calibration_freep) struct calibration *again = made(text, 640, 64);

	(void)state;
	assert_int_equal(c->window, 64);
	assert_int_equal(c->n_windows, 10);
	assert_true(c->n_held_out * 64 <= CALIBRATION_HELD_OUT_TOKENS);
	assert_true(digest_equal(&c->digest, &again->digest));
	assert_true(same_window(c->ids, again->ids, 640));
}

static void test_a_short_text_makes_short_windows(void **state)
{
	_cleanup_(calibration_freep) struct calibration *c =
		made("Once upon a time there was a short text.", 4096, 512);
	const struct calibration_limits limits = {.max_tokens = 64, .window = 16};
	struct calibration *none = NULL;
	struct reason reason = {0};

	(void)state;
	assert_true(c->window >= 2 && c->window < 32);
	assert_int_equal(c->n_windows, 1);
	assert_int_equal(c->n_held_out, 1);
	assert_int_equal(calibration_of_text(tokenizer, "a", 1, &limits, &none, &reason), -EBADMSG);
	assert_int_equal(
		calibration_of_text(tokenizer, "\n\n\n", 3, &limits, &none, &reason), -EBADMSG);
	assert_int_equal(
		calibration_of_text(tokenizer, "\xff\xfe text", 7, &limits, &none, &reason),
		-EBADMSG);
	assert_null(none);
}

static void test_drawn_tokens_cover_the_vocabulary(void **state)
{
	const struct calibration_limits limits = {.max_tokens = 4096, .window = 64};
	struct calibration *c;
	bool seen[97] = {0};
	size_t n_seen = 0;

	(void)state;
	assert_int_equal(calibration_of_vocabulary(97, &limits, &c), 0);
	assert_int_equal(c->n_windows * c->window, 4096);
	for (size_t i = 0; i < 4096; i++) {
		assert_true(c->ids[i] < 97);
		n_seen += !seen[c->ids[i]];
		seen[c->ids[i]] = true;
	}
	assert_int_equal(n_seen, 97);
	calibration_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_held_out_windows_are_apart),
		cmocka_unit_test(test_every_document_has_its_begin),
		cmocka_unit_test(test_limits_hold),
		cmocka_unit_test(test_a_short_text_makes_short_windows),
		cmocka_unit_test(test_drawn_tokens_cover_the_vocabulary),
	};

	return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
