/*
 * Filters, tests, functions and methods that templates use on plain conversations. Others are
 * refused by name, when they are run: a template may well hold them in branches for tools.
 */
#include "foreign/jinja_run.h"
#include "engine/utf8.h"

#include <ctype.h>
#include <string.h>

#define MAX_RANGE 10000

/* Argument number i by position, NULL if there are fewer. */
static const struct jinja_node *argument(const struct jinja_node *arguments, size_t i)
{
	while (arguments && i--)
		arguments = arguments->next;
	return arguments && arguments->kind != JINJA_ARGUMENT ? arguments : NULL;
}

/* Evaluates it, undefined if it is absent. */
static int evaluate_argument(
	struct runner *k, const struct jinja_node *arguments, size_t i, struct value *ret)
{
	const struct jinja_node *e = argument(arguments, i);

	*ret = (struct value){.kind = VALUE_UNDEFINED};
	return e ? evaluate(k, e, ret) : 0;
}

static int map_ascii(struct runner *k, const struct value *v, int (*map)(int), struct value *ret)
{
	char *copy = arena_take(&k->arena, v->string.n + 1);

	if (!copy)
		return -ENOMEM;
	for (size_t i = 0; i < v->string.n; i++) {
		if ((uint8_t)v->string.s[i] >= 0x80)
			return runner_unsupported(k, "change of case of", "letters beyond ASCII");
		copy[i] = (char)map((unsigned char)v->string.s[i]);
	}
	*ret = value_string(copy, v->string.n);
	return 0;
}

static int capitalize(struct runner *k, const struct value *v, struct value *ret)
{
	char *copy;
	int r = map_ascii(k, v, tolower, ret);

	if (r || !v->string.n)
		return r;
	copy = arena_take(&k->arena, v->string.n + 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, ret->string.s, v->string.n);
	copy[0] = (char)toupper((unsigned char)copy[0]);
	*ret = value_string(copy, v->string.n);
	return 0;
}

static int replace(struct runner *k, const struct value *v, const struct jinja_node *arguments,
	struct value *ret)
{
	const struct value none = value_string("", 0);
	struct value from, to, rest = *v, head;
	int r = evaluate_argument(k, arguments, 0, &from);

	if (r == 0)
		r = evaluate_argument(k, arguments, 1, &to);
	if (r)
		return r;
	if (from.kind != VALUE_STRING || to.kind != VALUE_STRING || !from.string.n ||
		argument(arguments, 2))
		return runner_unsupported(k, "method", "replace with these arguments");
	*ret = none;
	for (;;) {
		const char *found =
			memmem(rest.string.s, rest.string.n, from.string.s, from.string.n);
		size_t before = found ? (size_t)(found - rest.string.s) : rest.string.n;

		head = value_string(rest.string.s, before);
		r = value_concat(&k->arena, ret, &head, ret);
		if (r || !found)
			return r;
		r = value_concat(&k->arena, ret, &to, ret);
		if (r == 0)
			r = runner_step(k);
		if (r)
			return r;
		rest = value_string(found + from.string.n, rest.string.n - before - from.string.n);
	}
}

static int split(struct runner *k, const struct value *v, const struct jinja_node *arguments,
	struct value *ret)
{
	struct value separator;
	const char *at = v->string.s, *end = v->string.s + v->string.n;
	int r = evaluate_argument(k, arguments, 0, &separator);

	if (r)
		return r;
	if (separator.kind != VALUE_STRING || !separator.string.n || argument(arguments, 1))
		return runner_unsupported(k, "method", "split with these arguments");
	r = value_new_list(&k->arena, v->string.n / separator.string.n + 1, ret);
	if (r)
		return r;
	ret->list->n = 0;
	for (;;) {
		const char *found =
			memmem(at, (size_t)(end - at), separator.string.s, separator.string.n);

		ret->list->items[ret->list->n++] =
			value_string(at, (size_t)((found ? found : end) - at));
		if (!found)
			return 0;
		at = found + separator.string.n;
	}
}

static int strip(struct runner *k, const struct value *v, const struct jinja_node *arguments,
	bool left, bool right, struct value *ret)
{
	struct value set;
	int r = evaluate_argument(k, arguments, 0, &set);

	if (r)
		return r;
	if (set.kind == VALUE_UNDEFINED || set.kind == VALUE_NONE) {
		*ret = value_strip(v, NULL, 0, left, right);
		return 0;
	}
	if (set.kind != VALUE_STRING)
		return JINJA_RAISED;
	for (size_t i = 0; i < set.string.n; i++)
		if ((uint8_t)set.string.s[i] >= 0x80)
			return runner_unsupported(k, "method", "strip of characters beyond ASCII");
	*ret = value_strip(v, set.string.s, set.string.n, left, right);
	return 0;
}

