/*
 * Tokenizers: a small one whose tokens can be worked out by hand, the shipped one, and those of
 * well-known models with the reference's own results where the shared folder is there.
 */
#include "engine/added_tokens.h"
#include "tests/imported_base.h"
#include "tests/small_tokenizer.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define SHIPPED "models/Llama-deltad-16M"

static void expect_ids(const struct tokenizer *t, const char *text, size_t n,
	struct tokenizer_options options, const uint32_t *expected, size_t n_expected)
{
	struct reason reason = {0};
	uint32_t *ids;
	size_t n_ids;

	if (tokenizer_encode(t, text, n, options, &ids, &n_ids, &reason) < 0)
		fail_msg("'%s': %s", text, reason.text);
	if (n_ids != n_expected || (n_ids && memcmp(ids, expected, n_ids * sizeof(*ids)) != 0))
		fail_msg("'%s' gives %zu tokens, expected %zu; the first is %u", text, n_ids,
			n_expected, n_ids ? ids[0] : 0);
	free(ids);
}

#define EXPECT(t, text, options, ...)                                                              \
	do {                                                                                       \
		static const uint32_t expected_[] = {__VA_ARGS__};                                 \
                                                                                                   \
		expect_ids(t, text, sizeof(text) - 1, options, expected_, array_len(expected_));   \
	} while (0)

static void expect_text(const struct tokenizer *t, const uint32_t *ids, size_t n, bool skip,
	const char *expected, size_t n_expected)
{
	struct reason reason = {0};
	char *text;
	size_t n_text;

	if (tokenizer_decode(t, ids, n, skip, &text, &n_text, &reason) < 0)
		fail_msg("%s", reason.text);
	if (n_text != n_expected || memcmp(text, expected, n_text) != 0)
		fail_msg("decoded '%s', expected '%s'", text, expected);
	free(text);
}

/* Token by token through a buffer of exactly the promised room. */
static void expect_stream(const struct tokenizer *t, const uint32_t *ids, size_t n,
	const char *expected, size_t n_expected)
{
	size_t room = tokenizer_max_token_bytes(t) + 16, at = 0;
	struct token_stream stream = {0};
	char *buffer = malloc(room);

	assert_non_null(buffer);
	for (size_t i = 0; i <= n; i++) {
		size_t written = i < n ? token_stream_push(t, &stream, ids[i], buffer, room)
				       : token_stream_end(t, &stream, buffer, room);

		assert_true(written <= room);
		assert_true(written <= n_expected - at);
		assert_memory_equal(buffer, expected + at, written);
		at += written;
	}
	assert_int_equal(at, n_expected);
	free(buffer);
}

#define EXPECT_TEXT(t, skip, text, ...)                                                            \
	do {                                                                                       \
		static const uint32_t ids_[] = {__VA_ARGS__};                                      \
                                                                                                   \
		expect_text(t, ids_, array_len(ids_), skip, text, sizeof(text) - 1);               \
		if (!(skip))                                                                       \
			expect_stream(t, ids_, array_len(ids_), text, sizeof(text) - 1);           \
	} while (0)

static const struct tokenizer_options plain = {0};
static const struct tokenizer_options specials = {.parse_specials = true};
static const struct tokenizer_options wrapped = {.add_specials = true, .parse_specials = true};

static void test_sentencepiece_kind(void **state)
{
	struct tokenizer_bytes tables;
	struct tokenizer *t = small_tokenizer("{}", &tables);

	(void)state;
	EXPECT(t, "ab", specials, 263);
	EXPECT(t, "ab ab", wrapped, 1, 263, 263);
	EXPECT(t, "b", specials, 259, 261);
	EXPECT(t, "  a", specials, 259, 259, 259, 260);
	EXPECT(t, "\xc3\xa9", specials, 259, SMALL_BYTE(0xc3), SMALL_BYTE(0xa9));
	/* Every run between special tokens is normalised on its own. */
	EXPECT(t, "ab</s>ab", specials, 263, 2, 263);
	/* As plain text the same is ten characters: '<' '/' 's' '>' fall back to bytes. */
	EXPECT(t, "ab</s>", plain, 263, SMALL_BYTE('<'), SMALL_BYTE('/'), SMALL_BYTE('s'),
		SMALL_BYTE('>'));
	expect_ids(t, "", 0, plain, NULL, 0);
	EXPECT(t, "", wrapped, 1);
	EXPECT_TEXT(t, false, "ab ab", 263, 263);
	EXPECT_TEXT(t, false, "<s> ab", 1, 263);
	EXPECT_TEXT(t, true, "ab", 1, 263, 2);
	EXPECT_TEXT(t, false, "a\xc3\xa9", 260, SMALL_BYTE(0xc3), SMALL_BYTE(0xa9));
	EXPECT_TEXT(t, false,
		"\xef\xbf\xbd"
		"a",
		SMALL_BYTE(0xc3), 260);
	EXPECT_TEXT(t, false, "a\xef\xbf\xbd\xef\xbf\xbd", 260, SMALL_BYTE(0xe2), SMALL_BYTE(0x82));
	assert_int_equal(tokenizer_find(t, "</s>", 4), 2);
	assert_int_equal(tokenizer_find(t, "ab", 2), 262);
	assert_int_equal(tokenizer_find(t, "abc", 3), -1);
	assert_true(tokenizer_is_special(t, 2));
	assert_false(tokenizer_is_special(t, 262));
	tokenizer_free(t);
	free(tables.bytes);
}

