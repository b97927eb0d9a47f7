#include "foreign/jinja_value.h"
#include "engine/utf8.h"

#include <string.h>

bool value_is_true(const struct value *v)
{
	switch (v->kind) {
	case VALUE_UNDEFINED:
	case VALUE_NONE:
		return false;
	case VALUE_BOOL:
	case VALUE_INT:
		return v->integer != 0;
	case VALUE_STRING:
		return v->string.n != 0;
	case VALUE_LIST:
		return v->list->n != 0;
	case VALUE_DICT:
		return v->dict->first != NULL;
	case VALUE_MACRO:
	case VALUE_FUNCTION:
		return true;
	}
	return false;
}

static bool is_number(const struct value *v)
{
	return v->kind == VALUE_BOOL || v->kind == VALUE_INT;
}

bool value_equal(const struct value *a, const struct value *b)
{
	if (is_number(a) && is_number(b))
		return a->integer == b->integer;
	if (a->kind != b->kind)
		return false;
	switch (a->kind) {
	case VALUE_STRING:
		return a->string.n == b->string.n &&
		       memcmp(a->string.s, b->string.s, a->string.n) == 0;
	case VALUE_LIST:
		return a->list == b->list || (a->list->n == 0 && b->list->n == 0);
	case VALUE_DICT:
		return a->dict == b->dict;
	case VALUE_MACRO:
		return a->macro == b->macro;
	case VALUE_FUNCTION:
		return strcmp(a->string.s, b->string.s) == 0;
	case VALUE_UNDEFINED:
	case VALUE_NONE:
	case VALUE_BOOL:
	case VALUE_INT:
		break;
	}
	return true;
}

struct value *value_find(const struct value *v, const char *key, size_t n)
{
	if (v->kind != VALUE_DICT)
		return NULL;
	for (struct value_entry *e = v->dict->first; e; e = e->next)
		if (e->n_key == n && memcmp(e->key, key, n) == 0)
			return &e->value;
	return NULL;
}

int value_new_list(struct arena *a, size_t n, struct value *ret)
{
	struct value_list *list = arena_take(a, sizeof(*list));

	if (!list)
		return -ENOMEM;
	list->items = arena_take(a, (n + 1) * sizeof(*list->items));
	if (!list->items)
		return -ENOMEM;
	list->n = n;
	*ret = (struct value){.kind = VALUE_LIST, .list = list};
	return 0;
}

int value_new_dict(struct arena *a, struct value *ret)
{
	struct value_dict *dict = arena_take(a, sizeof(*dict));

	if (!dict)
		return -ENOMEM;
	dict->tail = &dict->first;
	*ret = (struct value){.kind = VALUE_DICT, .dict = dict};
	return 0;
}

int value_put(struct arena *a, struct value *dict, const char *key, size_t n, struct value value)
{
	struct value *there = value_find(dict, key, n);
	struct value_entry *e;

	if (there) {
		*there = value;
		return 0;
	}
	e = arena_take(a, sizeof(*e));
	if (!e)
		return -ENOMEM;
	*e = (struct value_entry){.key = key, .n_key = n, .value = value};
	*dict->dict->tail = e;
	dict->dict->tail = &e->next;
	return 0;
}

int value_concat(
	struct arena *a, const struct value *left, const struct value *right, struct value *ret)
{
	char *both = arena_take(a, left->string.n + right->string.n + 1);

	if (!both)
		return -ENOMEM;
	memcpy(both, left->string.s, left->string.n);
	memcpy(both + left->string.n, right->string.s, right->string.n);
	*ret = value_string(both, left->string.n + right->string.n);
	return 0;
}

static bool is_stripped(const char *at, const char *set, size_t n_set)
{
	if (set)
		return memchr(set, *at, n_set) != NULL;
	return utf8_is_python_space(utf8_decode(at));
}

struct value value_strip(
	const struct value *v, const char *set, size_t n_set, bool left, bool right)
{
	const char *s = v->string.s;
	size_t start = 0, end = v->string.n;

	while (left && start < end && is_stripped(s + start, set, n_set))
		start += utf8_length(s[start]);
	while (right && end > start && is_stripped(s + utf8_previous(s, end), set, n_set))
		end = utf8_previous(s, end);
	return value_string(s + start, end - start);
}
