#include "tests/small_tokenizer.h"

#include "foreign/tokenizer_json.h"
#include "tests/scratch.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

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
			json_object_get(model, "vocab"), name, json_integer(SMALL_BYTE(byte)));
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

char *small_tokenizer_folder(const char *changes)
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

struct tokenizer_bytes tokenizer_bytes_of(const char *folder)
{
	struct reason reason = {0};
	struct tokenizer_bytes t;

	if (tokenizer_compile(folder, &t.bytes, &t.n, &reason) < 0)
		fail_msg("%s", reason.text);
	return t;
}

struct tokenizer *tokenizer_open(
	const struct tokenizer_bytes *t, const struct tokenizer_bytes *extra)
{
	struct reason reason = {0};
	struct tokenizer *tokenizer;

	if (tokenizer_new(t->bytes, t->n, extra ? extra->bytes : NULL, extra ? extra->n : 0,
		    &tokenizer, &reason) < 0)
		fail_msg("%s", reason.text);
	return tokenizer;
}

struct tokenizer *small_tokenizer(const char *changes, struct tokenizer_bytes *ret_tables)
{
	char *folder = small_tokenizer_folder(changes);

	*ret_tables = tokenizer_bytes_of(folder);
	scratch_remove(folder);
	free(folder);
	return tokenizer_open(ret_tables, NULL);
}
