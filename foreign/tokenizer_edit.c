#include "foreign/tokenizer_edit.h"

#include "engine/tokenizer_view.h"
#include "foreign/json.h"
#include "foreign/tokenizer_source.h"

#include <stdio.h>
#include <string.h>

struct edit_item {
	json_int_t id;
	size_t rank; /* of two with the same id the higher one stays */
	json_t *token;
};

static int token_json(
	const struct tokenizer_view *v, const struct tokenizer_added *added, json_t **ret)
{
	json_t *token = json_pack("{s:I, s:o}", "id", (json_int_t)added->id, "content",
		json_stringn(v->text + added->text.offset, added->text.bytes));
	int r = token ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < array_len(tokenizer_added_keys); i++)
		r = json_object_set_new(token, tokenizer_added_keys[i].key,
			json_boolean(added->flags & tokenizer_added_keys[i].flag));
	if (r < 0) {
		json_decref(token);
		return -ENOMEM;
	}
	*ret = token;
	return 0;
}

static int read_section(const uint8_t *section, uint64_t n, json_t *tokens, struct reason *reason)
{
	struct tokenizer_view v;
	int r = tokenizer_view_init(&v, TOKENIZER_EXTRA_MAGIC, section, n, reason);

	for (uint32_t i = 0; r == 0 && i < v.head.n_added; i++) {
		struct tokenizer_added added;
		json_t *token = NULL;

		r = tokenizer_view_added(&v, i, &added, reason);
		if (r == 0)
			r = token_json(&v, &added, &token);
		if (r == 0 && json_array_append_new(tokens, token) < 0)
			r = -ENOMEM;
	}
	return r;
}

static int compare_items(const void *left, const void *right)
{
	const struct edit_item *a = left, *b = right;

	if (a->id != b->id)
		return a->id < b->id ? -1 : 1;
	return (a->rank > b->rank) - (a->rank < b->rank);
}

/* Both lists as one, ascending by id; of tokens with the same id the last one. */
static int merge_lists(const json_t *here, const json_t *added, json_t *ret)
{
	size_t n_here = json_array_size(here), n = n_here + json_array_size(added);
	_cleanup_(freep) struct edit_item *items = calloc(n + 1, sizeof(*items));
	int r = 0;

	if (!items)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		items[i].token =
			i < n_here ? json_array_get(here, i) : json_array_get(added, i - n_here);
		items[i].id = json_integer_value(json_object_get(items[i].token, "id"));
		items[i].rank = i;
	}
	qsort(items, n, sizeof(*items), compare_items);
	for (size_t i = 0; r == 0 && i < n; i++)
		if (i + 1 == n || items[i].id != items[i + 1].id)
			r = json_array_append(ret, items[i].token);
	return r < 0 ? -ENOMEM : 0;
}

int tokenizer_edit_add(json_t *tokenizer, const uint8_t *section, uint64_t n, json_t **ret_tokens,
	struct reason *reason)
{
	_cleanup_(json_freep) json_t *none = json_array();
	_cleanup_(json_freep) json_t *section_tokens = json_array();
	_cleanup_(json_freep) json_t *tokens = json_array();
	_cleanup_(json_freep) json_t *all = json_array();
	int r;

	if (!none || !section_tokens || !tokens || !all)
		return -ENOMEM;
	r = read_section(section, n, section_tokens, reason);
	if (r == 0)
		r = merge_lists(none, section_tokens, tokens);
	if (r == 0)
		r = merge_lists(json_object_get(tokenizer, "added_tokens"), tokens, all);
	if (r == 0 && json_object_set(tokenizer, "added_tokens", all) < 0)
		r = -ENOMEM;
	if (r == 0)
		*ret_tokens = take_ptr(tokens);
	return r;
}

const char *tokenizer_edit_spelling(const json_t *tokenizer, int64_t id)
{
	const json_t *added = json_object_get(tokenizer, "added_tokens");
	json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab"), *value;
	const char *token;

	for (size_t i = 0; i < json_array_size(added); i++) {
		const json_t *item = json_array_get(added, i);
		const json_t *here = json_object_get(item, "id");

		if (json_is_integer(here) && json_integer_value(here) == id)
			return json_string_value(json_object_get(item, "content"));
	}
	json_object_foreach(vocab, token, value)
	{
		if (json_is_integer(value) && json_integer_value(value) == id)
			return token;
	}
	return NULL;
}

int tokenizer_edit_list(json_t *config, const json_t *tokens)
{
	json_t *list = json_object_get(config, "added_tokens_decoder");

	for (size_t i = 0; json_is_object(list) && i < json_array_size(tokens); i++) {
		_cleanup_(json_freep) json_t *token = json_copy(json_array_get(tokens, i));
		char id[24];

		if (!token)
			return -ENOMEM;
		snprintf(id, sizeof(id), "%" JSON_INTEGER_FORMAT,
			json_integer_value(json_object_get(token, "id")));
		if (json_object_del(token, "id") < 0 || json_object_set(list, id, token) < 0)
			return -ENOMEM;
	}
	return 0;
}

int tokenizer_edit_name(json_t *config, const char *key, const char *token)
{
	json_t *here = json_object_get(config, key);
	int r;

	if (json_is_object(here))
		r = json_object_set_new(here, "content", json_string(token));
	else
		r = json_object_set_new(config, key, json_string(token));
	return r < 0 ? -ENOMEM : 0;
}
