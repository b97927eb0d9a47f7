/*
 * The template spells out the rules of engine/chat_format.h, only those that the format needs. It
 * is written for the way in which templates are run, with trim_blocks and lstrip_blocks; as every
 * tag drops the white space before it, it does not depend on them.
 */
#include "foreign/chat_print.h"

#include "foreign/chat_fit.h"

#include <string.h>

struct printer {
	const struct chat_format *format;
	uint32_t flags;
	bool folds;
	struct text *out;
	int error; /* the first one */
};

static void print_n(struct printer *p, const char *s, size_t n)
{
	if (p->error == 0)
		p->error = text_append(p->out, s, n);
}

static void print(struct printer *p, const char *s)
{
	print_n(p, s, strlen(s));
}

static void print_if(struct printer *p, bool condition, const char *s)
{
	if (condition)
		print(p, s);
}

static bool has(const struct printer *p, uint32_t flag)
{
	return p->flags & flag;
}

/* A piece as a string literal. */
static void print_piece(struct printer *p, enum chat_piece piece)
{
	static const char special[] = "\\'\n\t\r", letters[] = "\\'ntr";
	size_t n;
	const char *s = chat_format_piece(p->format, piece, &n);

	print(p, "'");
	for (size_t i = 0; i < n; i++) {
		const char *found = s[i] ? strchr(special, s[i]) : NULL;

		print_if(p, found, "\\");
		print_n(p, found ? &letters[found - special] : &s[i], 1);
	}
	print(p, "'");
}

static void print_output(struct printer *p, const char *indent, enum chat_piece piece)
{
	size_t n;

	chat_format_piece(p->format, piece, &n);
	if (n == 0)
		return;
	print(p, indent);
	print(p, "{{- ");
	print_piece(p, piece);
	print(p, " }}\n");
}

/* What stands there otherwise, if anything does. */
static void print_else(struct printer *p, enum chat_piece piece)
{
	size_t n;

	chat_format_piece(p->format, piece, &n);
	print_if(p, n > 0, "{%- else %}\n");
	print_output(p, "    ", piece);
}

static void print_trim(struct printer *p, uint32_t left, uint32_t right)
{
	if (has(p, left) && has(p, right))
		print(p, ".strip()");
	else
		print(p, has(p, left) ? ".lstrip()" : has(p, right) ? ".rstrip()" : "");
}

/* prefix + `text` + suffix, where the suffix of a role follows its prefix in the enumeration. */
static void print_sum(struct printer *p, enum chat_piece prefix, const char *text)
{
	print_piece(p, prefix);
	print(p, " + ");
	print(p, text);
	print(p, " + ");
	print_piece(p, prefix + 1);
}

/* Sets `system`, a text or none, and `turns`, the messages after it. */
static void print_system(struct printer *p)
{
	print(p, "{%- set system = none %}\n{%- set turns = messages %}\n"
		 "{%- if messages[0]['role'] == 'system' %}\n");
	if (has(p, CHAT_SYSTEM_REFUSED)) {
		print(p, "    {{- raise_exception('There are no system messages') }}\n");
	} else {
		print(p, "    {%- set system = messages[0]['content']");
		print_trim(p, CHAT_SYSTEM_LTRIM, CHAT_SYSTEM_RTRIM);
		print(p, " %}\n    {%- set turns = messages[1:] %}\n");
		print_if(p, has(p, CHAT_EMPTY_SYSTEM_DROPPED),
			"    {%- if system == '' %}\n        {%- set system = none %}\n"
			"    {%- endif %}\n");
	}
	print(p, "{%- endif %}\n");
}

/* Sets fold.at, the number of the turn that takes the system text in. */
static void print_fold(struct printer *p)
{
	print(p, "{%- set fold = namespace(at=none) %}\n{%- for message in turns %}\n"
		 "    {%- if message['role'] == 'user'");
	print_if(p, !has(p, CHAT_FOLD_LAST), " and fold.at is none");
	print(p, " %}\n        {%- set fold.at = loop.index0 %}\n    {%- endif %}\n{%- endfor %}\n"
		 "{%- if system is not none and fold.at is none %}\n"
		 "    {{- raise_exception('A system message needs a user message') }}\n"
		 "{%- endif %}\n");
}

static void print_opening(struct printer *p)
{
	if (has(p, CHAT_END_WITH_USER))
		print(p, "{%- if messages[-1]['role'] != 'user' %}\n"
			 "    {{- raise_exception('The last message must be the user\\'s') }}\n"
			 "{%- endif %}\n");
	print_system(p);
	if (p->folds)
		print_fold(p);
	print_output(p, "", CHAT_BEGIN);
	if (p->folds)
		return;
	print(p, "{%- if system is not none %}\n    {{- ");
	print_sum(p, CHAT_SYSTEM_PREFIX, "system");
	print(p, " }}\n");
	print_else(p, CHAT_NO_SYSTEM);
	print(p, "{%- endif %}\n");
}

static void print_order(struct printer *p, const char *parity)
{
	if (!has(p, CHAT_ALTERNATE))
		return;
	print(p, "        {%- if loop.index0 % 2 != ");
	print(p, parity);
	print(p, " %}\n            {{- raise_exception('User and assistant must take turns') }}\n"
		 "        {%- endif %}\n");
}

