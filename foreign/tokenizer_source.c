/*
 * tokenizer.json of the Hugging Face tokenizers library, with a BPE model, to tables. The layout of
 * the file is described by that library's documentation; everything that would change tokens and is
 * not known here is refused.
 */
#include "foreign/tokenizer_source.h"
#include "foreign/tokenizer_config.h"

#include <string.h>

void source_done(struct tokenizer_source *s)
{
	json_decref(s->json);
	json_decref(s->config);
	free(s->tokens);
	free(s->merges);
	free(s->added);
	id_list_done(&s->prefix);
	id_list_done(&s->suffix);
	text_done(&s->strings);
}

int source_string(
	struct tokenizer_source *s, const char *string, size_t n, struct tokenizer_text *ret)
{
	size_t offset = s->strings.n;
	int r = text_append(&s->strings, string, n);

	if (r == 0)
		*ret = (struct tokenizer_text){.offset = (uint32_t)offset, .bytes = (uint32_t)n};
	return r;
}

/* The id of a token by its spelling, -1 if there is none. */
static int64_t source_find(const struct tokenizer_source *s, const char *token)
{
	const json_t *added = json_object_get(s->json, "added_tokens");
	const json_t *id =
		json_object_get(json_object_get(json_object_get(s->json, "model"), "vocab"), token);

	for (size_t i = 0; i < json_array_size(added); i++) {
		const json_t *item = json_array_get(added, i);
		const char *content = json_string_value(json_object_get(item, "content"));

		if (content && strcmp(content, token) == 0)
			return json_integer_value(json_object_get(item, "id"));
	}
	return json_is_integer(id) ? json_integer_value(id) : -1;
}

/* Options of the model that change its tokens and are not implemented. */
static int check_model(const json_t *model, struct reason *reason)
{
	static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
	const char *type = json_string_value(json_object_get(model, "type"));
	const json_t *dropout = json_object_get(model, "dropout");

	if (!json_is_object(model))
		return reason_set(reason, -EBADMSG, "\"model\" is not an object");
	if (type ? strcmp(type, "BPE") != 0 : !json_object_get(model, "merges"))
		return reason_set(reason, -EOPNOTSUPP, "model %s is not implemented, only BPE is",
			type ? type : "without a type");
	if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0)
		return reason_set(reason, -EOPNOTSUPP, "BPE with dropout is not implemented");
	for (size_t i = 0; i < array_len(affixes); i++)
		if (json_string_length(json_object_get(model, affixes[i])))
			return reason_set(
				reason, -EOPNOTSUPP, "BPE with %s is not implemented", affixes[i]);
	return 0;
}

static int read_vocabulary(struct tokenizer_source *s, json_t *vocab, struct reason *reason)
{
	const char *token;
	json_t *id;

	if (!json_is_object(vocab))
		return reason_set(reason, -EBADMSG, "\"model.vocab\" is not an object");
	json_object_foreach(vocab, token, id)
	{
		json_int_t value = json_integer_value(id);

		if (!json_is_integer(id) || value < 0 ||
			value >= (json_int_t)json_object_size(vocab) + TOKENIZER_MAX_ID_GAP)
			return reason_set(reason, -EBADMSG,
				"vocabulary: token \"%.40s\" has id %lld", token, (long long)value);
		if (value >= s->n_tokens)
			s->n_tokens = (uint32_t)value + 1;
	}
	s->tokens = calloc((size_t)s->n_tokens + 1, sizeof(*s->tokens));
	if (!s->tokens)
		return -ENOMEM;
	json_object_foreach(vocab, token, id)
	{
		const char **slot = &s->tokens[json_integer_value(id)];

		if (*slot)
			return reason_set(reason, -EBADMSG,
				"vocabulary: \"%.40s\" and \"%.40s\" have the same id", *slot,
				token);
		*slot = token;
	}
	return 0;
}