static void test_unknown_characters(void **state)
{
	struct tokenizer_bytes tables;
	struct tokenizer *t = small_tokenizer("{\"model.byte_fallback\": false}", &tables);

	(void)state;
	EXPECT(t, "axyb", specials, 259, 260, 0, 261);
	tokenizer_free(t);
	free(tables.bytes);
	t = small_tokenizer("{\"model.byte_fallback\": false, \"model.fuse_unk\": false}", &tables);
	EXPECT(t, "axyb", specials, 259, 260, 0, 0, 261);
	tokenizer_free(t);
	free(tables.bytes);
}

static void test_metaspace(void **state)
{
	static const char always[] =
		"{\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\","
		"\"replacement\":\"\\u2581\",\"prepend_scheme\":\"always\",\"split\":false},"
		"\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\","
		"\"prepend_scheme\":\"always\",\"split\":false}}";
	static const char first[] =
		"{\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\","
		"\"replacement\":\"\\u2581\",\"prepend_scheme\":\"first\",\"split\":false},"
		"\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\","
		"\"prepend_scheme\":\"first\",\"split\":false}}";
	struct tokenizer_bytes tables;
	struct tokenizer *t = small_tokenizer(always, &tables);

	(void)state;
	EXPECT(t, "ab</s>ab", specials, 263, 2, 263);
	EXPECT_TEXT(t, false, "ab ab", 263, 263);
	tokenizer_free(t);
	free(tables.bytes);
	t = small_tokenizer(first, &tables);
	EXPECT(t, "ab</s>ab", specials, 263, 2, 262);
	EXPECT(t, "</s>ab", specials, 2, 262);
	tokenizer_free(t);
	free(tables.bytes);
}

static void test_added_token_flags(void **state)
{
	static const char changes[] =
		"{\"normalizer\":null,\"added_tokens\":["
		"{\"id\":300,\"content\":\"<x>\",\"special\":true,\"lstrip\":true,\"rstrip\":true},"
		"{\"id\":301,\"content\":\"ba\",\"special\":false,\"single_word\":true},"
		"{\"id\":302,\"content\":\"<x><y>\",\"special\":true}]}";
	struct tokenizer_bytes tables;
	struct tokenizer *t = small_tokenizer(changes, &tables);

	(void)state;
	EXPECT(t, "a  <x>\nb", specials, 260, 300, 261);
	EXPECT(t, "a<x><y>b", specials, 260, 302, 261);
	EXPECT(t, "ba", specials, 301);
	EXPECT(t, "bab", specials, 261, 262);
	/* Words of the vocabulary stay words in guarded text; special tokens do not. */
	EXPECT(t, "<x>", plain, SMALL_BYTE('<'), SMALL_BYTE('x'), SMALL_BYTE('>'));
	EXPECT(t, "ba", plain, 301);
	assert_int_equal(tokenizer_size(t), 303);
	EXPECT_TEXT(t, false, "", 299);
	tokenizer_free(t);
	free(tables.bytes);
}

