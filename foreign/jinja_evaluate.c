#include "foreign/jinja_run.h"
#include "engine/utf8.h"

#include <stdio.h>
#include <string.h>

int value_to_string(struct runner *k, const struct value *v, struct value *ret)
{
	static const struct value none = {.kind = VALUE_STRING, .string = {"", 0}};
	char digits[24];
	struct value number;

	switch (v->kind) {
	case VALUE_UNDEFINED:
		*ret = none;
		return 0;
	case VALUE_NONE:
		*ret = value_string("None", 4);
		return 0;
	case VALUE_BOOL:
		*ret = v->integer ? value_string("True", 4) : value_string("False", 5);
		return 0;
	case VALUE_INT:
		number = value_string(digits,
			(size_t)snprintf(digits, sizeof(digits), "%lld", (long long)v->integer));
		return value_concat(&k->arena, &number, &none, ret);
	case VALUE_STRING:
		*ret = *v;
		return 0;
	case VALUE_LIST:
	case VALUE_DICT:
	case VALUE_MACRO:
	case VALUE_FUNCTION:
		return runner_unsupported(k, "printing of", "lists and objects");
	}
	return -EINVAL;
}

static int iterate_string(struct runner *k, const struct value *v, struct value *ret)
{
	size_t n = 0;
	int r = value_new_list(&k->arena, v->string.n, ret);

	for (size_t at = 0; r == 0 && at < v->string.n; at += utf8_length(v->string.s[at]))
		ret->list->items[n++] =
			value_string(v->string.s + at, utf8_length(v->string.s[at]));
	if (r == 0)
		ret->list->n = n;
	return r;
}

int value_iterate(struct runner *k, const struct value *v, struct value *ret)
{
	size_t n = 0;
	int r;

	if (v->kind == VALUE_STRING)
		return iterate_string(k, v, ret);
	if (v->kind == VALUE_LIST) {
		r = value_new_list(&k->arena, v->list->n, ret);
		if (r == 0)
			memcpy(ret->list->items, v->list->items,
				v->list->n * sizeof(*v->list->items));
		return r;
	}
	if (v->kind == VALUE_UNDEFINED)
		return value_new_list(&k->arena, 0, ret);
	if (v->kind != VALUE_DICT)
		return JINJA_RAISED;
	for (const struct value_entry *e = v->dict->first; e; e = e->next)
		n++;
	r = value_new_list(&k->arena, n, ret);
	n = 0;
	for (const struct value_entry *e = v->dict->first; r == 0 && e; e = e->next)
		ret->list->items[n++] = value_string(e->key, e->n_key);
	return r;
}

int value_contains(struct runner *k, const struct value *b, const struct value *a, bool *ret)
{
	*ret = false;
	if (b->kind == VALUE_STRING) {
		if (a->kind != VALUE_STRING)
			return JINJA_RAISED;
		*ret = a->string.n == 0 ||
		       memmem(b->string.s, b->string.n, a->string.s, a->string.n) != NULL;
		return 0;
	}
	if (b->kind == VALUE_DICT) {
		*ret = a->kind == VALUE_STRING && value_find(b, a->string.s, a->string.n) != NULL;
		return 0;
	}
	if (b->kind == VALUE_UNDEFINED)
		return 0;
	if (b->kind != VALUE_LIST)
		return JINJA_RAISED;
	for (size_t i = 0; !*ret && i < b->list->n; i++) {
		if (runner_step(k) < 0)
			return -EOPNOTSUPP;
		*ret = value_equal(&b->list->items[i], a);
	}
	return 0;
}

static int evaluate_name(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	*ret = (struct value){.kind = VALUE_UNDEFINED};
	for (const struct scope *s = k->scope; s; s = s->outer) {
		const struct value *found = value_find(&s->names, e->s, e->n);

		if (found) {
			*ret = *found;
			return 0;
		}
	}
	return 0;
}

static int evaluate_list(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	size_t n = 0;
	int r;

	for (const struct jinja_node *item = e->a; item; item = item->next)
		n++;
	r = value_new_list(&k->arena, n, ret);
	n = 0;
	for (const struct jinja_node *item = e->a; r == 0 && item; item = item->next)
		r = evaluate(k, item, &ret->list->items[n++]);
	return r;
}