/* One merge is "left right", or in newer files ["left", "right"]; copies both, ends with zeros. */
static int cut_merge(const json_t *item, struct text *left, struct text *right)
{
	const char *both = json_string_value(item), *space = both ? strchr(both, ' ') : NULL;
	const json_t *first = json_array_get(item, 0), *second = json_array_get(item, 1);
	int r;

	left->n = 0;
	right->n = 0;
	if (space && !strchr(space + 1, ' ')) {
		r = text_append(left, both, (size_t)(space - both));
		if (r == 0)
			r = text_append(right, space + 1, strlen(space + 1));
	} else if (json_array_size(item) == 2 && json_is_string(first) && json_is_string(second)) {
		r = text_append(left, json_string_value(first), json_string_length(first));
		if (r == 0)
			r = text_append(
				right, json_string_value(second), json_string_length(second));
	} else {
		return -EBADMSG;
	}
	if (r == 0)
		r = text_append(left, "", 1);
	return r < 0 ? r : text_append(right, "", 1);
}

static int read_merges(struct tokenizer_source *s, const json_t *vocab, const json_t *merges,
	struct reason *reason)
{
	_cleanup_(text_done) struct text left = {0};
	_cleanup_(text_done) struct text right = {0};
	size_t n = json_array_size(merges);

	if (!json_is_array(merges) || n > TOKENIZER_MAX_IDS)
		return reason_set(reason, -EBADMSG,
			"\"model.merges\" is not an array of at most %u", TOKENIZER_MAX_IDS);
	s->merges = calloc(n + 1, sizeof(*s->merges));
	if (!s->merges)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const json_t *ids[3];
		int r = cut_merge(json_array_get(merges, i), &left, &right);

		if (r == -EBADMSG)
			return reason_set(reason, r, "merge %zu is not a pair of tokens", i);
		if (r < 0)
			return r;
		ids[0] = json_object_get(vocab, left.items);
		ids[1] = json_object_get(vocab, right.items);
		left.n--;
		r = text_append(&left, right.items, right.n);
		if (r < 0)
			return r;
		ids[2] = json_object_get(vocab, left.items);
		if (!ids[0] || !ids[1] || !ids[2])
			return reason_set(reason, -EBADMSG,
				"merge %zu of \"%.40s\" is not in the vocabulary", i, left.items);
		s->merges[s->n_merges++] = (struct tokenizer_merge){
			.left = (uint32_t)json_integer_value(ids[0]),
			.right = (uint32_t)json_integer_value(ids[1]),
			.merged = (uint32_t)json_integer_value(ids[2]),
		};
	}
	return 0;
}

static int read_model(struct tokenizer_source *s, struct reason *reason)
{
	const json_t *model = json_object_get(s->json, "model");
	json_t *vocab = json_object_get(model, "vocab");
	const char *unk = json_string_value(json_object_get(model, "unk_token"));
	int r = check_model(model, reason);

	if (r == 0)
		r = read_vocabulary(s, vocab, reason);
	if (r == 0)
		r = read_merges(s, vocab, json_object_get(model, "merges"), reason);
	if (r < 0)
		return r;
	if (json_is_true(json_object_get(model, "byte_fallback")))
		s->flags |= TOKENIZER_BYTE_FALLBACK;
	if (json_is_true(json_object_get(model, "fuse_unk")))
		s->flags |= TOKENIZER_FUSE_UNK;
	if (json_is_true(json_object_get(model, "ignore_merges")))
		s->flags |= TOKENIZER_IGNORE_MERGES;
	s->unk = TOKENIZER_NONE;
	if (unk && !json_object_get(vocab, unk))
		return reason_set(
			reason, -EBADMSG, "unk_token \"%.40s\" is not in the vocabulary", unk);
	if (unk)
		s->unk = (uint32_t)json_integer_value(json_object_get(vocab, unk));
	return 0;
}

const struct tokenizer_added_key tokenizer_added_keys[5] = {
	{"single_word", TOKENIZER_ADDED_SINGLE_WORD},
	{"lstrip", TOKENIZER_ADDED_LSTRIP},
	{"rstrip", TOKENIZER_ADDED_RSTRIP},
	{"normalized", TOKENIZER_ADDED_NORMALIZED},
	{"special", TOKENIZER_ADDED_SPECIAL},
};

static uint32_t added_flags(const json_t *item)
{
	uint32_t flags = 0;

	for (size_t i = 0; i < array_len(tokenizer_added_keys); i++)
		if (json_is_true(json_object_get(item, tokenizer_added_keys[i].key)))
			flags |= tokenizer_added_keys[i].flag;
	return flags;
}

static int compare_added(const void *left, const void *right)
{
	const struct tokenizer_added *a = left, *b = right;

	return a->id < b->id ? -1 : a->id > b->id;
}

