/*
 * tokenizer.json to tables: what is refused and in which words, what a fine-tune may add, and
 * tables with every byte broken.
 */
#include "engine/tokenizer_tables.h"
#include "foreign/tokenizer_json.h"
#include "tests/scratch.h"
#include "tests/small_tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define SHIPPED "models/Llama-deltad-16M"

static const struct tokenizer_options parsed = {.add_specials = false, .parse_specials = true};

static void test_refusals(void **state)
{
	static const struct {
		const char *changes;
		int error;
		const char *word;
	} cases[] = {
		{"{\"model.type\":\"WordPiece\"}", -EOPNOTSUPP, "WordPiece"},
		{"{\"model.type\":\"Unigram\"}", -EOPNOTSUPP, "Unigram"},
		{"{\"model.dropout\":0.1}", -EOPNOTSUPP, "dropout"},
		{"{\"model.continuing_subword_prefix\":\"##\"}", -EOPNOTSUPP, "subword_prefix"},
		{"{\"model.end_of_word_suffix\":\"</w>\"}", -EOPNOTSUPP, "end_of_word_suffix"},
		{"{\"model.merges\":[\"a c\"]}", -EBADMSG, "merge 0"},
		{"{\"model.merges\":[\"a b c\"]}", -EBADMSG, "merge 0"},
		{"{\"model.merges\":[[\"a\"]]}", -EBADMSG, "merge 0"},
		{"{\"model.merges\":{}}", -EBADMSG, "merges"},
		{"{\"model.unk_token\":\"?\"}", -EBADMSG, "unk_token"},
		{"{\"model.vocab\":{\"a\":0,\"b\":0}}", -EBADMSG, "same id"},
		{"{\"model.vocab\":{\"a\":-1}}", -EBADMSG, "id -1"},
		{"{\"model.vocab\":{\"a\":99999999}}", -EBADMSG, "id 99999999"},
		{"{\"model.vocab\":[]}", -EBADMSG, "vocab"},
		{"{\"model\":3}", -EBADMSG, "model"},
		{"{\"normalizer\":{\"type\":\"Lowercase\"}}", -EOPNOTSUPP, "Lowercase"},
		{"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x\"},"
		 "\"content\":\"\"}}",
			-EOPNOTSUPP, "regular expression"},
		{"{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}", -EOPNOTSUPP, "Bert"},
		{"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},"
		 "\"behavior\":\"Isolated\"}}",
			-EOPNOTSUPP, "pattern"},
		{"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"^a\"},"
		 "\"behavior\":\"Isolated\"}}",
			-EOPNOTSUPP, "anchor"},
		{"{\"decoder\":null}", -EOPNOTSUPP, "decoder"},
		{"{\"decoder\":{\"type\":\"WordPiece\"}}", -EOPNOTSUPP, "WordPiece"},
		{"{\"post_processor\":{\"type\":\"BertProcessing\"}}", -EOPNOTSUPP,
			"BertProcessing"},
		{"{\"added_tokens\":[{\"id\":7,\"content\":\"ab\"}]}", -EBADMSG, "has id 7"},
		{"{\"added_tokens\":[{\"content\":\"ab\"}]}", -EBADMSG, "no id"},
		{"{\"added_tokens\":[{\"id\":9000000,\"content\":\"zz\"}]}", -EBADMSG, "9000000"},
	};

	(void)state;
	for (size_t i = 0; i < array_len(cases); i++) {
		char *folder = small_tokenizer_folder(cases[i].changes);
		struct reason reason = {0};
		uint8_t *bytes = NULL;
		size_t n;
		int r = tokenizer_compile(folder, &bytes, &n, &reason);

		if (r != cases[i].error || !strstr(reason.text, cases[i].word))
			fail_msg("%s: %d, \"%s\"", cases[i].changes, r, reason.text);
		assert_null(bytes);
		scratch_remove(folder);
		free(folder);
	}
}

