/*
 * Statements and the text between tags. Text is cut where the tags around it ask for that: a dash
 * eats all white space on its side, a block alone on its line leaves no trace of the line.
 */
#include "foreign/jinja_parser.h"
#include "engine/utf8.h"

#include <ctype.h>
#include <string.h>

#define MAX_SOURCE_BYTES (1u << 20)

struct jinja *jinja_free(struct jinja *j)
{
	if (!j)
		return NULL;
	arena_done(&j->arena);
	free(j->source);
	free(j);
	return NULL;
}

static inline void jinja_freep(struct jinja **j)
{
	jinja_free(*j);
}

/* Moves past a comment "{# ... #}". */
static int skip_comment(struct parser *p)
{
	const char *close = memmem(p->at, (size_t)(p->end - p->at), "#}", 2);

	if (!close)
		return parser_malformed(p, "the end of a comment");
	p->trim = close > p->at + 2 && close[-1] == '-' ? TRIM_ALL : TRIM_NEWLINE;
	p->at = close + 2;
	return 0;
}

static bool is_blank(const char *s, const char *end)
{
	while (s < end && (*s == ' ' || *s == '\t'))
		s++;
	return s == end;
}

/* What the tag before and the tag after (NULL at the end of the source) leave of [s, end). */
static void trim_text(struct parser *p, const char **s, const char **end, const char *tag)
{
	const char *start = *s, *line;
	bool at_line_start = p->line_start;

	if (p->trim == TRIM_ALL) {
		while (start < *end && isspace((unsigned char)*start))
			start++;
	} else if (p->trim == TRIM_NEWLINE && start < *end && *start == '\n') {
		start++;
	}
	at_line_start = start > *s ? start[-1] == '\n' : at_line_start;
	*s = start;
	if (!tag || *end - start == 0)
		return;
	if (tag[2] == '-') {
		while (*end > start && isspace((unsigned char)(*end)[-1]))
			(*end)--;
		return;
	}
	if (tag[1] == '{' || tag[2] == '+')
		return;
	line = memrchr(start, '\n', (size_t)(*end - start));
	if ((line || at_line_start) && is_blank(line ? line + 1 : start, *end))
		*end = line ? line + 1 : start;
}

static const char *find_tag(const struct parser *p)
{
	for (const char *s = p->at; s + 2 < p->end; s++)
		if (*s == '{' && (s[1] == '{' || s[1] == '%' || s[1] == '#'))
			return s;
	return NULL;
}

/* Text up to the next tag; *ret stays NULL if nothing is left of it. */
static int parse_text(struct parser *p, const char *tag, struct jinja_node **ret)
{
	const char *start = p->at, *end = tag ? tag : p->end;
	int r;

	if (end > start)
		trim_text(p, &start, &end, tag);
	p->line_start = false;
	p->at = tag ? tag : p->end;
	if (start == end)
		return 0;
	r = parser_node(p, JINJA_TEXT, ret);
	return r < 0 ? r : parser_copy(p, *ret, start, (size_t)(end - start));
}

static int expect_tag_end(struct parser *p)
{
	return p->token.kind == TOKEN_END_TAG ? 0 : parser_malformed(p, "the end of the tag");
}

/* Moves past the tag's opening and reads its first token. */
static int open_tag(struct parser *p)
{
	p->closing = p->at[1] == '{' ? '}' : '%';
	p->at += 2;
	if (p->at < p->end && (*p->at == '-' || *p->at == '+'))
		p->at++;
	return parser_advance(p);
}

static int parse_print(struct parser *p, struct jinja_node **ret)
{
	int r = parser_node(p, JINJA_PRINT, ret);

	if (r == 0)
		r = parser_expression(p, &(*ret)->a);
	return r < 0 ? r : expect_tag_end(p);
}

/* Statements contain statements. Stops inside a tag that begins with one of the words of `until`
 * (separated by spaces), its name being the current token; at the end of the source if NULL. */
static int parse_body(struct parser *p, const char *until, struct jinja_node **ret);

