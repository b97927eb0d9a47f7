/*
 * Matrices of small integers in about as many bits as they tell: how codes of a delta stand in
 * files. rows x cols codes of 0 .. 2^bits - 1, one a byte in memory, row after row; `centre` is the
 * code of zero, and small differences from it are cheap. Strips of rows are coded independently
 * (store/strips.h) with the contexts of store/code_model.h.
 *
 * Deterministic: the same codes give the same bytes on every machine, and a matrix has one valid
 * string of bytes.
 */
#pragma once

#include "common/reason.h"
#include "store/strips.h"

struct code_shape {
	uint32_t rows, cols;
	uint32_t bits; /* 1 to 8 */
	uint8_t centre;
};

/* 1 to 8 bits, and the centre is a code. */
bool code_shape_valid(const struct code_shape *shape);

/* `codes` holds rows x cols bytes. *ret is malloc'ed, NULL if the matrix is empty. -EINVAL if the
 * shape or a code is out of range, -ENOMEM, -EFBIG. */
int code_stream_encode(const struct code_shape *shape, const uint8_t *codes, uint8_t **ret,
	uint64_t *ret_n) _must_check_;

struct code_stream {
	struct code_shape shape;
	struct strips strips;
};

/* Checks the shape's bits and centre and the lengths of the strips, not what is in them. `bytes`
 * must outlive *ret. -EBADMSG. */
int code_stream_open(const uint8_t *bytes, uint64_t n, const struct code_shape *shape,
	struct code_stream *ret, struct reason *reason) _must_check_;

/* Takes the cols codes of one row; they are gone after the call. */
typedef void code_row_fn(void *user, uint32_t row, const uint8_t *codes);

/* Decodes one strip, rows ascending. Every code handed out is in range; -EBADMSG, perhaps after
 * some rows, if the bytes were not made by code_stream_encode(). Strips may be decoded in any order
 * and by several threads at once. -ENOMEM: it needs about ten bytes a column. */
int code_stream_decode_strip(const struct code_stream *s, uint32_t strip, code_row_fn *take,
	void *user, struct reason *reason) _must_check_;
/* All strips, one after the other. */
int code_stream_decode(const struct code_stream *s, code_row_fn *take, void *user,
	struct reason *reason) _must_check_;