static int evaluate_dict(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	int r = value_new_dict(&k->arena, ret);

	for (const struct jinja_node *item = e->a; r == 0 && item; item = item->next) {
		struct value key, v;

		r = evaluate(k, item->d, &key);
		if (r == 0)
			r = evaluate(k, item->a, &v);
		if (r == 0 && key.kind != VALUE_STRING)
			r = runner_unsupported(k, "key of an object,", "other than a string,");
		if (r == 0)
			r = value_put(&k->arena, ret, key.string.s, key.string.n, v);
	}
	return r;
}

static int evaluate_attribute(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	struct value object;
	const struct value *found;
	int r = evaluate(k, e->a, &object);

	if (r)
		return r;
	if (object.kind == VALUE_UNDEFINED)
		return JINJA_RAISED;
	found = value_find(&object, e->s, e->n);
	*ret = found ? *found : (struct value){.kind = VALUE_UNDEFINED};
	return 0;
}

static int index_list(const struct value *list, int64_t i, struct value *ret)
{
	int64_t n = (int64_t)list->list->n;

	if (i < 0)
		i += n;
	/* The reference gives undefined here, which raises at the next step into it. */
	*ret = i >= 0 && i < n ? list->list->items[i] : (struct value){.kind = VALUE_UNDEFINED};
	return 0;
}

static int evaluate_index(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	struct value object, key;
	const struct value *found;
	int r = evaluate(k, e->a, &object);

	if (r == 0)
		r = evaluate(k, e->b, &key);
	if (r)
		return r;
	if (object.kind == VALUE_UNDEFINED)
		return JINJA_RAISED;
	if (object.kind == VALUE_LIST && (key.kind == VALUE_INT || key.kind == VALUE_BOOL))
		return index_list(&object, key.integer, ret);
	if (object.kind == VALUE_STRING && key.kind == VALUE_INT) {
		struct value characters;

		r = iterate_string(k, &object, &characters);
		return r ? r : index_list(&characters, key.integer, ret);
	}
	found = key.kind == VALUE_STRING ? value_find(&object, key.string.s, key.string.n) : NULL;
	*ret = found ? *found : (struct value){.kind = VALUE_UNDEFINED};
	return 0;
}

/* A bound of a slice: absent, or counted from the end if negative, then kept inside [low, high]. */
static int slice_bound(struct runner *k, const struct jinja_node *e, int64_t absent, int64_t n,
	int64_t low, int64_t high, int64_t *ret)
{
	struct value v;
	int r;

	*ret = absent;
	if (!e)
		return 0;
	r = evaluate(k, e, &v);
	if (r)
		return r;
	if (v.kind != VALUE_INT)
		return JINJA_RAISED;
	*ret = v.integer < 0 ? v.integer + n : v.integer;
	if (*ret < low)
		*ret = low;
	if (*ret > high)
		*ret = high;
	return 0;
}

static int evaluate_slice(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	struct value object, step = value_int(1);
	int64_t n, start, stop, at;
	size_t count = 0;
	int r = evaluate(k, e->a, &object);

	if (r == 0 && e->d)
		r = evaluate(k, e->d, &step);
	if (r)
		return r;
	if (object.kind == VALUE_UNDEFINED)
		return JINJA_RAISED;
	if (object.kind != VALUE_LIST || step.kind != VALUE_INT ||
		(step.integer != 1 && step.integer != -1))
		return runner_unsupported(k, "slice of", "a text, or with a step");
	n = (int64_t)object.list->n;
	if (step.integer > 0) {
		r = slice_bound(k, e->b, 0, n, 0, n, &start);
		if (r == 0)
			r = slice_bound(k, e->c, n, n, 0, n, &stop);
	} else {
		r = slice_bound(k, e->b, n - 1, n, -1, n - 1, &start);
		if (r == 0)
			r = slice_bound(k, e->c, -1, n, -1, n - 1, &stop);
	}
	if (r == 0)
		r = value_new_list(&k->arena, (size_t)n, ret);
	if (r)
		return r;
	for (at = start; step.integer > 0 ? at < stop : at > stop; at += step.integer)
		ret->list->items[count++] = object.list->items[at];
	ret->list->n = count;
	return 0;
}