static int has_affix(struct runner *k, const struct value *v, const struct jinja_node *arguments,
	bool at_end, struct value *ret)
{
	struct value affix;
	int r = evaluate_argument(k, arguments, 0, &affix);

	if (r)
		return r;
	if (affix.kind != VALUE_STRING)
		return runner_unsupported(k, "method", "startswith of other than a text");
	*ret = value_bool(affix.string.n <= v->string.n &&
			  memcmp(v->string.s + (at_end ? v->string.n - affix.string.n : 0),
				  affix.string.s, affix.string.n) == 0);
	return 0;
}

static int string_method(struct runner *k, const struct value *v, const char *name,
	const struct jinja_node *arguments, struct value *ret)
{
	if (strcmp(name, "strip") == 0)
		return strip(k, v, arguments, true, true, ret);
	if (strcmp(name, "lstrip") == 0)
		return strip(k, v, arguments, true, false, ret);
	if (strcmp(name, "rstrip") == 0)
		return strip(k, v, arguments, false, true, ret);
	if (strcmp(name, "split") == 0)
		return split(k, v, arguments, ret);
	if (strcmp(name, "replace") == 0)
		return replace(k, v, arguments, ret);
	if (strcmp(name, "startswith") == 0)
		return has_affix(k, v, arguments, false, ret);
	if (strcmp(name, "endswith") == 0)
		return has_affix(k, v, arguments, true, ret);
	if (strcmp(name, "upper") == 0)
		return map_ascii(k, v, toupper, ret);
	if (strcmp(name, "lower") == 0)
		return map_ascii(k, v, tolower, ret);
	if (strcmp(name, "capitalize") == 0)
		return capitalize(k, v, ret);
	return runner_unsupported(k, "method", name);
}

/* The pairs of a dict as lists of two. */
static int dict_items(struct runner *k, const struct value *v, struct value *ret)
{
	size_t i = 0;
	int r = value_iterate(k, v, ret);

	for (const struct value_entry *e = v->dict->first; r == 0 && e; e = e->next, i++) {
		struct value pair;

		r = value_new_list(&k->arena, 2, &pair);
		if (r < 0)
			break;
		pair.list->items[0] = value_string(e->key, e->n_key);
		pair.list->items[1] = e->value;
		ret->list->items[i] = pair;
	}
	return r;
}

static int dict_method(struct runner *k, const struct value *v, const char *name,
	const struct jinja_node *arguments, struct value *ret)
{
	struct value key;
	const struct value *found;
	int r;

	if (strcmp(name, "items") == 0)
		return dict_items(k, v, ret);
	if (strcmp(name, "keys") == 0)
		return value_iterate(k, v, ret);
	if (strcmp(name, "get") != 0)
		return runner_unsupported(k, "method", name);
	r = evaluate_argument(k, arguments, 0, &key);
	if (r)
		return r;
	found = key.kind == VALUE_STRING ? value_find(v, key.string.s, key.string.n) : NULL;
	if (found) {
		*ret = *found;
		return 0;
	}
	*ret = (struct value){.kind = VALUE_NONE};
	return argument(arguments, 1) ? evaluate_argument(k, arguments, 1, ret) : 0;
}

int builtin_method(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	const char *name = e->a->s;
	struct value object;
	int r = evaluate(k, e->a->a, &object);

	if (r)
		return r;
	if (object.kind == VALUE_STRING)
		return string_method(k, &object, name, e->b, ret);
	if (object.kind == VALUE_DICT)
		return dict_method(k, &object, name, e->b, ret);
	if (object.kind == VALUE_LIST)
		return runner_unsupported(k, "method", name);
	return JINJA_RAISED;
}

static int make_namespace(struct runner *k, const struct jinja_node *arguments, struct value *ret)
{
	int r = value_new_dict(&k->arena, ret);

	for (; r == 0 && arguments; arguments = arguments->next) {
		struct value v;

		if (arguments->kind != JINJA_ARGUMENT)
			return runner_unsupported(k, "function", "namespace of a value");
		r = evaluate(k, arguments->a, &v);
		if (r == 0)
			r = value_put(&k->arena, ret, arguments->s, arguments->n, v);
	}
	return r;
}

