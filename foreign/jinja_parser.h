/*
 * Between the files of the parser: jinja_lexer.c makes tokens, jinja_expression.c expressions of
 * them, jinja_parser.c statements and text.
 */
#pragma once

#include "foreign/jinja_tree.h"

#define JINJA_MAX_DEPTH 100

enum token_kind {
	TOKEN_END_TAG, /* %} or }} */
	TOKEN_NAME,
	TOKEN_STRING,
	TOKEN_INT,
	TOKEN_OPERATOR, /* s of n bytes */
};

/* What a tag wants done with the text after it. */
enum trim {
	TRIM_NONE,
	TRIM_NEWLINE,
	TRIM_ALL,
};

struct parser {
	struct jinja *j;
	const char *at, *end;
	enum trim trim;
	bool line_start; /* is `at` the beginning of the source? */
	char closing;    /* of the tag we are in: '%' or '}' */
	int depth;
	struct {
		enum token_kind kind;
		const char *s;
		size_t n;
		int64_t integer;
	} token;
	struct reason *reason;
};

/* Fill the reason and return their errno. */
int parser_malformed(struct parser *p, const char *expected);
int parser_refused(struct parser *p, const char *what);

int parser_node(struct parser *p, enum jinja_kind kind, struct jinja_node **ret) _must_check_;
int parser_copy(struct parser *p, struct jinja_node *node, const char *s, size_t n) _must_check_;

/* Reads the next token. Within braces a `}` is never the end of the tag. */
int parser_advance_in(struct parser *p, bool in_braces) _must_check_;
static inline _must_check_ int parser_advance(struct parser *p)
{
	return parser_advance_in(p, false);
}
bool parser_at_operator(const struct parser *p, const char *s);
bool parser_at_name(const struct parser *p, const char *s);
/* Moves past this operator; -EBADMSG if something else is there. */
int parser_expect(struct parser *p, const char *operator) _must_check_;

/* A node with the current name as its string; moves on. */
int parser_name(struct parser *p, enum jinja_kind kind, struct jinja_node **ret) _must_check_;
int parser_expression(struct parser *p, struct jinja_node **ret) _must_check_;
/* One without the form `a if b else c`, which `for` has another meaning for. */
int parser_condition(struct parser *p, struct jinja_node **ret) _must_check_;
/* Arguments and commas up to a closing bracket, which is consumed. */
int parser_arguments(struct parser *p, const char *closing, struct jinja_node **ret) _must_check_;