static void test_guards(void **state)
{
	static const char text[] = "<s>ab<s>ab";
	static const uint32_t expected[] = {
		1, 263, SMALL_BYTE('<'), SMALL_BYTE('s'), SMALL_BYTE('>'), 262};
	const struct guard guard = {.start = 5, .end = 6};
	const struct tokenizer_input input = {
		.text = text, .n = sizeof(text) - 1, .guards = &guard, .n_guards = 1};
	struct tokenizer_bytes tables;
	struct tokenizer *t = small_tokenizer("{}", &tables);
	uint32_t *ids;
	size_t n;

	(void)state;
	/* One guarded byte is enough to spoil the token across the border. */
	assert_int_equal(tokenizer_encode_guarded(t, &input, &ids, &n, NULL), 0);
	assert_int_equal(n, array_len(expected));
	assert_memory_equal(ids, expected, sizeof(expected));
	free(ids);
	tokenizer_free(t);
	free(tables.bytes);
}

/* Time grows with the length, not its square: a second would be a hundred times too much. */
static void test_long_words(void **state)
{
	static const char *const units[] = {"a", " ", "ab", "\n", "1", "\xcc\x81", "<|im_", "'"};
	enum { LENGTH = 1 << 19 };
	struct tokenizer_bytes tables = tokenizer_bytes_of(SHIPPED);
	struct tokenizer *t = tokenizer_open(&tables, NULL);
	char *text = malloc(LENGTH);

	(void)state;
	assert_non_null(text);
	for (size_t i = 0; i < array_len(units); i++) {
		size_t unit = strlen(units[i]), n = LENGTH / unit * unit, n_ids, n_text;
		struct reason reason = {0};
		uint32_t *ids;
		char *back;

		for (size_t at = 0; at < n; at += unit)
			memcpy(text + at, units[i], unit);
		if (tokenizer_encode(t, text, n, specials, &ids, &n_ids, &reason) < 0)
			fail_msg("%s", reason.text);
		assert_int_equal(tokenizer_decode(t, ids, n_ids, false, &back, &n_text, NULL), 0);
		assert_int_equal(n_text, n);
		assert_memory_equal(back, text, n);
		free(ids);
		free(back);
	}
	free(text);
	tokenizer_free(t);
	free(tables.bytes);
}

/* Marks are sorted in time that is the square of their run, so long runs are refused; also those of
 * characters that are no marks themselves but decompose to some. */
static void test_combining_runs(void **state)
{
	static const struct {
		const char *normalizer, *unit;
	} runs[] = {
		{"{\"normalizer\":{\"type\":\"NFC\"}}", "\xcc\x81\xcc\xa3"},
		{"{\"normalizer\":{\"type\":\"NFC\"}}", "\xe0\xbd\xb3"},
		{"{\"normalizer\":{\"type\":\"NFKC\"}}", "\xcc\x81\xef\xbe\x9e"},
	};
	enum { LENGTH = 1 << 20 };
	char *text = malloc(LENGTH);

	(void)state;
	assert_non_null(text);
	for (size_t i = 0; i < array_len(runs); i++) {
		size_t unit = strlen(runs[i].unit), n = LENGTH / unit * unit, n_ids;
		struct tokenizer_bytes tables;
		struct tokenizer *t = small_tokenizer(runs[i].normalizer, &tables);
		struct reason reason = {0};
		uint32_t *ids;

		for (size_t at = 0; at < n; at += unit)
			memcpy(text + at, runs[i].unit, unit);
		assert_int_equal(
			tokenizer_encode(t, text, n, plain, &ids, &n_ids, &reason), -EOPNOTSUPP);
		assert_non_null(strstr(reason.text, "combining marks"));
		assert_int_equal(
			tokenizer_encode(t, text, 10 * unit, plain, &ids, &n_ids, NULL), 0);
		free(ids);
		tokenizer_free(t);
		free(tables.bytes);
	}
	free(text);
}

/* More text than can be meant is refused before it takes the memory. */
static void test_endless_decoding(void **state)
{
	enum { N_IDS = 1 << 16, N_TOKEN = 1 << 12 };
	_cleanup_(freep) char *token = calloc(1, N_TOKEN + 1), *changes = NULL;
	_cleanup_(freep) uint32_t *ids = malloc(N_IDS * sizeof(*ids));
	struct reason reason = {0};
	struct tokenizer_bytes tables;
	struct tokenizer *t;
	char *text;
	size_t n;

	(void)state;
	assert_non_null(token);
	assert_non_null(ids);
	memset(token, 'z', N_TOKEN);
	assert_true(asprintf(&changes,
			    "{\"model.vocab\":{\"<unk>\":0,\"%s\":1},\"model.merges\":[]"
			    ",\"model.byte_fallback\":false,\"added_tokens\":[],"
			    "\"post_processor\":null}",
			    token) > 0);
	t = small_tokenizer(changes, &tables);
	for (size_t i = 0; i < N_IDS; i++)
		ids[i] = 1;
	assert_int_equal(tokenizer_decode(t, ids, 3, false, &text, &n, &reason), 0);
	assert_int_equal(n, 3 * N_TOKEN);
	free(text);
	assert_int_equal(tokenizer_decode(t, ids, N_IDS, false, &text, &n, &reason), -E2BIG);
	assert_non_null(strstr(reason.text, "bytes"));
	tokenizer_free(t);
	free(tables.bytes);
}

