/*
 * Why something failed, in words for a person. Libraries fill it, programs print it.
 * A good reason names the file or field, what was found and what was expected.
 */
#pragma once

#include "common/base.h"

struct reason {
	char text[512];
};

/* Writes the text and returns `error`, so that a check reads `return reason_set(r, -EBADMSG, ...)`.
 * `r` may be NULL. Control characters from foreign bytes are replaced by '?'. */
int reason_set(struct reason *r, int error, const char *fmt, ...) _printf_(3, 4);

/* Puts "prefix: " before the text that is already there; used by callers that know the file's name.
 * Returns `error`. */
int reason_prefix(struct reason *r, int error, const char *fmt, ...) _printf_(3, 4);