static void test_extra_tokens(void **state)
{
	static const char more[] =
		"{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},"
		"{\"id\":2,\"content\":\"</s>\",\"special\":false},"
		"{\"id\":264,\"content\":\"<new>\",\"special\":true}]}";
	char *base = small_tokenizer_folder("{}"), *tuned = small_tokenizer_folder(more);
	char *other = small_tokenizer_folder("{\"model.merges\":[\"a b\"]}");
	char *fewer = small_tokenizer_folder(
		"{\"added_tokens\":[{\"id\":2,\"content\":\"</s>\",\"special\":true}]}");
	struct tokenizer_bytes tables = tokenizer_bytes_of(base), extra;
	struct reason reason = {0};
	struct tokenizer *t;
	uint32_t *ids;
	size_t n;

	(void)state;
	assert_int_equal(tokenizer_compile_extra(base, base, &extra.bytes, &extra.n, &reason), 0);
	assert_int_equal(extra.n, 0);
	assert_int_equal(tokenizer_compile_extra(base, tuned, &extra.bytes, &extra.n, &reason), 0);
	t = tokenizer_open(&tables, &extra);
	assert_int_equal(tokenizer_size(t), 265);
	assert_false(tokenizer_is_special(t, 2));
	assert_int_equal(tokenizer_encode(t, "ab<new>", 7, parsed, &ids, &n, &reason), 0);
	assert_int_equal(n, 2);
	assert_int_equal(ids[0], 263);
	assert_int_equal(ids[1], 264);
	free(ids);
	tokenizer_free(t);
	assert_int_equal(
		tokenizer_compile_extra(base, other, &extra.bytes, &extra.n, &reason), -EOPNOTSUPP);
	assert_non_null(strstr(reason.text, "merges"));
	assert_int_equal(
		tokenizer_compile_extra(base, fewer, &extra.bytes, &extra.n, &reason), -EOPNOTSUPP);
	assert_non_null(strstr(reason.text, "lacks added token 1"));
	free(extra.bytes);
	free(tables.bytes);
	scratch_remove(base);
	scratch_remove(tuned);
	scratch_remove(other);
	scratch_remove(fewer);
	free(base);
	free(tuned);
	free(other);
	free(fewer);
}

/* The first token of a text is written as it is spelled, which is longer here than what the other
 * steps make of it. */
static void test_first_longer_than_replaced(void **state)
{
	static struct {
		struct tokenizer_tables head;
		uint32_t end;
		struct tokenizer_step steps[2];
		char text[320];
	} t = {
		.head = {.magic = {'D', 'E', 'L', 'T', 'T', 'O', 'K', '1'},
			.unk = TOKENIZER_NONE,
			.n_tokens = 1,
			.n_decoders = 2,
			.n_text = 320},
		.end = 310,
		.steps = {{.kind = DECODE_REPLACE, .a = {0, 10}},
			{.kind = DECODE_FIRST, .a = {319, 1}}},
	};
	struct reason reason = {0};
	struct tokenizer *tokenizer;
	const uint32_t ids[] = {0, 0};
	char *text;
	size_t n;

	(void)state;
	memset(t.text, 'x', 319);
	t.text[319] = 'y';
	assert_int_equal(tokenizer_new((uint8_t *)&t, sizeof(t), NULL, 0, &tokenizer, &reason), 0);
	assert_in_range(tokenizer_max_token_bytes(tokenizer), 310, 4 * 310);
	assert_int_equal(tokenizer_decode(tokenizer, ids, 2, false, &text, &n, &reason), 0);
	assert_int_equal(n, 310);
	free(text);
	tokenizer_free(tokenizer);
}

/* Broken tables are refused, or make a tokenizer that is safe to use. */
static void try_tables(const struct tokenizer_bytes *t)
{
	struct tokenizer *tokenizer;
	struct reason reason = {0};
	uint32_t *ids;
	size_t n, n_text;
	char *text;

	if (tokenizer_new(t->bytes, t->n, NULL, 0, &tokenizer, &reason) < 0) {
		assert_true(reason.text[0] != '\0');
		return;
	}
	if (tokenizer_encode(tokenizer, "ab <s> b\xc3\xa9", 9, parsed, &ids, &n, &reason) == 0) {
		for (size_t i = 0; i < n; i++)
			assert_true(ids[i] < tokenizer_size(tokenizer));
		if (tokenizer_decode(tokenizer, ids, n, false, &text, &n_text, &reason) == 0)
			free(text);
		free(ids);
	}
	tokenizer_free(tokenizer);
}

static void test_broken_tables(void **state)
{
	struct tokenizer_bytes good, broken;
	struct tokenizer *t = small_tokenizer("{}", &good);
	static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};

	(void)state;
	tokenizer_free(t);
	broken.bytes = malloc(good.n);
	assert_non_null(broken.bytes);
	for (size_t at = 0; at < good.n; at++)
		for (size_t i = 0; i < array_len(values); i++) {
			memcpy(broken.bytes, good.bytes, good.n);
			broken.bytes[at] = values[i];
			broken.n = good.n;
			try_tables(&broken);
		}
	memcpy(broken.bytes, good.bytes, good.n);
	for (size_t n = 0; n < good.n; n++) {
		assert_int_equal(tokenizer_new(broken.bytes, n, NULL, 0, &t, NULL), -EBADMSG);
	}
	free(broken.bytes);
	free(good.bytes);
}

static void test_deterministic(void **state)
{
	struct tokenizer_bytes first = tokenizer_bytes_of(SHIPPED),
			       second = tokenizer_bytes_of(SHIPPED);

	(void)state;
	assert_int_equal(first.n, second.n);
	assert_memory_equal(first.bytes, second.bytes, first.n);
	free(first.bytes);
	free(second.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_extra_tokens),
		cmocka_unit_test(test_first_longer_than_replaced),
		cmocka_unit_test(test_broken_tables),
		cmocka_unit_test(test_deterministic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
