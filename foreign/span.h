/*
 * Pieces of UTF-8 text that belong to somebody else.
 */
#pragma once

#include "common/base.h"

#include <string.h>

struct span {
	const char *s;
	size_t n;
};

static inline struct span span_of(const char *s)
{
	return (struct span){.s = s, .n = strlen(s)};
}

static inline struct span span_between(const char *start, const char *end)
{
	return (struct span){.s = start, .n = (size_t)(end - start)};
}

static inline bool span_has_prefix(struct span s, struct span prefix)
{
	return s.n >= prefix.n && memcmp(s.s, prefix.s, prefix.n) == 0;
}

static inline bool span_has_suffix(struct span s, struct span suffix)
{
	return s.n >= suffix.n && memcmp(s.s + s.n - suffix.n, suffix.s, suffix.n) == 0;
}

/* Of a span that has it. */
static inline struct span span_without_prefix(struct span s, struct span prefix)
{
	return (struct span){.s = s.s + prefix.n, .n = s.n - prefix.n};
}

static inline struct span span_without_suffix(struct span s, struct span suffix)
{
	return (struct span){.s = s.s, .n = s.n - suffix.n};
}

/* What both begin with, in whole characters. */
static inline struct span span_common_prefix(struct span a, struct span b)
{
	size_t n = 0;

	while (n < a.n && n < b.n && a.s[n] == b.s[n])
		n++;
	while (n > 0 && n < a.n && ((uint8_t)a.s[n] & 0xc0) == 0x80)
		n--;
	return (struct span){.s = a.s, .n = n};
}

static inline struct span span_common_suffix(struct span a, struct span b)
{
	size_t n = 0;

	while (n < a.n && n < b.n && a.s[a.n - n - 1] == b.s[b.n - n - 1])
		n++;
	while (n > 0 && ((uint8_t)a.s[a.n - n] & 0xc0) == 0x80)
		n--;
	return (struct span){.s = a.s + a.n - n, .n = n};
}

/* NULL if it is not there. */
static inline const char *span_find(struct span s, const char *marker)
{
	return memmem(s.s, s.n, marker, strlen(marker));
}

/* Without the white space of ASCII around it. */
static inline struct span span_strip(struct span s)
{
	while (s.n && strchr(" \t\r\n", *s.s)) {
		s.s++;
		s.n--;
	}
	while (s.n && strchr(" \t\r\n", s.s[s.n - 1]))
		s.n--;
	return s;
}
