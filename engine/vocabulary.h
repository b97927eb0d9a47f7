/*
 * The tokens of a model by id and by spelling.
 */
#pragma once

#include "common/reason.h"

struct vocabulary {
	uint32_t n_tokens;
	const char *text; /* borrowed from the tables */
	uint32_t *ends;   /* n_tokens; owned */
	uint32_t *slots;  /* open addressing by hash of the spelling, id + 1, 0 is empty; owned */
	uint32_t slot_mask;
	uint64_t seed;
};

/* `ends_le` is the table's array, unaligned; `text`, valid UTF-8 of n_text bytes, is
 * borrowed. Checks that ends ascend inside the text and between characters, and that no spelling
 * has two ids. */
int vocabulary_init(struct vocabulary *v, const uint8_t *ends_le, uint32_t n_tokens,
	const char *text, uint32_t n_text, struct reason *reason) _must_check_;
void vocabulary_done(struct vocabulary *v);

/* Borrows a spelling; id < n_tokens. */
static inline const char *vocabulary_token(const struct vocabulary *v, uint32_t id, size_t *ret_n)
{
	uint32_t start = id ? v->ends[id - 1] : 0;

	*ret_n = v->ends[id] - start;
	return v->text + start;
}

/* TOKENIZER_NONE if there is no such token. */
uint32_t vocabulary_find(const struct vocabulary *v, const char *token, size_t n);
