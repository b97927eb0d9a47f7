/*
 * Cuts normalised text into the words that BPE merges within.
 */
#pragma once

#include "common/reason.h"
#include "engine/buffer.h"
#include "engine/tokenizer_tables.h"

/* Words lie one after the other in `text`; word i ends at ends[i]. */
struct words {
	struct text text;
	size_t *ends;
	size_t n_words, capacity;
};

void words_done(struct words *w);

struct pretokenize_step {
	enum pretokenize_kind kind;
	uint32_t option;
	void *pattern; /* compiled; owned; SPLIT only */
	const char *a; /* borrowed; METASPACE only */
	size_t n_a;
};

struct pretokenizer {
	struct pretokenize_step steps[TOKENIZER_MAX_STEPS];
	size_t n_steps;
	uint16_t byte_characters[256];
};

/* Compiles a pattern of n bytes for a SPLIT step. -EBADMSG with the position and the library's
 * words. */
int split_pattern_new(const char *pattern, size_t n, void **ret, struct reason *reason)
	_must_check_;
void split_pattern_free(void *pattern);
void pretokenizer_done(struct pretokenizer *p);

/* `text` is valid UTF-8; `at_start`: nothing of the whole input came before it. *ret is the
 * caller's to free by words_done(). -EOPNOTSUPP if a pattern needs more backtracking than its
 * limit on this text. */
int pretokenizer_apply(const struct pretokenizer *p, const char *text, size_t n, bool at_start,
	struct words *ret, struct reason *reason) _must_check_;
