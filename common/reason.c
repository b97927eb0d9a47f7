#include "common/reason.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void replace_controls(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
}

int reason_set(struct reason *r, int error, const char *fmt, ...)
{
	va_list args;

	if (!r)
		return error;
	va_start(args, fmt);
	vsnprintf(r->text, sizeof(r->text), fmt, args);
	va_end(args);
	replace_controls(r->text);
	return error;
}

int reason_prefix(struct reason *r, int error, const char *fmt, ...)
{
	char prefix[256];
	struct reason old;
	va_list args;

	if (!r)
		return error;
	va_start(args, fmt);
	vsnprintf(prefix, sizeof(prefix), fmt, args);
	va_end(args);
	old = *r;
	return reason_set(r, error, "%s: %s", prefix, old.text);
}