/* A body and the tag that ends it. */
static int parse_block(struct parser *p, const char *until, struct jinja_node **ret)
{
	int r = expect_tag_end(p);

	if (r == 0)
		r = parse_body(p, until, ret);
	return r < 0 ? r : parser_advance(p);
}

static int parse_if(struct parser *p, struct jinja_node **ret)
{
	struct jinja_node **slot = ret;

	for (int n = 0;; n++) {
		bool is_elif;
		int r = n < JINJA_MAX_DEPTH ? parser_node(p, JINJA_IF, slot)
					    : parser_refused(p, "an if with this many branches");

		if (r == 0)
			r = parser_expression(p, &(*slot)->a);
		if (r == 0)
			r = expect_tag_end(p);
		if (r == 0)
			r = parse_body(p, "elif else endif", &(*slot)->b);
		if (r < 0)
			return r;
		if (parser_at_name(p, "endif"))
			return parser_advance(p);
		is_elif = parser_at_name(p, "elif");
		r = parser_advance(p);
		if (r < 0)
			return r;
		if (!is_elif)
			return parse_block(p, "endif", &(*slot)->c);
		slot = &(*slot)->c;
	}
}

static int parse_for(struct parser *p, struct jinja_node **ret)
{
	struct jinja_node **target;
	bool has_else;
	int r = parser_node(p, JINJA_FOR, ret);

	if (r < 0)
		return r;
	target = &(*ret)->d;
	do {
		r = parser_name(p, JINJA_NAME, target);
		if (r < 0)
			return r;
		target = &(*target)->next;
	} while (parser_at_operator(p, ",") && (r = parser_advance(p)) == 0);
	if (r == 0)
		r = parser_at_name(p, "in") ? parser_advance(p) : parser_malformed(p, "in");
	if (r == 0)
		r = parser_condition(p, &(*ret)->a);
	if (r == 0 && parser_at_name(p, "if")) {
		r = parser_advance(p);
		if (r == 0)
			r = parser_condition(p, &(*ret)->e);
	}
	if (r == 0)
		r = expect_tag_end(p);
	if (r == 0)
		r = parse_body(p, "else endfor", &(*ret)->b);
	if (r < 0)
		return r;
	has_else = parser_at_name(p, "else");
	r = parser_advance(p);
	return r < 0 || !has_else ? r : parse_block(p, "endfor", &(*ret)->c);
}

static int parse_set(struct parser *p, struct jinja_node **ret)
{
	struct jinja_node *object;
	int r = parser_node(p, JINJA_SET, ret);

	if (r == 0)
		r = parser_name(p, JINJA_NAME, &(*ret)->d);
	if (r == 0 && parser_at_operator(p, ".")) {
		object = (*ret)->d;
		r = parser_advance(p);
		if (r == 0)
			r = parser_name(p, JINJA_ATTRIBUTE, &(*ret)->d);
		if (r == 0)
			(*ret)->d->a = object;
	}
	if (r == 0 && p->token.kind == TOKEN_END_TAG) {
		(*ret)->kind = JINJA_SET_BLOCK;
		return parse_block(p, "endset", &(*ret)->b);
	}
	if (r == 0)
		r = parser_expect(p, "=");
	return r < 0 ? r : parser_expression(p, &(*ret)->a);
}

static int parse_macro(struct parser *p, struct jinja_node **ret)
{
	int r = parser_name(p, JINJA_MACRO, ret);

	if (r == 0)
		r = parser_expect(p, "(");
	if (r == 0)
		r = parser_arguments(p, ")", &(*ret)->d);
	if (r < 0)
		return r;
	for (const struct jinja_node *name = (*ret)->d; name; name = name->next)
		if (name->kind != JINJA_NAME && name->kind != JINJA_ARGUMENT)
			return parser_malformed(p, "names of parameters");
	return parse_block(p, "endmacro", &(*ret)->b);
}

static int parse_span(struct parser *p, struct jinja_node **ret)
{
	int r = parser_node(p, JINJA_SPAN, ret);

	return r < 0 ? r : parse_block(p, "endgeneration", &(*ret)->b);
}

