/*
 * Patterns of a tokenizer.json in the words of PCRE2.
 */
#pragma once

#include "common/reason.h"
#include "engine/buffer.h"

/* The reference's regular expressions differ from PCRE2's in a few places. What can be said in both
 * is translated (white space is Unicode's White_Space), what would silently mean something else is
 * -EOPNOTSUPP. Appends to `out`. */
int pattern_translate(const char *pattern, size_t n, struct text *out, struct reason *reason)
	_must_check_;

/* A pattern that matches this text and nothing else. */
int pattern_quote(const char *literal, size_t n, struct text *out) _must_check_;
