/*
 * A template as a tree, made by jinja_parser.c, run by jinja_run.c.
 */
#pragma once

#include "foreign/arena.h"
#include "foreign/jinja.h"

enum jinja_kind {
	/* statements, linked by `next` */
	JINJA_TEXT,      /* s */
	JINJA_PRINT,     /* a */
	JINJA_IF,        /* a: condition, b: body, c: else branch (a list; elif is an IF in it) */
	JINJA_FOR,       /* targets: names in d; a: list, e: condition or NULL, b: body, c: else */
	JINJA_SET,       /* d: name or attribute; a: value */
	JINJA_SET_BLOCK, /* d: name; b: body */
	JINJA_MACRO,     /* s: name; d: parameters (NAMEs, default in a); b: body */
	JINJA_SPAN,      /* b: body, run as it is */
	JINJA_REFUSED,   /* s: a statement that we parse over, but do not implement */
	/* expressions; arguments and elements are linked by `next` */
	JINJA_LITERAL,   /* value: string s, or see literal */
	JINJA_NAME,      /* s */
	JINJA_LIST,      /* a: elements */
	JINJA_DICT,      /* a: ARGUMENTs with key in d */
	JINJA_ATTRIBUTE, /* a . s */
	JINJA_INDEX,     /* a [ b ] */
	JINJA_SLICE,     /* a [ b : c : d ], each may be NULL */
	JINJA_CALL,      /* a ( b ); keyword arguments are ARGUMENTs */
	JINJA_ARGUMENT,  /* s = a */
	JINJA_FILTER,    /* a | s ( b ) */
	JINJA_TEST,      /* a is s ( b ) */
	JINJA_NOT,       /* a */
	JINJA_NEGATE,    /* a */
	JINJA_AND,       /* a, b */
	JINJA_OR,
	JINJA_BINARY, /* a op b */
	JINJA_CHOICE, /* a if b else c (or NULL) */
};

enum jinja_literal_kind {
	JINJA_LITERAL_STRING,
	JINJA_LITERAL_INT,
	JINJA_LITERAL_BOOL,
	JINJA_LITERAL_NONE,
};

enum jinja_operator {
	JINJA_ADD,
	JINJA_SUBTRACT,
	JINJA_MULTIPLY,
	JINJA_DIVIDE,
	JINJA_MODULO,
	JINJA_CONCAT,
	JINJA_EQUAL,
	JINJA_UNEQUAL,
	JINJA_LESS,
	JINJA_LESS_EQUAL,
	JINJA_GREATER,
	JINJA_GREATER_EQUAL,
	JINJA_IN,
	JINJA_NOT_IN,
};

struct jinja_node {
	enum jinja_kind kind;
	enum jinja_literal_kind literal;
	enum jinja_operator op;
	const char *s; /* in the template's arena, zero-terminated */
	size_t n;
	int64_t integer;
	struct jinja_node *a, *b, *c, *d, *e;
	struct jinja_node *next;
};

struct jinja {
	struct arena arena;
	char *source; /* with newlines made one byte */
	size_t n_source;
	struct jinja_node *body;
	struct jinja_node *literals; /* copies of the string literals, linked by `next` */
};