static int parse_statement(struct parser *p, struct jinja_node **ret)
{
	static const struct {
		const char *word;
		int (*parse)(struct parser *p, struct jinja_node **ret);
	} statements[] = {
		{"if", parse_if},
		{"for", parse_for},
		{"set", parse_set},
		{"macro", parse_macro},
		{"generation", parse_span},
	};
	int r;

	for (size_t i = 0; i < array_len(statements); i++)
		if (parser_at_name(p, statements[i].word)) {
			r = parser_advance(p);
			if (r == 0)
				r = statements[i].parse(p, ret);
			return r < 0 ? r : expect_tag_end(p);
		}
	if (!parser_at_name(p, "break") && !parser_at_name(p, "continue"))
		return parser_refused(p, "this statement");
	r = parser_name(p, JINJA_REFUSED, ret);
	return r < 0 ? r : expect_tag_end(p);
}

static bool is_word_of(const struct parser *p, const char *words)
{
	while (words && *words) {
		size_t n = strcspn(words, " ");

		if (p->token.kind == TOKEN_NAME && p->token.n == n &&
			memcmp(p->token.s, words, n) == 0)
			return true;
		words += n + (words[n] == ' ');
	}
	return false;
}

static int parse_nodes(struct parser *p, const char *until, struct jinja_node **tail)
{
	for (;;) {
		const char *tag = find_tag(p);
		int r = parse_text(p, tag, tail);

		if (r < 0)
			return r;
		if (*tail)
			tail = &(*tail)->next;
		if (!tag)
			return until ? parser_malformed(p, until) : 0;
		if (tag[1] == '#') {
			r = skip_comment(p);
			if (r < 0)
				return r;
			continue;
		}
		r = open_tag(p);
		if (r == 0 && tag[1] == '%' && is_word_of(p, until))
			return 0;
		if (r == 0)
			r = tag[1] == '{' ? parse_print(p, tail) : parse_statement(p, tail);
		if (r < 0)
			return r;
		tail = &(*tail)->next;
	}
}

static int parse_body(struct parser *p, const char *until, struct jinja_node **ret)
{
	int r;

	*ret = NULL;
	if (p->depth == JINJA_MAX_DEPTH)
		return parser_refused(p, "nesting this deep");
	p->depth++;
	r = parse_nodes(p, until, ret);
	p->depth--;
	return r;
}

/* Newlines become one byte each, and the last one goes, as the reference does. */
static int copy_source(struct jinja *j, const char *source, size_t n)
{
	j->source = malloc(n + 1);
	if (!j->source)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (source[i] == '\r') {
			j->source[j->n_source++] = '\n';
			i += i + 1 < n && source[i + 1] == '\n';
		} else {
			j->source[j->n_source++] = source[i];
		}
	}
	if (j->n_source && j->source[j->n_source - 1] == '\n')
		j->n_source--;
	return 0;
}

int jinja_new(const char *source, size_t n, struct jinja **ret, struct reason *reason)
{
	_cleanup_(jinja_freep) struct jinja *j = calloc(1, sizeof(*j));
	struct parser p = {.j = j, .line_start = true, .reason = reason};
	int r;

	if (!j)
		return -ENOMEM;
	if (n > MAX_SOURCE_BYTES)
		return reason_set(reason, -EOPNOTSUPP, "chat template of %zu bytes, limit %u", n,
			MAX_SOURCE_BYTES);
	if (!utf8_valid(source, n))
		return reason_set(reason, -EBADMSG, "the chat template is not UTF-8");
	r = copy_source(j, source, n);
	if (r < 0)
		return r;
	p.at = j->source;
	p.end = j->source + j->n_source;
	r = parse_body(&p, NULL, &j->body);
	if (r == -ENOMEM && j->arena.full)
		r = reason_set(reason, -EOPNOTSUPP,
			"the chat template takes more than %u MB to parse", ARENA_MAX_BYTES >> 20);
	if (r < 0)
		return r;
	*ret = take_ptr(j);
	return 0;
}

size_t jinja_literals(const struct jinja *j, struct jinja_literal *ret, size_t room)
{
	size_t n = 0;

	for (const struct jinja_node *l = j->literals; l && n < room; l = l->next)
		ret[n++] = (struct jinja_literal){.text = l->s, .n = l->n};
	return n;
}
