#include "foreign/jinja_run.h"

#include <string.h>

#define MAX_STEPS 2000000u
#define MAX_MACRO_DEPTH 16
#define MAX_OUTPUT_BYTES (16u << 20)

int runner_unsupported(struct runner *k, const char *what, const char *name)
{
	return reason_set(k->reason, -EOPNOTSUPP,
		"the chat template uses the %s %s, which is not "
		"implemented",
		what, name);
}

int runner_step(struct runner *k)
{
	if (++k->steps > MAX_STEPS)
		return reason_set(k->reason, -EOPNOTSUPP, "the chat template computes too much");
	return 0;
}

static int set_name(struct runner *k, const char *name, size_t n, struct value value)
{
	return value_put(&k->arena, &k->scope->names, name, n, value);
}

static int push_scope(struct runner *k)
{
	struct scope *scope = arena_take(&k->arena, sizeof(*scope));

	if (!scope)
		return -ENOMEM;
	scope->outer = k->scope;
	k->scope = scope;
	return value_new_dict(&k->arena, &scope->names);
}

static void pop_scope(struct runner *k)
{
	k->scope = k->scope->outer;
}

static int print(struct runner *k, const char *s, size_t n)
{
	if (n > MAX_OUTPUT_BYTES || k->out->n > MAX_OUTPUT_BYTES - n)
		return reason_set(k->reason, -EOPNOTSUPP, "the chat template writes too much");
	return text_append(k->out, s, n);
}

static int run_print(struct runner *k, const struct jinja_node *node)
{
	struct value v, text;
	int r = evaluate(k, node->a, &v);

	if (r == 0)
		r = value_to_string(k, &v, &text);
	return r ? r : print(k, text.string.s, text.string.n);
}

static int run_if(struct runner *k, const struct jinja_node *node)
{
	struct value condition;
	int r = evaluate(k, node->a, &condition);

	if (r)
		return r;
	return runner_statements(k, value_is_true(&condition) ? node->b : node->c);
}

static int set_targets(struct runner *k, const struct jinja_node *targets, const struct value *item)
{
	size_t i = 0;
	int r = 0;

	if (!targets->next)
		return set_name(k, targets->s, targets->n, *item);
	for (; r == 0 && targets; targets = targets->next, i++) {
		if (item->kind != VALUE_LIST || i >= item->list->n)
			return JINJA_RAISED;
		r = set_name(k, targets->s, targets->n, item->list->items[i]);
	}
	return r ? r : i == item->list->n ? 0 : JINJA_RAISED;
}

/* The variable `loop`. */
static int set_loop(struct runner *k, const struct value_list *items, size_t i)
{
	const struct {
		const char *name;
		struct value value;
	} fields[] = {
		{"index0", value_int((int64_t)i)},
		{"index", value_int((int64_t)i + 1)},
		{"revindex0", value_int((int64_t)(items->n - i) - 1)},
		{"revindex", value_int((int64_t)(items->n - i))},
		{"length", value_int((int64_t)items->n)},
		{"first", value_bool(i == 0)},
		{"last", value_bool(i + 1 == items->n)},
		{"previtem", i ? items->items[i - 1] : (struct value){0}},
		{"nextitem", i + 1 < items->n ? items->items[i + 1] : (struct value){0}},
	};
	struct value loop;
	int r = value_new_dict(&k->arena, &loop);

	for (size_t f = 0; r == 0 && f < array_len(fields); f++)
		r = value_put(
			&k->arena, &loop, fields[f].name, strlen(fields[f].name), fields[f].value);
	return r < 0 ? r : set_name(k, "loop", 4, loop);
}

/* Drops the items for which the loop's own condition is false. */
static int filter_items(struct runner *k, const struct jinja_node *node, struct value_list *items)
{
	size_t kept = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < items->n; i++) {
		struct value condition;

		r = push_scope(k);
		if (r == 0)
			r = set_targets(k, node->d, &items->items[i]);
		if (r == 0)
			r = evaluate(k, node->e, &condition);
		if (r == 0 && value_is_true(&condition))
			items->items[kept++] = items->items[i];
		pop_scope(k);
	}
	items->n = kept;
	return r;
}

static int run_for(struct runner *k, const struct jinja_node *node)
{
	struct value v, items;
	int r = evaluate(k, node->a, &v);

	if (r == 0)
		r = value_iterate(k, &v, &items);
	if (r == 0 && node->e)
		r = filter_items(k, node, items.list);
	if (r == 0 && items.list->n == 0)
		return runner_statements(k, node->c);
	for (size_t i = 0; r == 0 && i < items.list->n; i++) {
		r = push_scope(k);
		if (r == 0)
			r = set_loop(k, items.list, i);
		if (r == 0)
			r = set_targets(k, node->d, &items.list->items[i]);
		if (r == 0)
			r = runner_statements(k, node->b);
		pop_scope(k);
	}
	return r;
}

/* Runs statements with their output in a string. */
static int capture(struct runner *k, const struct jinja_node *body, struct value *ret)
{
	_cleanup_(text_done) struct text captured = {0};
	struct text *out = k->out;
	const struct value none = value_string("", 0);
	struct value text;
	int r;

	k->out = &captured;
	r = runner_statements(k, body);
	k->out = out;
	if (r)
		return r;
	text = value_string(captured.items ? captured.items : "", captured.n);
	return value_concat(&k->arena, &text, &none, ret);
}

static int run_set(struct runner *k, const struct jinja_node *node)
{
	const struct jinja_node *target = node->d;
	struct value v, object;
	int r = node->kind == JINJA_SET ? evaluate(k, node->a, &v) : capture(k, node->b, &v);

	if (r)
		return r;
	if (target->kind == JINJA_NAME)
		return set_name(k, target->s, target->n, v);
	r = evaluate(k, target->a, &object);
	if (r)
		return r;
	if (object.kind != VALUE_DICT)
		return JINJA_RAISED;
	return value_put(&k->arena, &object, target->s, target->n, v);
}