static int make_range(struct runner *k, const struct jinja_node *arguments, struct value *ret)
{
	struct value first, second;
	int r = evaluate_argument(k, arguments, 0, &first);

	if (r == 0)
		r = evaluate_argument(k, arguments, 1, &second);
	if (r)
		return r;
	if (second.kind == VALUE_UNDEFINED) {
		second = first;
		first = value_int(0);
	}
	if (first.kind != VALUE_INT || second.kind != VALUE_INT || argument(arguments, 2) ||
		first.integer < -MAX_RANGE || second.integer > MAX_RANGE)
		return runner_unsupported(k, "function", "range with these arguments");
	if (second.integer < first.integer)
		second = first;
	r = value_new_list(&k->arena, (size_t)(second.integer - first.integer), ret);
	for (size_t i = 0; r == 0 && i < ret->list->n; i++)
		ret->list->items[i] = value_int(first.integer + (int64_t)i);
	return r;
}

int builtin_function(
	struct runner *k, const char *name, const struct jinja_node *arguments, struct value *ret)
{
	if (strcmp(name, "raise_exception") == 0)
		return JINJA_RAISED;
	if (strcmp(name, "namespace") == 0 || strcmp(name, "dict") == 0)
		return make_namespace(k, arguments, ret);
	if (strcmp(name, "range") == 0)
		return make_range(k, arguments, ret);
	return runner_unsupported(k, "function", name);
}

static int length_of(struct runner *k, const struct value *v, struct value *ret)
{
	struct value items;
	int r;

	if (v->kind != VALUE_STRING && v->kind != VALUE_LIST && v->kind != VALUE_DICT &&
		v->kind != VALUE_UNDEFINED)
		return JINJA_RAISED;
	r = value_iterate(k, v, &items);
	if (r == 0)
		*ret = value_int((int64_t)items.list->n);
	return r;
}

static int join(struct runner *k, const struct value *v, const struct jinja_node *arguments,
	struct value *ret)
{
	const struct value none = value_string("", 0);
	struct value separator, items, text;
	int r = evaluate_argument(k, arguments, 0, &separator);

	if (r == 0 && separator.kind == VALUE_UNDEFINED)
		separator = none;
	if (r == 0)
		r = value_iterate(k, v, &items);
	*ret = none;
	for (size_t i = 0; r == 0 && i < items.list->n; i++) {
		if (i && separator.kind == VALUE_STRING)
			r = value_concat(&k->arena, ret, &separator, ret);
		if (r == 0)
			r = value_to_string(k, &items.list->items[i], &text);
		if (r == 0)
			r = value_concat(&k->arena, ret, &text, ret);
	}
	return r;
}

static int filter_default(struct runner *k, const struct value *v,
	const struct jinja_node *arguments, struct value *ret)
{
	struct value falsy;
	int r = evaluate_argument(k, arguments, 1, &falsy);

	if (r)
		return r;
	for (const struct jinja_node *a = arguments; a; a = a->next)
		if (a->kind == JINJA_ARGUMENT)
			return runner_unsupported(k, "filter", "default with a keyword");
	if (v->kind == VALUE_UNDEFINED || (value_is_true(&falsy) && !value_is_true(v)))
		return evaluate_argument(k, arguments, 0, ret);
	*ret = *v;
	return 0;
}

static int filter_end(struct runner *k, const struct value *v, bool last, struct value *ret)
{
	struct value items;
	int r = value_iterate(k, v, &items);

	if (r)
		return r;
	*ret = (struct value){.kind = VALUE_UNDEFINED};
	if (items.list->n)
		*ret = items.list->items[last ? items.list->n - 1 : 0];
	return 0;
}

