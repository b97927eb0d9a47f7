/*
 * Finds added and special tokens spelled in text: the longest one that begins at the leftmost
 * place.
 */
#pragma once

#include "engine/tokenizer_tables.h"

struct added_token {
	uint32_t id;
	uint32_t flags;   /* enum tokenizer_added_flag */
	const char *text; /* what is looked for; borrowed */
	size_t n;
};

/* The tokens that one pass looks for, sorted by text. */
struct added_tokens {
	struct added_token *items; /* owned */
	size_t n_items;
	bool begins[256]; /* is there a token with this first byte? */
};

/* Sorts tokens that the caller has put into items. */
void added_tokens_sort(struct added_tokens *set);
void added_tokens_done(struct added_tokens *set);

/* Text in which special tokens do not count: [start, end) of the bytes looked at. */
struct guard {
	size_t start, end;
};

/* Do [start, end) and one of the guards, which ascend and do not overlap, have a byte in common? */
bool guards_touch(const struct guard *guards, size_t n_guards, size_t start, size_t end);

struct added_match {
	const struct added_token *token;
	size_t start, end; /* with the white space that the token swallows, not before `from` */
};

/* The first match at or after `from` in valid UTF-8. False if there is none. */
bool added_tokens_find(const struct added_tokens *set, const char *text, size_t n, size_t from,
	const struct guard *guards, size_t n_guards, struct added_match *ret);