/* Binds the parameters by position, by keyword, or by default. */
static int bind_parameters(
	struct runner *k, const struct jinja_node *macro, const struct jinja_node *arguments)
{
	const struct jinja_node *positional = arguments;
	int r = 0;

	for (const struct jinja_node *p = macro->d; r == 0 && p; p = p->next) {
		const struct jinja_node *source = p->kind == JINJA_ARGUMENT ? p->a : NULL;
		struct value v = {0};
		struct scope *inner = k->scope;

		if (positional && positional->kind != JINJA_ARGUMENT) {
			source = positional;
			positional = positional->next;
		}
		for (const struct jinja_node *a = arguments; a; a = a->next)
			if (a->kind == JINJA_ARGUMENT && strcmp(a->s, p->s) == 0)
				source = a->a;
		k->scope = inner->outer;
		if (source)
			r = evaluate(k, source, &v);
		k->scope = inner;
		if (r == 0)
			r = set_name(k, p->s, p->n, v);
	}
	return r;
}

int runner_macro(struct runner *k, const struct jinja_node *macro,
	const struct jinja_node *arguments, struct value *ret)
{
	struct scope *caller = k->scope;
	int r;

	if (k->macro_depth == MAX_MACRO_DEPTH)
		return reason_set(
			k->reason, -EOPNOTSUPP, "macros of the chat template nest too deep");
	k->macro_depth++;
	r = push_scope(k);
	if (r == 0)
		r = bind_parameters(k, macro, arguments);
	if (r == 0) {
		/* A macro sees its parameters and the template's own names, not the caller's. */
		k->scope->outer = k->global;
		r = capture(k, macro->b, ret);
	}
	k->scope = caller;
	k->macro_depth--;
	return r;
}

static int run_statement(struct runner *k, const struct jinja_node *node)
{
	switch (node->kind) {
	case JINJA_TEXT:
		return print(k, node->s, node->n);
	case JINJA_PRINT:
		return run_print(k, node);
	case JINJA_IF:
		return run_if(k, node);
	case JINJA_FOR:
		return run_for(k, node);
	case JINJA_SET:
	case JINJA_SET_BLOCK:
		return run_set(k, node);
	case JINJA_MACRO:
		return set_name(
			k, node->s, node->n, (struct value){.kind = VALUE_MACRO, .macro = node});
	case JINJA_SPAN:
		return runner_statements(k, node->b);
	case JINJA_REFUSED:
		return runner_unsupported(k, "statement", node->s);
	default:
		return -EINVAL;
	}
}

int runner_statements(struct runner *k, const struct jinja_node *list)
{
	int r = 0;

	for (; r == 0 && list; list = list->next) {
		r = runner_step(k);
		if (r == 0)
			r = run_statement(k, list);
	}
	return r;
}

static int put_messages(struct runner *k, const struct jinja_input *input)
{
	static const char *const roles[] = {
		[CHAT_ROLE_SYSTEM] = "system",
		[CHAT_ROLE_USER] = "user",
		[CHAT_ROLE_ASSISTANT] = "assistant",
	};
	struct value list;
	int r = value_new_list(&k->arena, input->n_messages, &list);

	for (size_t i = 0; r == 0 && i < input->n_messages; i++) {
		const struct chat_message *m = &input->messages[i];
		struct value *item = &list.list->items[i];
		const char *role = roles[m->role];

		r = value_new_dict(&k->arena, item);
		if (r == 0)
			r = value_put(&k->arena, item, "role", 4, value_string(role, strlen(role)));
		if (r == 0)
			r = value_put(
				&k->arena, item, "content", 7, value_string(m->text, m->n_text));
	}
	return r < 0 ? r : set_name(k, "messages", 8, list);
}

/* What the reference passes to every template. */
static int put_globals(struct runner *k, const struct jinja_input *input)
{
	static const char *const functions[] = {
		"raise_exception", "namespace", "range", "dict", "strftime_now"};
	static const char *const nones[] = {"tools", "documents"};
	int r = put_messages(k, input);

	for (size_t i = 0; r == 0 && i < array_len(functions); i++) {
		struct value f = value_string(functions[i], strlen(functions[i]));

		f.kind = VALUE_FUNCTION;
		r = set_name(k, functions[i], strlen(functions[i]), f);
	}
	for (size_t i = 0; r == 0 && !input->tools_undefined && i < array_len(nones); i++)
		r = set_name(k, nones[i], strlen(nones[i]), (struct value){.kind = VALUE_NONE});
	if (r == 0)
		r = set_name(
			k, "add_generation_prompt", 21, value_bool(input->add_generation_prompt));
	if (r == 0 && input->bos_token)
		r = set_name(k, "bos_token", 9,
			value_string(input->bos_token, strlen(input->bos_token)));
	if (r == 0 && input->eos_token)
		r = set_name(k, "eos_token", 9,
			value_string(input->eos_token, strlen(input->eos_token)));
	return r;
}

int jinja_render(const struct jinja *j, const struct jinja_input *input, struct text *out,
	struct reason *reason)
{
	struct runner k = {.out = out, .reason = reason};
	int r = push_scope(&k);

	k.global = k.scope;
	if (r == 0)
		r = put_globals(&k, input);
	if (r == 0)
		r = runner_statements(&k, j->body);
	if (r == -ENOMEM && k.arena.full)
		r = reason_set(reason, -EOPNOTSUPP, "the chat template takes more than %u MB",
			ARENA_MAX_BYTES >> 20);
	arena_done(&k.arena);
	return r;
}