static void test_bad_text(void **state)
{
	struct tokenizer_bytes tables = tokenizer_bytes_of(SHIPPED);
	struct tokenizer *t = tokenizer_open(&tables, NULL);
	uint32_t *ids, bad = 4096;
	size_t n;
	char *text;

	(void)state;
	assert_int_equal(tokenizer_encode(t, "a\xff", 2, specials, &ids, &n, NULL), -EBADMSG);
	assert_int_equal(
		tokenizer_encode(t, "\xed\xa0\x80", 3, specials, &ids, &n, NULL), -EBADMSG);
	assert_int_equal(tokenizer_decode(t, &bad, 1, false, &text, &n, NULL), -EBADMSG);
	tokenizer_free(t);
	free(tables.bytes);
}

static void read_ids(const json_t *array, uint32_t **ret, size_t *ret_n)
{
	*ret_n = json_array_size(array);
	*ret = calloc(*ret_n + 1, sizeof(**ret));
	assert_non_null(*ret);
	for (size_t i = 0; i < *ret_n; i++)
		(*ret)[i] = (uint32_t)json_integer_value(json_array_get(array, i));
}

static void check_vector(const struct tokenizer *t, const char *line)
{
	json_t *vector = json_loads(line, JSON_ALLOW_NUL, NULL);
	const json_t *text = json_object_get(vector, "text");
	const json_t *decoded = json_object_get(vector, "decoded");
	uint32_t *ids, *with_special;
	size_t n, n_with;

	assert_non_null(vector);
	read_ids(json_object_get(vector, "ids"), &ids, &n);
	read_ids(json_object_get(vector, "ids_with_special"), &with_special, &n_with);
	expect_ids(t, json_string_value(text), json_string_length(text), specials, ids, n);
	expect_ids(t, json_string_value(text), json_string_length(text), wrapped, with_special,
		n_with);
	expect_text(t, ids, n, false, json_string_value(decoded), json_string_length(decoded));
	expect_stream(t, ids, n, json_string_value(decoded), json_string_length(decoded));
	free(ids);
	free(with_special);
	json_decref(vector);
}

static void test_shared_vectors(void **state)
{
	static const char *const names[] = {
		"gpt2", "llama2", "llama3.1", "qwen3", "mistral-7b-v0.1"};
	size_t n_vectors = 0;

	(void)state;
	for (size_t i = 0; i < array_len(names); i++) {
		char folder[4096], path[4200], *line = NULL;
		struct tokenizer_bytes tables;
		struct tokenizer *t;
		size_t room = 0;
		FILE *file;

		snprintf(folder, sizeof(folder), "%s/tokenizers/%s", shared_folder(), names[i]);
		if (!path_exists(folder)) {
			print_message("skipped: no %s\n", folder);
			continue;
		}
		tables = tokenizer_bytes_of(folder);
		t = tokenizer_open(&tables, NULL);
		snprintf(path, sizeof(path), "%s/vectors.jsonl", folder);
		file = fopen(path, "re");
		assert_non_null(file);
		while (getline(&line, &room, file) > 0) {
			check_vector(t, line);
			n_vectors++;
		}
		free(line);
		fclose(file);
		tokenizer_free(t);
		free(tables.bytes);
	}
	print_message("%zu vectors\n", n_vectors);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sentencepiece_kind),
		cmocka_unit_test(test_unknown_characters),
		cmocka_unit_test(test_metaspace),
		cmocka_unit_test(test_added_token_flags),
		cmocka_unit_test(test_guards),
		cmocka_unit_test(test_long_words),
		cmocka_unit_test(test_combining_runs),
		cmocka_unit_test(test_endless_decoding),
		cmocka_unit_test(test_bad_text),
		cmocka_unit_test(test_shared_vectors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
