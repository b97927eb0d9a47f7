/*
 * Tokenizers: a small one whose tokens can be worked out by hand, the shipped one, those of
 * well-known models with the reference's own results where the shared folder is there, and tables
 * and files that are broken.
 */
#include "engine/added_tokens.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_tables.h"
#include "foreign/tokenizer_json.h"
#include "tests/imported_base.h"
#include "tests/scratch.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define SHIPPED "models/Llama-deltad-16M"
#define BYTE_TOKEN(byte) (3 + (byte))
#define MARK "\xe2\x96\x81"

struct tables {
	uint8_t *bytes;
	size_t n;
};

/* <unk> <s> </s>, the bytes, then U+2581, a, b, ab, U+2581 ab. `changes` replaces top-level keys,
 * or keys of the model where they begin with "model.". */
static json_t *small_json(const char *changes)
{
	json_t *json = json_loads(
		"{\"added_tokens\": ["
		"{\"id\":1,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"
		"{\"id\":2,\"content\":\"</s>\",\"special\":true,\"normalized\":false}],"
		"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["
		"{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"},"
		"{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"}]},"
		"\"pre_tokenizer\":null,"
		"\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
		"{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],"
		"\"special_tokens\":{\"<s>\":{\"ids\":[1]}}},"
		"\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
		"{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},"
		"{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
		"{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
		"\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,"
		"\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2,"
		"\"\\u2581\":259,\"a\":260,\"b\":261,\"ab\":262,\"\\u2581ab\":263},"
		"\"merges\":[\"a b\",\"\\u2581 ab\"]}}",
		0, NULL);
	json_t *change = json_loads(changes, 0, NULL), *model = json_object_get(json, "model");
	const char *key;
	json_t *value;

	assert_non_null(json);
	assert_non_null(change);
	for (int byte = 0; byte < 256; byte++) {
		char name[8];

		snprintf(name, sizeof(name), "<0x%02X>", byte);
		json_object_set_new(
			json_object_get(model, "vocab"), name, json_integer(BYTE_TOKEN(byte)));
	}
	json_object_foreach(change, key, value)
	{
		if (strncmp(key, "model.", 6) == 0)
			json_object_set(model, key + 6, value);
		else
			json_object_set(json, key, value);
	}
	json_decref(change);
	return json;
}

/* A folder with the small tokenizer, changed; the caller's. */
static char *small_folder(const char *changes)
{
	char *folder = scratch_folder(), *text, *path;
	json_t *json = small_json(changes);

	text = json_dumps(json, JSON_COMPACT);
	assert_non_null(text);
	path = scratch_write(folder, "tokenizer.json", text, strlen(text));
	free(path);
	free(text);
	json_decref(json);
	return folder;
}

static struct tables compile(const char *folder)
{
	struct reason reason = {0};
	struct tables t;

	if (tokenizer_compile(folder, &t.bytes, &t.n, &reason) < 0)
		fail_msg("%s", reason.text);
	return t;
}

static struct tokenizer *open_tables(const struct tables *t, const struct tables *extra)
{
	struct reason reason = {0};
	struct tokenizer *tokenizer;

	if (tokenizer_new(t->bytes, t->n, extra ? extra->bytes : NULL, extra ? extra->n : 0,
		    &tokenizer, &reason) < 0)
		fail_msg("%s", reason.text);
	return tokenizer;
}

static struct tokenizer *small_tokenizer(const char *changes, struct tables *ret_tables)
{
	char *folder = small_folder(changes);

