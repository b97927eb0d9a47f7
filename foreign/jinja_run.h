/*
 * Between the files that run a template: jinja_run.c runs statements, jinja_evaluate.c expressions,
 * jinja_builtin.c filters, tests, functions and methods.
 *
 * Results: 0; JINJA_RAISED where the reference would raise an error; -EOPNOTSUPP for what is not
 * implemented; -ENOMEM.
 */
#pragma once

#include "foreign/jinja_value.h"

struct scope {
	struct scope *outer;
	struct value names; /* a dict */
};

struct runner {
	struct arena arena;
	struct scope *scope;
	struct scope *global;
	struct text *out;
	uint64_t steps;
	int macro_depth;
	struct reason *reason;
};

int runner_unsupported(struct runner *k, const char *what, const char *name);
/* Counts one step of a bounded computation. */
int runner_step(struct runner *k) _must_check_;
/* Runs a list of statements, which may hold further lists. */
int runner_statements(struct runner *k, const struct jinja_node *list) _must_check_;
/* What a macro prints, as a string. */
int runner_macro(struct runner *k, const struct jinja_node *macro,
	const struct jinja_node *arguments, struct value *ret) _must_check_;

int evaluate(struct runner *k, const struct jinja_node *e, struct value *ret) _must_check_;
/* Text of a printed value; lists and dicts are not implemented. */
int value_to_string(struct runner *k, const struct value *v, struct value *ret) _must_check_;
/* The items of a list, the keys of a dict, the characters of a string. */
int value_iterate(struct runner *k, const struct value *v, struct value *ret) _must_check_;
/* Is a in b? */
int value_contains(struct runner *k, const struct value *b, const struct value *a, bool *ret)
	_must_check_;

int builtin_filter(struct runner *k, const struct jinja_node *e, struct value *ret) _must_check_;
int builtin_test(struct runner *k, const struct jinja_node *e, struct value *ret) _must_check_;
int builtin_method(struct runner *k, const struct jinja_node *e, struct value *ret) _must_check_;
int builtin_function(struct runner *k, const char *name, const struct jinja_node *arguments,
	struct value *ret) _must_check_;