/* Filters that are the method of the same name on the printed value. */
static bool is_string_filter(const char *name)
{
	static const char *const names[] = {"upper", "lower", "capitalize", "replace"};

	for (size_t i = 0; i < array_len(names); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

static bool is_text(const struct value *v, const char *text)
{
	const struct value other = value_string(text, strlen(text));

	return value_equal(v, &other);
}

/* selectattr and rejectattr with an attribute, a test of equality and a value. */
static int select_items(struct runner *k, const struct value *v, const struct jinja_node *arguments,
	bool wanted, struct value *ret)
{
	struct value key, test, other;
	size_t kept = 0;
	int r = evaluate_argument(k, arguments, 0, &key);

	if (r == 0)
		r = evaluate_argument(k, arguments, 1, &test);
	if (r == 0)
		r = evaluate_argument(k, arguments, 2, &other);
	if (r == 0)
		r = value_is_true(v) ? value_iterate(k, v, ret) : value_new_list(&k->arena, 0, ret);
	if (r)
		return r;
	if (key.kind != VALUE_STRING ||
		(!is_text(&test, "equalto") && !is_text(&test, "eq") && !is_text(&test, "==")))
		return runner_unsupported(k, "filter", "selectattr with these arguments");
	for (size_t i = 0; i < ret->list->n; i++) {
		const struct value *found =
			value_find(&ret->list->items[i], key.string.s, key.string.n);

		if ((found && value_equal(found, &other)) == wanted)
			ret->list->items[kept++] = ret->list->items[i];
	}
	ret->list->n = kept;
	return 0;
}

int builtin_filter(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	const char *name = e->s;
	struct value v, text;
	int r = evaluate(k, e->a, &v);

	if (r)
		return r;
	if (strcmp(name, "length") == 0 || strcmp(name, "count") == 0)
		return length_of(k, &v, ret);
	if (strcmp(name, "default") == 0 || strcmp(name, "d") == 0)
		return filter_default(k, &v, e->b, ret);
	if (strcmp(name, "list") == 0)
		return value_iterate(k, &v, ret);
	if (strcmp(name, "first") == 0 || strcmp(name, "last") == 0)
		return filter_end(k, &v, name[0] == 'l', ret);
	if (strcmp(name, "join") == 0)
		return join(k, &v, e->b, ret);
	if (strcmp(name, "selectattr") == 0 || strcmp(name, "rejectattr") == 0)
		return select_items(k, &v, e->b, name[0] == 's', ret);
	if (strcmp(name, "items") == 0 && v.kind == VALUE_DICT)
		return dict_items(k, &v, ret);
	if (strcmp(name, "trim") != 0 && strcmp(name, "string") != 0 && strcmp(name, "safe") != 0 &&
		!is_string_filter(name))
		return runner_unsupported(k, "filter", name);
	r = value_to_string(k, &v, &text);
	if (r)
		return r;
	if (strcmp(name, "trim") == 0)
		return strip(k, &text, e->b, true, true, ret);
	if (is_string_filter(name))
		return string_method(k, &text, name, e->b, ret);
	*ret = text;
	return 0;
}

int builtin_test(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	const char *name = e->s;
	struct value v, other;
	bool contained;
	int r = evaluate(k, e->a, &v);

	if (r == 0)
		r = evaluate_argument(k, e->b, 0, &other);
	if (r)
		return r;
	if (strcmp(name, "defined") == 0)
		*ret = value_bool(v.kind != VALUE_UNDEFINED);
	else if (strcmp(name, "undefined") == 0)
		*ret = value_bool(v.kind == VALUE_UNDEFINED);
	else if (strcmp(name, "none") == 0)
		*ret = value_bool(v.kind == VALUE_NONE);
	else if (strcmp(name, "string") == 0)
		*ret = value_bool(v.kind == VALUE_STRING);
	else if (strcmp(name, "mapping") == 0)
		*ret = value_bool(v.kind == VALUE_DICT);
	else if (strcmp(name, "iterable") == 0 || strcmp(name, "sequence") == 0)
		*ret = value_bool(
			v.kind == VALUE_STRING || v.kind == VALUE_LIST || v.kind == VALUE_DICT);
	else if (strcmp(name, "boolean") == 0)
		*ret = value_bool(v.kind == VALUE_BOOL);
	else if (strcmp(name, "integer") == 0)
		*ret = value_bool(v.kind == VALUE_INT);
	else if (strcmp(name, "number") == 0)
		*ret = value_bool(v.kind == VALUE_INT || v.kind == VALUE_BOOL);
	else if (strcmp(name, "true") == 0 || strcmp(name, "false") == 0)
		*ret = value_bool(v.kind == VALUE_BOOL && v.integer == (name[0] == 't'));
	else if (strcmp(name, "equalto") == 0 || strcmp(name, "eq") == 0)
		*ret = value_bool(value_equal(&v, &other));
	else if (strcmp(name, "odd") == 0 || strcmp(name, "even") == 0)
		*ret = value_bool((v.integer & 1) == (name[0] == 'o'));
	else if (strcmp(name, "in") == 0) {
		r = value_contains(k, &other, &v, &contained);
		*ret = value_bool(contained);
	} else {
		return runner_unsupported(k, "test", name);
	}
	return r;
}
