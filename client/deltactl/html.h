/*
 * Words of a page of HTML. What is written is also well-formed XML.
 */
#pragma once

#include <stdio.h>

/* Text for between tags or inside a quoted attribute: markup is escaped; control characters and
 * bytes that are not UTF-8 become '?'. */
void html_text(FILE *to, const char *text);
/* <tag class="CLASS">TEXT</tag>; `class` may be NULL. */
void html_element(FILE *to, const char *tag, const char *class, const char *text);
/* The same with formatted text, 255 bytes at most. */
void html_elementf(FILE *to, const char *tag, const char *class, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
