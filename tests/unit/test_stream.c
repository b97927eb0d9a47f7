/*
 * Streams: stop strings over the borders of tokens, text held back and given later. The tokenizer
 * is that of the shipped base; the texts are cut into its tokens by itself.
 */
#include "daemon/stream.h"

#include "tests/imported_base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static struct base *base;
static struct tokenizer *tokenizer;

static int setup(void **state)
{
	struct reason reason;

	(void)state;
	base = imported_base("models/Llama-deltad-16M");
	return tokenizer_of(base->image, NULL, &tokenizer, &reason);
}

static int teardown(void **state)
{
	(void)state;
	tokenizer_free(tokenizer);
	base_free(base);
	return 0;
}

struct outcome {
	char text[512];
	char stop[64];
	size_t n_calls;     /* pushes until the end */
	size_t n_held_most; /* bytes that were known but held back, at most */
	bool stopped;
	bool at_end; /* the stop came with stream_end() */
};

static void take(struct outcome *o, const char *text, size_t n)
{
	assert_true(n < sizeof(o->text) - strlen(o->text));
	strncat(o->text, text, n);
}

/* Pushes the tokens of `text`, one by one. */
static void run(struct stream *s, const char *text, struct outcome *o)
{
	_cleanup_(freep) uint32_t *ids = NULL;
	struct reason reason;
	const char *part;
	size_t n_ids, n;
	int r = 0;

	memset(o, 0, sizeof(*o));
	assert_int_equal(
		tokenizer_encode(tokenizer, text, strlen(text),
			(struct tokenizer_options){.add_specials = false}, &ids, &n_ids, &reason),
		0);
	for (size_t i = 0; i < n_ids && r == 0; i++) {
		r = stream_push(s, ids[i], &part, &n);
		take(o, part, n);
		o->n_calls++;
	}
	o->stopped = r == STREAM_E_STOP;
	if (!o->stopped) {
		o->n_held_most = strlen(text) - strlen(o->text);
		r = stream_end(s, &part, &n);
		take(o, part, n);
		o->at_end = r == STREAM_E_STOP;
	}
	part = stream_stop(s, &n);
	if (part)
		strncat(o->stop, part, n);
}

static void run_with(const char *const *stops, const char *text, struct outcome *o)
{
	_cleanup_(stream_freep) struct stream *s = NULL;

	assert_int_equal(stream_new(tokenizer, &s), 0);
	for (; *stops; stops++)
		assert_int_equal(stream_add_stop(s, *stops, strlen(*stops)), 0);
	run(s, text, o);
}

#define STOPS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_text_passes_unchanged(void **state)
{
	static const char *const texts[] = {"Tom has 3 apples.", "a", "  two  spaces\n\n\tand",
		"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80!"};
	struct outcome o;

	(void)state;
	for (size_t i = 0; i < array_len(texts); i++) {
		run_with(STOPS("never seen"), texts[i], &o);
		assert_string_equal(o.text, texts[i]);
		assert_false(o.stopped || o.at_end);
	}
}

/* Every stop that a text has, wherever tokens begin and end. */
static void test_every_substring_stops(void **state)
{
	static const char text[] = "Tom has three red apples and 12 pears.\nHow many? #### 15";
	struct outcome o;

	(void)state;
	for (size_t at = 0; at < strlen(text); at++)
		for (size_t n = 1; n <= 12 && at + n <= strlen(text); n++) {
			char stop[16];
			size_t first;

			memcpy(stop, text + at, n);
			stop[n] = '\0';
			first = (size_t)(strstr(text, stop) - text);
			run_with(STOPS(stop), text, &o);
			assert_true(o.stopped || o.at_end);
			assert_string_equal(o.stop, stop);
			assert_int_equal(strlen(o.text), first);
			assert_memory_equal(o.text, text, first);
		}
}

/* What turned out not to be a stop is given after all, and overlapping beginnings are not missed.
 */
