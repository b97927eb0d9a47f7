/*
 * Text to token ids and back, from the compiled tables of an image (engine/tokenizer_tables.h);
 * knows no JSON. Immutable after creation: one tokenizer may be used by any thread.
 */
#pragma once

#include "common/reason.h"
#include "store/image.h"

struct tokenizer;

/* Checks the tables (they may be hostile) and builds the lookup structures. `tables` is the
 * TOKENIZER section of a base, borrowed for the tokenizer's life; `extra`, which may be NULL, that
 * of a delta, which adds or replaces added tokens. */
int tokenizer_new(const uint8_t *tables, uint64_t n_tables, const uint8_t *extra, uint64_t n_extra,
	struct tokenizer **ret, struct reason *reason) _must_check_;
/* From the sections of images; delta may be NULL. */
int tokenizer_of(const struct image *base, const struct image *delta, struct tokenizer **ret,
	struct reason *reason) _must_check_;
struct tokenizer *tokenizer_free(struct tokenizer *t);

uint32_t tokenizer_size(const struct tokenizer *t); /* ids are below this */

/*
 * `text` is UTF-8 of n bytes (invalid bytes are -EBADMSG). `add_specials`: wrap in the tokens that
 * the post-processor adds (begin of text). `parse_specials`: special tokens spelled in the text
 * become their ids; if false, they are encoded as plain text, which is what keeps a user's text
 * from forging a chat turn. *ret_ids is malloc'ed.
 */
struct tokenizer_options {
	bool add_specials;
	bool parse_specials;
};
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n,
	struct tokenizer_options options, uint32_t **ret_ids, size_t *ret_n, struct reason *reason)
	_must_check_;

/*
 * The same for text of which some parts must not be parsed for special tokens: the messages of a
 * conversation. Tokenization runs across the borders of those parts, as it would on the whole text.
 */
struct guard; /* engine/added_tokens.h: a range of bytes */
struct tokenizer_input {
	const char *text;
	size_t n;
	const struct guard *guards; /* ascending, not overlapping */
	size_t n_guards;
	bool add_specials;
};
int tokenizer_encode_guarded(const struct tokenizer *t, const struct tokenizer_input *input,
	uint32_t **ret_ids, size_t *ret_n, struct reason *reason) _must_check_;

/* The ids that `add_specials` puts before a text; borrowed. */
const uint32_t *tokenizer_prefix(const struct tokenizer *t, size_t *ret_n);

/* Whole-sequence decoding; ids out of range are -EBADMSG. *ret_text is malloc'ed, n bytes plus a
 * terminating zero; invalid byte sequences become U+FFFD. -E2BIG past what encoding takes. */
int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t n, bool skip_specials,
	char **ret_text, size_t *ret_n, struct reason *reason) _must_check_;

/* The id of a token by its exact spelling; -1 if there is none. */
int64_t tokenizer_find(const struct tokenizer *t, const char *token, size_t n);
bool tokenizer_is_special(const struct tokenizer *t, uint32_t id);

/*
 * Decoding a stream (zero-initialised; tokenizer_decode is the same code): token by token, text
 * comes out as soon as no later token can change it (unfinished UTF-8 waits). Appends to the
 * caller's buffer of `room` bytes and returns the number of bytes written; room must be at least
 * tokenizer_max_token_bytes() + 16.
 */
struct token_stream {
	uint8_t pending[16];
	uint8_t n_pending;
	uint8_t n_stripped; /* leading characters that the decoder dropped */
	bool started;       /* a token has come */
	bool has_text;      /* text has come out */
};
size_t token_stream_push(const struct tokenizer *t, struct token_stream *s, uint32_t id,
	char *ret_text, size_t room);
/* What is left at the end: unfinished bytes become U+FFFD. */
size_t token_stream_end(
	const struct tokenizer *t, struct token_stream *s, char *ret_text, size_t room);
size_t tokenizer_max_token_bytes(const struct tokenizer *t);