	*ret_tables = compile(folder);
	scratch_remove(folder);
	free(folder);
	return open_tables(ret_tables, NULL);
}

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
	struct tables tables;
	struct tokenizer *t = small_tokenizer("{}", &tables);

	(void)state;
	EXPECT(t, "ab", specials, 263);
	EXPECT(t, "ab ab", wrapped, 1, 263, 263);
	EXPECT(t, "b", specials, 259, 261);
	EXPECT(t, "  a", specials, 259, 259, 259, 260);
	EXPECT(t, "\xc3\xa9", specials, 259, BYTE_TOKEN(0xc3), BYTE_TOKEN(0xa9));
	/* Every run between special tokens is normalised on its own. */
	EXPECT(t, "ab</s>ab", specials, 263, 2, 263);
	/* As plain text the same is ten characters: '<' '/' 's' '>' fall back to bytes. */
	EXPECT(t, "ab</s>", plain, 263, BYTE_TOKEN('<'), BYTE_TOKEN('/'), BYTE_TOKEN('s'),
		BYTE_TOKEN('>'));
	expect_ids(t, "", 0, plain, NULL, 0);
	EXPECT(t, "", wrapped, 1);
	EXPECT_TEXT(t, false, "ab ab", 263, 263);
	EXPECT_TEXT(t, false, "<s> ab", 1, 263);
	EXPECT_TEXT(t, true, "ab", 1, 263, 2);
	EXPECT_TEXT(t, false, "a\xc3\xa9", 260, BYTE_TOKEN(0xc3), BYTE_TOKEN(0xa9));
	EXPECT_TEXT(t, false,
		"\xef\xbf\xbd"
		"a",
		BYTE_TOKEN(0xc3), 260);
	EXPECT_TEXT(t, false, "a\xef\xbf\xbd\xef\xbf\xbd", 260, BYTE_TOKEN(0xe2), BYTE_TOKEN(0x82));
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
	struct tables tables;
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
	struct tables tables;
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
	struct tables tables;
	struct tokenizer *t = small_tokenizer(changes, &tables);

	(void)state;
	EXPECT(t, "a  <x>\nb", specials, 260, 300, 261);
	EXPECT(t, "a<x><y>b", specials, 260, 302, 261);
	EXPECT(t, "ba", specials, 301);
	EXPECT(t, "bab", specials, 261, 262);
	/* Words of the vocabulary stay words in guarded text; special tokens do not. */
	EXPECT(t, "<x>", plain, BYTE_TOKEN('<'), BYTE_TOKEN('x'), BYTE_TOKEN('>'));
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
		1, 263, BYTE_TOKEN('<'), BYTE_TOKEN('s'), BYTE_TOKEN('>'), 262};
	const struct guard guard = {.start = 5, .end = 6};
	const struct tokenizer_input input = {
		.text = text, .n = sizeof(text) - 1, .guards = &guard, .n_guards = 1};
	struct tables tables;
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
		char *folder = small_folder(cases[i].changes);
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
	char *base = small_folder("{}"), *tuned = small_folder(more);
	char *other = small_folder("{\"model.merges\":[\"a b\"]}");
	char *fewer = small_folder(
		"{\"added_tokens\":[{\"id\":2,\"content\":\"</s>\",\"special\":true}]}");
	struct tables tables = compile(base), extra;
	struct reason reason = {0};
	struct tokenizer *t;

	(void)state;
	assert_int_equal(tokenizer_compile_extra(base, base, &extra.bytes, &extra.n, &reason), 0);
	assert_int_equal(extra.n, 0);
	assert_int_equal(tokenizer_compile_extra(base, tuned, &extra.bytes, &extra.n, &reason), 0);
	t = open_tables(&tables, &extra);
	assert_int_equal(tokenizer_size(t), 265);
	assert_false(tokenizer_is_special(t, 2));
	EXPECT(t, "ab<new>", specials, 263, 264);
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

/* Broken tables are refused, or make a tokenizer that is safe to use. */
static void try_tables(const struct tables *t)
{
	struct tokenizer *tokenizer;
	struct reason reason = {0};
	uint32_t *ids;
	size_t n;

	if (tokenizer_new(t->bytes, t->n, NULL, 0, &tokenizer, &reason) < 0) {
		assert_true(reason.text[0] != '\0');
		return;
	}
	if (tokenizer_encode(tokenizer, "ab <s> b\xc3\xa9", 9, wrapped, &ids, &n, &reason) == 0) {
		for (size_t i = 0; i < n; i++)
			assert_true(ids[i] < tokenizer_size(tokenizer));
		free(ids);
	}
	tokenizer_free(tokenizer);
}

static void test_broken_tables(void **state)
{
	struct tables good, broken;
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

/* Time grows with the length, not its square: a second would be a hundred times too much. */
static void test_long_words(void **state)
{
	static const char *const units[] = {"a", " ", "ab", "\n", "1", "\xcc\x81", "<|im_", "'"};
	enum { LENGTH = 1 << 19 };
	struct tables tables = compile(SHIPPED);
	struct tokenizer *t = open_tables(&tables, NULL);
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

static void test_bad_text(void **state)
{
	struct tables tables = compile(SHIPPED);
	struct tokenizer *t = open_tables(&tables, NULL);
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

static void test_deterministic(void **state)
{
	struct tables first = compile(SHIPPED), second = compile(SHIPPED);

	(void)state;
	assert_int_equal(first.n, second.n);
	assert_memory_equal(first.bytes, second.bytes, first.n);
	free(first.bytes);
	free(second.bytes);
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
		struct tables tables;
		struct tokenizer *t;
		size_t room = 0;
		FILE *file;

		snprintf(folder, sizeof(folder), "%s/tokenizers/%s", shared_folder(), names[i]);
		if (!path_exists(folder)) {
			print_message("skipped: no %s\n", folder);
			continue;
		}
		tables = compile(folder);
		t = open_tables(&tables, NULL);
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
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_extra_tokens),
		cmocka_unit_test(test_broken_tables),
		cmocka_unit_test(test_long_words),
		cmocka_unit_test(test_bad_text),
		cmocka_unit_test(test_deterministic),
		cmocka_unit_test(test_shared_vectors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
