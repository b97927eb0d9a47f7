/*
 * UTF-8 as tokenizers need it: strict decoding and the two classes of characters that added tokens
 * look at.
 */
#pragma once

#include "common/base.h"

#include <utf8proc.h>

/* Length of the character at `s` (n > 0 bytes), or 0 if it is malformed. If what is there could
 * still become a character with more bytes, *ret_unfinished (may be NULL) is set. *ret_bad is the
 * number of bytes that one U+FFFD stands for: the longest beginning of a character, at least 1. */
static inline size_t utf8_scan(const uint8_t *s, size_t n, size_t *ret_bad, bool *ret_unfinished)
{
	uint8_t low = 0x80, high = 0xbf;
	size_t length, i;

	*ret_bad = 1;
	*ret_unfinished = false;
	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	length = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	if (s[0] == 0xe0)
		low = 0xa0; /* overlong */
	if (s[0] == 0xed)
		high = 0x9f; /* surrogates */
	if (s[0] == 0xf0)
		low = 0x90; /* overlong */
	if (s[0] == 0xf4)
		high = 0x8f; /* past U+10FFFF */
	for (i = 1; i < length && i < n; i++) {
		if (s[i] < low || s[i] > high)
			break;
		low = 0x80;
		high = 0xbf;
	}
	*ret_bad = i;
	*ret_unfinished = i == n && i < length;
	return i == length ? length : 0;
}

static inline bool utf8_valid(const char *text, size_t n)
{
	const uint8_t *s = (const uint8_t *)text;
	size_t bad, length;
	bool unfinished;

	for (size_t at = 0; at < n; at += length) {
		length = utf8_scan(s + at, n - at, &bad, &unfinished);
		if (!length)
			return false;
	}
	return true;
}

/* Does no character of the valid text of n bytes lie across `at` <= n? */
static inline bool utf8_is_border(const char *text, size_t n, size_t at)
{
	return at == n || ((uint8_t)text[at] & 0xc0) != 0x80;
}

/* Length of a character by its first byte; the text is known to be valid. */
static inline size_t utf8_length(char first)
{
	uint8_t byte = (uint8_t)first;

	return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

/* The character at `s`; the text is known to be valid. */
static inline uint32_t utf8_decode(const char *s)
{
	const uint8_t *u = (const uint8_t *)s;

	switch (utf8_length(*s)) {
	case 1:
		return u[0];
	case 2:
		return (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
	case 3:
		return (u[0] & 0xfu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
	default:
		return (u[0] & 7u) << 18 | (u[1] & 0x3fu) << 12 | (u[2] & 0x3fu) << 6 |
		       (u[3] & 0x3fu);
	}
}

/* Where the character that ends before `at` > 0 begins; the text is known to be valid. */
static inline size_t utf8_previous(const char *text, size_t at)
{
	do
		at--;
	while (at > 0 && ((uint8_t)text[at] & 0xc0) == 0x80);
	return at;
}

/* Unicode's White_Space. */
static inline bool utf8_is_space(uint32_t c)
{
	return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
	       (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
	       c == 0x205f || c == 0x3000;
}

/* What Python's str.strip() removes, which chat templates are written against. */
static inline bool utf8_is_python_space(uint32_t c)
{
	return utf8_is_space(c) || (c >= 0x1c && c <= 0x1f);
}

/* What regular expressions call a word character. */
static inline bool utf8_is_word(uint32_t c)
{
	switch (utf8proc_category((utf8proc_int32_t)c)) {
	case UTF8PROC_CATEGORY_LU:
	case UTF8PROC_CATEGORY_LL:
	case UTF8PROC_CATEGORY_LT:
	case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_LO:
	case UTF8PROC_CATEGORY_MN:
	case UTF8PROC_CATEGORY_MC:
	case UTF8PROC_CATEGORY_ME:
	case UTF8PROC_CATEGORY_ND:
	case UTF8PROC_CATEGORY_NL:
	case UTF8PROC_CATEGORY_PC:
		return true;
	default:
		return false;
	}
}