static int evaluate_call(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	struct value callee;
	int r;

	if (e->a->kind == JINJA_ATTRIBUTE)
		return builtin_method(k, e, ret);
	r = evaluate(k, e->a, &callee);
	if (r)
		return r;
	if (callee.kind == VALUE_MACRO)
		return runner_macro(k, callee.macro, e->b, ret);
	if (callee.kind == VALUE_FUNCTION)
		return builtin_function(k, callee.string.s, e->b, ret);
	if (e->a->kind == JINJA_NAME && callee.kind == VALUE_UNDEFINED)
		return runner_unsupported(k, "function", e->a->s);
	return JINJA_RAISED;
}

static int compare_order(enum jinja_operator op, int order, struct value *ret)
{
	bool holds = op == JINJA_LESS         ? order < 0
		     : op == JINJA_LESS_EQUAL ? order <= 0
		     : op == JINJA_GREATER    ? order > 0
					      : order >= 0;

	*ret = value_bool(holds);
	return 0;
}

static int compare(
	enum jinja_operator op, const struct value *a, const struct value *b, struct value *ret)
{
	size_t n;
	int order;

	if (a->kind == VALUE_INT && b->kind == VALUE_INT)
		return compare_order(
			op, (a->integer > b->integer) - (a->integer < b->integer), ret);
	if (a->kind != VALUE_STRING || b->kind != VALUE_STRING)
		return JINJA_RAISED;
	n = a->string.n < b->string.n ? a->string.n : b->string.n;
	order = memcmp(a->string.s, b->string.s, n);
	if (order == 0)
		order = (a->string.n > b->string.n) - (a->string.n < b->string.n);
	return compare_order(op, order, ret);
}

/* Python rounds the quotient down. */
static int64_t floor_divide(int64_t a, int64_t b)
{
	int64_t quotient = a / b;

	return quotient - (a % b != 0 && (a < 0) != (b < 0));
}

