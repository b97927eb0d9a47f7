/*
 * Values of a template at run time. They live in the arena of one rendering.
 */
#pragma once

#include "foreign/jinja_tree.h"

enum value_kind {
	VALUE_UNDEFINED,
	VALUE_NONE,
	VALUE_BOOL,
	VALUE_INT,
	VALUE_STRING,
	VALUE_LIST,
	VALUE_DICT, /* also namespaces and `loop` */
	VALUE_MACRO,
	VALUE_FUNCTION, /* named by `string` */
};

struct value {
	enum value_kind kind;
	int64_t integer; /* also of BOOL */
	struct {
		const char *s;
		size_t n;
	} string;
	struct value_list *list;
	struct value_dict *dict;
	const struct jinja_node *macro;
};

struct value_list {
	struct value *items;
	size_t n;
};

struct value_entry {
	struct value_entry *next;
	const char *key;
	size_t n_key;
	struct value value;
};

struct value_dict {
	struct value_entry *first, **tail;
};

static inline struct value value_bool(bool b)
{
	return (struct value){.kind = VALUE_BOOL, .integer = b};
}

static inline struct value value_int(int64_t i)
{
	return (struct value){.kind = VALUE_INT, .integer = i};
}

/* Borrows the bytes, which must live as long as the rendering. */
static inline struct value value_string(const char *s, size_t n)
{
	return (struct value){.kind = VALUE_STRING, .string = {s, n}};
}

bool value_is_true(const struct value *v);
bool value_equal(const struct value *a, const struct value *b);
/* Looks a key up; NULL if the value is no dict or has no such key. */
struct value *value_find(const struct value *v, const char *key, size_t n);

/* All -ENOMEM on failure. */
int value_new_list(struct arena *a, size_t n, struct value *ret) _must_check_;
int value_new_dict(struct arena *a, struct value *ret) _must_check_;
int value_put(struct arena *a, struct value *dict, const char *key, size_t n, struct value value)
	_must_check_;
/* A copy of the parts, one after the other. */
int value_concat(struct arena *a, const struct value *left, const struct value *right,
	struct value *ret) _must_check_;

/* Python's str.strip(): white space, or any of the characters of `set` (n_set bytes, ASCII). */
struct value value_strip(
	const struct value *v, const char *set, size_t n_set, bool left, bool right);
