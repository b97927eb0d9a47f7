/*
 * The bf16 words of a matrix, bit for bit, given those of the base's matrix of the same shape: the
 * payload of the lossless codec. Every word is allowed, NaN payloads and the two zeros included.
 *
 * Words are taken as integers in the order of the numbers they stand for, so that a small change of
 * a weight is a small difference; it is coded as its length in bits, sign and lower bits, apart for
 * each magnitude of the base's word (a fine-tune moves all weights by about the same, which is many
 * steps of a small weight and none of a large one). Idea: FM-Delta (NeurIPS 2024) section 4. Words
 * that did not change cost next to nothing. Strips as in store/strips.h; one valid string of bytes.
 */
#pragma once

#include "common/reason.h"
#include "store/strips.h"

/* Fills in the cols words of a row. Called with ascending rows within a strip; where strips are
 * decoded by several threads, by all of them at once. */
struct bf16_rows {
	void (*get)(void *user, uint32_t row, uint16_t *ret_words);
	void *user;
};

/* Takes the cols words of one row; they are gone after the call. */
typedef void bf16_row_fn(void *user, uint32_t row, const uint16_t *words);

/* *ret is malloc'ed, NULL if the matrix is empty. -ENOMEM, -EFBIG. */
int bf16_stream_encode(uint32_t rows, uint32_t cols, const struct bf16_rows *base,
	const struct bf16_rows *tuned, uint8_t **ret, uint64_t *ret_n) _must_check_;

/* Checks the lengths of the strips, not what is in them; then strips are decoded one by one, in any
 * order and by several threads. `bytes` must outlive *ret. -EBADMSG. */
int bf16_stream_open(const uint8_t *bytes, uint64_t n, uint32_t rows, uint32_t cols,
	struct strips *ret, struct reason *reason) _must_check_;
/* -EBADMSG, perhaps after some rows, if bf16_stream_encode() did not make the bytes; -ENOMEM: it
 * needs about 100 KiB and five bytes a column. With the wrong base it succeeds with wrong words. */
int bf16_stream_decode_strip(const struct strips *s, uint32_t strip, const struct bf16_rows *base,
	bf16_row_fn *take, void *user, struct reason *reason) _must_check_;
/* All strips, one after the other. */
int bf16_stream_decode(const struct strips *s, const struct bf16_rows *base, bf16_row_fn *take,
	void *user, struct reason *reason) _must_check_;