/* The remainder has the sign of b. */
static int64_t floor_modulo(int64_t a, int64_t b)
{
	int64_t remainder = a % b;

	return remainder && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

static int calculate(enum jinja_operator op, int64_t a, int64_t b, struct value *ret)
{
	int64_t result = 0;
	bool overflow = false;

	if ((op == JINJA_DIVIDE || op == JINJA_MODULO) && (b == 0 || b == -1))
		return JINJA_RAISED;
	if (op == JINJA_ADD)
		overflow = __builtin_add_overflow(a, b, &result);
	else if (op == JINJA_SUBTRACT)
		overflow = __builtin_sub_overflow(a, b, &result);
	else if (op == JINJA_MULTIPLY)
		overflow = __builtin_mul_overflow(a, b, &result);
	else if (op == JINJA_DIVIDE)
		result = floor_divide(a, b);
	else
		result = floor_modulo(a, b);
	*ret = value_int(result);
	return overflow ? JINJA_RAISED : 0;
}

static int add_lists(
	struct runner *k, const struct value *a, const struct value *b, struct value *ret)
{
	size_t n = a->list->n;
	int r = value_new_list(&k->arena, n + b->list->n, ret);

	if (r < 0)
		return r;
	memcpy(ret->list->items, a->list->items, n * sizeof(*a->list->items));
	memcpy(ret->list->items + n, b->list->items, b->list->n * sizeof(*b->list->items));
	return 0;
}

static int concatenate(
	struct runner *k, const struct value *a, const struct value *b, struct value *ret)
{
	struct value left, right;
	int r = value_to_string(k, a, &left);

	if (r == 0)
		r = value_to_string(k, b, &right);
	return r ? r : value_concat(&k->arena, &left, &right, ret);
}

static int evaluate_binary(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	struct value a, b;
	bool contained;
	int r = evaluate(k, e->a, &a);

	if (r == 0)
		r = evaluate(k, e->b, &b);
	if (r)
		return r;
	switch (e->op) {
	case JINJA_EQUAL:
	case JINJA_UNEQUAL:
		*ret = value_bool(value_equal(&a, &b) == (e->op == JINJA_EQUAL));
		return 0;
	case JINJA_LESS:
	case JINJA_LESS_EQUAL:
	case JINJA_GREATER:
	case JINJA_GREATER_EQUAL:
		return compare(e->op, &a, &b, ret);
	case JINJA_IN:
	case JINJA_NOT_IN:
		r = value_contains(k, &b, &a, &contained);
		*ret = value_bool(contained == (e->op == JINJA_IN));
		return r;
	case JINJA_CONCAT:
		return concatenate(k, &a, &b, ret);
	case JINJA_ADD:
		if (a.kind == VALUE_STRING && b.kind == VALUE_STRING)
			return value_concat(&k->arena, &a, &b, ret);
		if (a.kind == VALUE_LIST && b.kind == VALUE_LIST)
			return add_lists(k, &a, &b, ret);
		break;
	case JINJA_SUBTRACT:
	case JINJA_MULTIPLY:
	case JINJA_DIVIDE:
	case JINJA_MODULO:
		break;
	}
	if (a.kind != VALUE_INT || b.kind != VALUE_INT)
		return JINJA_RAISED;
	return calculate(e->op, a.integer, b.integer, ret);
}

static int evaluate_literal(const struct jinja_node *e, struct value *ret)
{
	switch (e->literal) {
	case JINJA_LITERAL_STRING:
		*ret = value_string(e->s, e->n);
		return 0;
	case JINJA_LITERAL_INT:
		*ret = value_int(e->integer);
		return 0;
	case JINJA_LITERAL_BOOL:
		*ret = value_bool(e->integer);
		return 0;
	case JINJA_LITERAL_NONE:
		*ret = (struct value){.kind = VALUE_NONE};
		return 0;
	}
	return -EINVAL;
}

/* and, or, not, if-else: what decides which of their parts are evaluated. */
static int evaluate_logic(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	int r = evaluate(k, e->kind == JINJA_CHOICE ? e->b : e->a, ret);

	if (r)
		return r;
	switch (e->kind) {
	case JINJA_AND:
		return value_is_true(ret) ? evaluate(k, e->b, ret) : 0;
	case JINJA_OR:
		return value_is_true(ret) ? 0 : evaluate(k, e->b, ret);
	case JINJA_NOT:
		*ret = value_bool(!value_is_true(ret));
		return 0;
	default:
		if (value_is_true(ret))
			return evaluate(k, e->a, ret);
		if (e->c)
			return evaluate(k, e->c, ret);
		*ret = (struct value){.kind = VALUE_UNDEFINED};
		return 0;
	}
}

int evaluate(struct runner *k, const struct jinja_node *e, struct value *ret)
{
	int r = runner_step(k);

	if (r < 0)
		return r;
	switch (e->kind) {
	case JINJA_LITERAL:
		return evaluate_literal(e, ret);
	case JINJA_NAME:
		return evaluate_name(k, e, ret);
	case JINJA_LIST:
		return evaluate_list(k, e, ret);
	case JINJA_DICT:
		return evaluate_dict(k, e, ret);
	case JINJA_ATTRIBUTE:
		return evaluate_attribute(k, e, ret);
	case JINJA_INDEX:
		return evaluate_index(k, e, ret);
	case JINJA_SLICE:
		return evaluate_slice(k, e, ret);
	case JINJA_CALL:
		return evaluate_call(k, e, ret);
	case JINJA_FILTER:
		return builtin_filter(k, e, ret);
	case JINJA_TEST:
		return builtin_test(k, e, ret);
	case JINJA_AND:
	case JINJA_OR:
	case JINJA_NOT:
	case JINJA_CHOICE:
		return evaluate_logic(k, e, ret);
	case JINJA_NEGATE:
		r = evaluate(k, e->a, ret);
		if (r)
			return r;
		return ret->kind == VALUE_INT ? calculate(JINJA_SUBTRACT, 0, ret->integer, ret)
					      : JINJA_RAISED;
	case JINJA_BINARY:
		return evaluate_binary(k, e, ret);
	default:
		return runner_unsupported(k, "expression", e->s ? e->s : "here");
	}
}