static void test_beginnings_that_come_to_nothing(void **state)
{
	struct outcome o;

	(void)state;
	run_with(STOPS("apples!"), "red apples and apple", &o);
	assert_string_equal(o.text, "red apples and apple");
	run_with(STOPS("aab"), "x aaaab y", &o);
	assert_string_equal(o.text, "x aa");
	run_with(STOPS("\n\n##"), "one\n\n\n## two", &o);
	assert_string_equal(o.text, "one\n");
	run_with(STOPS("abcabd"), "abcabcabd", &o);
	assert_string_equal(o.text, "abc");
}

static void test_first_of_several(void **state)
{
	struct outcome o;

	(void)state;
	run_with(STOPS("pears", "apples"), "red apples and pears", &o);
	assert_string_equal(o.stop, "apples");
	assert_string_equal(o.text, "red ");
	/* At one place the one that was named first. */
	run_with(STOPS("app", "apples"), "red apples", &o);
	assert_string_equal(o.text, "red ");
}

/* Only what may become a stop is held back. */
static void test_holds_back_no_more_than_needed(void **state)
{
	struct outcome o;

	(void)state;
	run_with(STOPS("pearls"), "red apples and pear", &o);
	assert_true(o.n_held_most <= strlen("pear"));
	assert_string_equal(o.text, "red apples and pear");
	run_with(STOPS("zzz"), "red apples and pears.", &o);
	assert_int_equal(o.n_held_most, 0);
}

static void test_stop_token(void **state)
{
	_cleanup_(stream_freep) struct stream *s = NULL;
	_cleanup_(freep) uint32_t *ids = NULL;
	struct reason reason;
	const char *part;
	size_t n, n_ids;

	(void)state;
	assert_int_equal(
		tokenizer_encode(tokenizer, " apples", 7,
			(struct tokenizer_options){.add_specials = false}, &ids, &n_ids, &reason),
		0);
	assert_int_equal(stream_new(tokenizer, &s), 0);
	assert_int_equal(stream_add_stop(s, "apples pie", 10), 0);
	stream_set_stop_token(s, 3);
	for (size_t i = 0; i < n_ids; i++)
		assert_int_equal(stream_push(s, ids[i], &part, &n), 0);
	assert_int_equal(stream_push(s, 3, &part, &n), STREAM_E_STOP);
	assert_int_equal(n, 6);
	assert_memory_equal(part, "apples", 6);
	assert_null(stream_stop(s, &n));
}

static void test_limits(void **state)
{
	_cleanup_(stream_freep) struct stream *s = NULL;
	char stop[STREAM_MAX_STOP_BYTES + 1];

	(void)state;
	memset(stop, 'x', sizeof(stop));
	assert_int_equal(stream_new(tokenizer, &s), 0);
	assert_int_equal(stream_add_stop(s, stop, sizeof(stop)), -EINVAL);
	assert_int_equal(stream_add_stop(s, stop, 0), -EINVAL);
	for (size_t i = 0; i < STREAM_MAX_STOPS; i++)
		assert_int_equal(stream_add_stop(s, stop, sizeof(stop) - 1), 0);
	assert_int_equal(stream_add_stop(s, stop, 1), -ENOSPC);
}

/* A model without a tokenizer has streams without text. */
static void test_without_tokenizer(void **state)
{
	_cleanup_(stream_freep) struct stream *s = NULL;
	const char *part;
	size_t n;

	(void)state;
	assert_int_equal(stream_new(NULL, &s), 0);
	assert_int_equal(stream_add_stop(s, "x", 1), 0);
	assert_int_equal(stream_push(s, 5, &part, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(stream_end(s, &part, &n), 0);
	assert_int_equal(n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text_passes_unchanged),
		cmocka_unit_test(test_every_substring_stops),
		cmocka_unit_test(test_beginnings_that_come_to_nothing),
		cmocka_unit_test(test_first_of_several),
		cmocka_unit_test(test_holds_back_no_more_than_needed),
		cmocka_unit_test(test_stop_token),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_without_tokenizer),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