static void print_user(struct printer *p)
{
	bool as_one = has(p, CHAT_FOLDED_AS_ONE);

	print(p, "    {%- if message['role'] == 'user' %}\n");
	print_order(p, "0");
	print(p, "        {%- set text = message['content']");
	print_trim(p, CHAT_USER_LTRIM, CHAT_USER_RTRIM);
	print(p, " %}\n");
	if (p->folds) {
		print(p, "        {%- if loop.index0 == fold.at and system is not none %}\n"
			 "            {%- set text = (");
		print_sum(p, CHAT_SYSTEM_PREFIX, "system");
		print(p, as_one ? " + message['content'])" : " + text)");
		print_if(p, as_one && has(p, CHAT_USER_RTRIM), ".rstrip()");
		print(p, " %}\n        {%- elif loop.index0 == fold.at %}\n"
			 "            {%- set text = ");
		print_piece(p, CHAT_NO_SYSTEM);
		print(p, " + text %}\n        {%- endif %}\n");
	}
	print(p, "        {{- ");
	print_sum(p, CHAT_USER_PREFIX, "text");
	print(p, " }}\n");
}

static void print_assistant(struct printer *p)
{
	print(p, "    {%- elif message['role'] == 'assistant' %}\n");
	print_order(p, "1");
	print(p, "        {%- set text = message['content'] %}\n");
	if (has(p, CHAT_DROP_THINKING))
		print(p, "        {%- if '</think>' in text %}\n"
			 "            {%- set text = text.split('</think>')[-1].lstrip('\\n') %}\n"
			 "        {%- endif %}\n");
	if (has(p, CHAT_ASSISTANT_LTRIM | CHAT_ASSISTANT_RTRIM)) {
		print(p, "        {%- set text = text");
		print_trim(p, CHAT_ASSISTANT_LTRIM, CHAT_ASSISTANT_RTRIM);
		print(p, " %}\n");
	}
	print(p, "        {{- ");
	print_sum(p, CHAT_ASSISTANT_PREFIX, "text");
	print(p, " }}\n");
}

static void print_late_system(struct printer *p)
{
	if (!has(p, CHAT_LATE_SYSTEM))
		return;
	print(p, "    {%- elif message['role'] == 'system' %}\n"
		 "        {%- set text = message['content']");
	print_trim(p, CHAT_SYSTEM_LTRIM, CHAT_SYSTEM_RTRIM);
	print(p, " %}\n        {{- ");
	print_sum(p, CHAT_SYSTEM_PREFIX, "text");
	print(p, " }}\n");
}

static void print_template(struct printer *p)
{
	print(p, "{%- if messages %}\n");
	print_opening(p);
	print(p, "{%- for message in turns %}\n");
	print_user(p);
	print_assistant(p);
	print_late_system(p);
	print(p, "    {%- else %}\n"
		 "        {{- raise_exception('A message of this role cannot be here') }}\n"
		 "    {%- endif %}\n{%- endfor %}\n");
	if (has(p, CHAT_EMPTY_ALLOWED))
		print_else(p, CHAT_EMPTY);
	else
		print(p, "{%- else %}\n    {{- raise_exception('There are no messages') }}\n");
	print(p, "{%- endif %}\n{%- if add_generation_prompt %}\n");
	print_output(p, "    ", CHAT_GENERATION);
	print(p, "{%- endif %}");
}

static bool same_stop(const struct chat_format *a, const struct chat_format *b)
{
	const char *x = chat_format_stop(a), *y = chat_format_stop(b);

	return x && y ? strcmp(x, y) == 0 : x == y;
}

/* Does it compile, to what ends an answer as the format does? */
static int check_compiled(
	const struct chat_template *t, const struct chat_format *format, struct reason *reason)
{
	_cleanup_(text_done) struct text section = {0};
	struct chat_format *again;
	bool same;
	int r = chat_fit(t, &section, reason);

	if (r == 0)
		r = chat_format_new((const uint8_t *)section.items, section.n, &again, reason);
	if (r != 0)
		return r;
	same = same_stop(format, again);
	chat_format_free(again);
	return same ? 0 : reason_set(reason, -EOPNOTSUPP, "its end of an answer is lost");
}

/* Is it a template that we would import, and does it do what the format does? */
static int check_template(
	const struct text *source, const struct chat_format *format, struct reason *reason)
{
	struct chat_template t = {0};
	uint32_t flags = chat_format_flags(format);
	int r = jinja_new(source->items, source->n, &t.jinja, reason);

	if (r == 0)
		r = check_compiled(&t, format, reason);
	if (r == 0)
		r = chat_check(&t, format, &flags, reason);
	if (r == 0 && flags != chat_format_flags(format))
		r = reason_set(reason, -EOPNOTSUPP, "it refuses other conversations");
	jinja_free(t.jinja);
	if (r == 0 || r == -ENOMEM)
		return r;
	return reason_prefix(
		reason, -EOPNOTSUPP, "the chat format %s as a template", chat_format_name(format));
}

int chat_print(const uint8_t *section, uint64_t n, struct text *out, struct reason *reason)
{
	_cleanup_(text_done) struct text source = {0};
	struct printer p = {.out = &source};
	struct chat_format *format;
	int r = chat_format_new(section, n, &format, reason);

	if (r < 0)
		return r;
	p.format = format;
	p.flags = chat_format_flags(format);
	p.folds = p.flags & (CHAT_FOLD_FIRST | CHAT_FOLD_LAST);
	print_template(&p);
	r = p.error < 0 ? p.error : check_template(&source, format, reason);
	chat_format_free(format);
	return r < 0 ? r : text_append(out, source.items, source.n);
}
