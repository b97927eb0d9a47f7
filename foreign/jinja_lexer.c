#include "foreign/jinja_parser.h"

#include <ctype.h>
#include <string.h>

static int line_of(const struct parser *p)
{
	int line = 1;

	for (const char *s = p->j->source; s < p->at; s++)
		line += *s == '\n';
	return line;
}

int parser_malformed(struct parser *p, const char *expected)
{
	return reason_set(
		p->reason, -EBADMSG, "chat template line %d: expected %s", line_of(p), expected);
}

int parser_refused(struct parser *p, const char *what)
{
	return reason_set(p->reason, -EOPNOTSUPP, "chat template line %d: %s is not implemented",
		line_of(p), what);
}

int parser_node(struct parser *p, enum jinja_kind kind, struct jinja_node **ret)
{
	struct jinja_node *node = arena_take(&p->j->arena, sizeof(*node));

	if (!node)
		return -ENOMEM;
	node->kind = kind;
	*ret = node;
	return 0;
}

int parser_copy(struct parser *p, struct jinja_node *node, const char *s, size_t n)
{
	char *copy = arena_take(&p->j->arena, n + 1);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, s, n);
	node->s = copy;
	node->n = n;
	return 0;
}

static bool is_name_char(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

/* The value of an escape sequence of one letter, or -1. */
static int simple_escape(char c)
{
	static const char letters[] = "ntr\\'\"", values[] = "\n\t\r\\'\"";
	const char *found = c ? strchr(letters, c) : NULL;

	return found ? values[found - letters] : -1;
}

/* A string literal, its escapes resolved in place of a copy. */
static int read_string(struct parser *p)
{
	char quote = *p->at++, *copy;
	const char *close = p->at;
	size_t n = 0;

	while (close < p->end && *close != quote)
		close += *close == '\\' ? 2 : 1;
	if (close >= p->end)
		return parser_malformed(p, "the end of a string");
	copy = arena_take(&p->j->arena, (size_t)(close - p->at) + 1);
	if (!copy)
		return -ENOMEM;
	while (p->at < close) {
		char c = *p->at++;

		if (c == '\\') {
			int value = simple_escape(*p->at);

			if (value < 0)
				return parser_refused(p, "this escape in a string");
			c = (char)value;
			p->at++;
		}
		copy[n++] = c;
	}
	p->at++;
	p->token.kind = TOKEN_STRING;
	p->token.s = copy;
	p->token.n = n;
	return 0;
}

static int read_number(struct parser *p)
{
	int64_t value = 0;

	while (p->at < p->end && isdigit((unsigned char)*p->at)) {
		if (value > INT32_MAX)
			return parser_refused(p, "a large number");
		value = 10 * value + (*p->at++ - '0');
	}
	if (p->at + 1 < p->end && *p->at == '.' && isdigit((unsigned char)p->at[1]))
		return parser_refused(p, "a decimal fraction");
	p->token.kind = TOKEN_INT;
	p->token.integer = value;
	return 0;
}

static int read_operator(struct parser *p)
{
	static const char *const operators[] = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*",
		"/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ".", ",", ":", "|"};

	for (size_t i = 0; i < array_len(operators); i++) {
		size_t n = strlen(operators[i]);

		if ((size_t)(p->end - p->at) >= n && memcmp(p->at, operators[i], n) == 0) {
			p->token.kind = TOKEN_OPERATOR;
			p->token.s = operators[i];
			p->token.n = n;
			p->at += n;
			return 0;
		}
	}
	return parser_malformed(p, "an operator");
}

/* Is the tag's end here? Consumes it, and notes what it wants trimmed. */
static bool read_tag_end(struct parser *p)
{
	const char *at = p->at;
	bool dash = at < p->end && (*at == '-' || *at == '+');

	if (p->end - at < 2 + dash || at[dash] != p->closing || at[dash + 1] != '}')
		return false;
	if (dash && *at == '-')
		p->trim = TRIM_ALL;
	else
		p->trim = p->closing == '%' && !dash ? TRIM_NEWLINE : TRIM_NONE;
	p->at += 2 + dash;
	p->token.kind = TOKEN_END_TAG;
	return true;
}

/* `}` also ends a dict, so the end of a print tag counts only outside of braces. */
int parser_advance_in(struct parser *p, bool in_braces)
{
	while (p->at < p->end && isspace((unsigned char)*p->at))
		p->at++;
	if (p->at == p->end)
		return parser_malformed(p, "the end of the tag");
	if (!in_braces && read_tag_end(p))
		return 0;
	if (*p->at == '\'' || *p->at == '"')
		return read_string(p);
	if (isdigit((unsigned char)*p->at))
		return read_number(p);
	if (!is_name_char(*p->at))
		return read_operator(p);
	p->token.kind = TOKEN_NAME;
	p->token.s = p->at;
	while (p->at < p->end && is_name_char(*p->at))
		p->at++;
	p->token.n = (size_t)(p->at - p->token.s);
	return 0;
}

static bool token_is(const struct parser *p, enum token_kind kind, const char *s)
{
	return p->token.kind == kind && p->token.n == strlen(s) &&
	       memcmp(p->token.s, s, p->token.n) == 0;
}

bool parser_at_operator(const struct parser *p, const char *s)
{
	return token_is(p, TOKEN_OPERATOR, s);
}

bool parser_at_name(const struct parser *p, const char *s)
{
	return token_is(p, TOKEN_NAME, s);
}

int parser_expect(struct parser *p, const char *s)
{
	return parser_at_operator(p, s) ? parser_advance(p) : parser_malformed(p, s);
}
