/*
 * A SentencePiece-like tokenizer so small that its results can be worked out by hand:
 * <unk> <s> </s>, the bytes, then U+2581, a, b, ab, U+2581 ab.
 *
 * `changes` is JSON whose keys replace those of tokenizer.json, or of its model where they begin
 * with "model.". Any trouble fails the running test.
 */
#pragma once

#include "engine/tokenizer.h"

/* The id of <0xHH>. */
#define SMALL_BYTE(byte) (3 + (byte))

/* A compiled section. */
struct tokenizer_bytes {
	uint8_t *bytes; /* malloc'ed */
	size_t n;
};

/* A folder with the small tokenizer; its path is malloc'ed, scratch_remove() removes it. */
char *small_tokenizer_folder(const char *changes);
struct tokenizer_bytes tokenizer_bytes_of(const char *folder);
/* Borrows both; `extra`, which may be NULL, is a delta's. */
struct tokenizer *tokenizer_open(
	const struct tokenizer_bytes *t, const struct tokenizer_bytes *extra);
/* All of these at once; the caller frees the tokenizer, then ret_tables->bytes. */
struct tokenizer *small_tokenizer(const char *changes, struct tokenizer_bytes *ret_tables);
