/*
 * Token ids to text. What each token decodes to is worked out once; what is left for run time is
 * joining bytes to characters, and the beginning of a text.
 */
#pragma once

#include "engine/tokenizer.h"
#include "engine/tokenizer_tables.h"

/* How a token is written: its added token's text if it has one, else its vocabulary's. */
struct spelling {
	const char *text; /* borrowed, valid UTF-8 */
	uint32_t n;
	bool special;
};

struct decode_step {
	enum decode_kind kind;
	uint32_t option;
	const char *a, *b; /* borrowed */
	size_t n_a, n_b;
};

struct detokenizer {
	struct decode_step steps[TOKENIZER_MAX_STEPS];
	size_t n_steps;
	const struct spelling *spellings; /* borrowed, n_ids */
	uint32_t n_ids;
	uint32_t *ends; /* token i decodes to bytes[ends[i - 1], ends[i]); owned */
	char *bytes;    /* owned */
	uint8_t *raw;   /* bit i: token i is one byte of a character; owned */
	size_t max_bytes;
};

/* Steps have been filled in by the caller. -EBADMSG if they are in an order we do not know or
 * tokens grow out of bounds. */
int detokenizer_init(struct detokenizer *d, const struct spelling *spellings, uint32_t n_ids,
	struct reason *reason) _must_check_;
void detokenizer_done(struct detokenizer *d);

size_t detokenizer_push(const struct detokenizer *d, struct token_stream *s, uint32_t id,
	char *ret_text, size_t room);
size_t detokenizer_end(
	const struct detokenizer *d, struct token_stream *s, char *ret_text, size_t room);