static int read_added(struct tokenizer_source *s, struct reason *reason)
{
	const json_t *items = json_object_get(s->json, "added_tokens");
	const json_t *vocab = json_object_get(json_object_get(s->json, "model"), "vocab");

	s->added = calloc(json_array_size(items) + 1, sizeof(*s->added));
	if (!s->added)
		return -ENOMEM;
	for (size_t i = 0; i < json_array_size(items); i++) {
		const json_t *item = json_array_get(items, i);
		const json_t *content = json_object_get(item, "content");
		const json_t *id = json_object_get(item, "id"), *same;
		struct tokenizer_added *added = &s->added[s->n_added];
		int r;

		if (!json_is_string(content) || !json_is_integer(id) ||
			json_integer_value(id) < 0 || json_integer_value(id) >= TOKENIZER_MAX_IDS)
			return reason_set(
				reason, -EBADMSG, "added token %zu has no content or no id", i);
		same = json_object_get(vocab, json_string_value(content));
		if (same && json_integer_value(same) != json_integer_value(id))
			return reason_set(reason, -EBADMSG,
				"added token \"%.40s\" has id %lld, in the vocabulary %lld",
				json_string_value(content), (long long)json_integer_value(id),
				(long long)json_integer_value(same));
		if (!json_string_length(content))
			continue;
		if (json_string_length(content) > TOKENIZER_MAX_ADDED_BYTES)
			return reason_set(reason, -EOPNOTSUPP,
				"added token %zu is longer than %u bytes", i,
				TOKENIZER_MAX_ADDED_BYTES);
		added->id = (uint32_t)json_integer_value(id);
		added->flags = added_flags(item);
		r = source_string(
			s, json_string_value(content), json_string_length(content), &added->text);
		if (r < 0)
			return r;
		s->n_added++;
	}
	qsort(s->added, s->n_added, sizeof(*s->added), compare_added);
	return 0;
}

/* Before post-processors, the configuration said what to put around a text. */
static int read_legacy_specials(struct tokenizer_source *s, struct reason *reason)
{
	static const struct {
		const char *flag, *token;
	} sides[2] = {{"add_bos_token", "bos_token"}, {"add_eos_token", "eos_token"}};

	for (size_t i = 0; i < 2; i++) {
		const char *token = tokenizer_config_token(s->config, sides[i].token);
		int64_t id = token ? source_find(s, token) : -1;
		int r;

		if (!json_is_true(json_object_get(s->config, sides[i].flag)))
			continue;
		if (id < 0)
			return reason_set(reason, -EBADMSG,
				"tokenizer_config.json: %s is set, but %s is no token",
				sides[i].flag, sides[i].token);
		r = id_list_append(i ? &s->suffix : &s->prefix, (uint32_t)id);
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_source(struct tokenizer_source *s, struct reason *reason)
{
	const json_t *post = json_object_get(s->json, "post_processor");
	int r = read_model(s, reason);

	if (r == 0)
		r = read_added(s, reason);
	if (r == 0)
		r = source_read_normalizer(s, json_object_get(s->json, "normalizer"), reason);
	if (r == 0)
		r = source_read_pretokenizer(s, json_object_get(s->json, "pre_tokenizer"), reason);
	if (r == 0)
		r = source_read_decoder(s, json_object_get(s->json, "decoder"), reason);
	if (r == 0)
		r = source_read_postprocessor(s, post, reason);
	if (r == 0 && (!post || json_is_null(post)))
		r = read_legacy_specials(s, reason);
	return r;
}

int tokenizer_json_load(const char *folder, json_t **ret, struct reason *reason)
{
	static const struct json_limits limits = {
		.max_bytes = 256u << 20,
		.max_depth = 64,
		.max_values = 1u << 24,
		.flags = JSON_ALLOW_NUL,
	};

	return json_object_load(folder, "tokenizer.json", &limits, ret, reason);
}

int source_open(struct tokenizer_source *s, const char *folder, struct reason *reason)
{
	int r = tokenizer_json_load(folder, &s->json, reason);

	if (r == 0)
		r = tokenizer_config_load(folder, &s->config, reason);
	if (r < 0)
		return r;
	r = read_source(s, reason);
	return r < 0 ? reason_prefix(reason, r, "%s/tokenizer.json", folder) : 0;
}
