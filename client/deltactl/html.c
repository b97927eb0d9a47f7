#include "client/deltactl/html.h"

#include "common/base.h"

#include <stdarg.h>
#include <string.h>

/* Bytes of the UTF-8 character at text; 0 if there is none. Overlong forms, surrogates and what
 * lies past U+10FFFF are none; nor are U+FFFE and U+FFFF, which XML forbids. */
static size_t character_bytes(const unsigned char *text)
{
	uint32_t code, least;
	size_t n;

	if (text[0] < 0x80)
		return 1;
	if (text[0] >= 0xc2 && text[0] < 0xe0)
		n = 2, least = 0x80, code = text[0] & 0x1f;
	else if (text[0] >= 0xe0 && text[0] < 0xf0)
		n = 3, least = 0x800, code = text[0] & 0x0f;
	else if (text[0] >= 0xf0 && text[0] < 0xf5)
		n = 4, least = 0x10000, code = text[0] & 0x07;
	else
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (text[i] & 0x3f);
	}
	if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ||
		code == 0xfffe || code == 0xffff)
		return 0;
	return n;
}

static const char *entity_of(unsigned char c)
{
	switch (c) {
	case '<':
		return "&lt;";
	case '>':
		return "&gt;";
	case '&':
		return "&amp;";
	case '"':
		return "&quot;";
	case '\'':
		return "&#39;";
	default:
		return c < 0x20 || c == 0x7f ? "?" : NULL;
	}
}

void html_text(FILE *to, const char *text)
{
	const unsigned char *at = (const unsigned char *)text;

	while (*at) {
		size_t n = character_bytes(at);
		const char *entity = n ? entity_of(*at) : "?";
		bool c1 = n == 2 && at[0] == 0xc2 && at[1] < 0xa0;

		if (c1)
			entity = "?";
		if (entity)
			fputs(entity, to);
		else
			fwrite(at, 1, n, to);
		at += n ? n : 1;
	}
}

void html_element(FILE *to, const char *tag, const char *class, const char *text)
{
	fprintf(to, "<%s", tag);
	if (class)
		fprintf(to, " class=\"%s\"", class);
	fputc('>', to);
	html_text(to, text);
	fprintf(to, "</%s>\n", tag);
}

void html_elementf(FILE *to, const char *tag, const char *class, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	html_element(to, tag, class, text);
}
