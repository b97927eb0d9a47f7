/*
 * A coded matrix: cut in strips of whole rows that are coded independently, so that they can be
 * decoded by several threads and a broken one is found early. The bytes are
 *
 *   u32 n_bytes[n_strips], little-endian; then the strips' bytes one after the other
 *
 * Every strip has the same number of rows, the last one what is left; a matrix without rows or
 * columns has no strips and no bytes.
 */
#pragma once

#include "common/reason.h"

#define STRIP_NUMBERS (UINT32_C(1) << 20) /* aimed at; a strip has at least one row */
#define STRIP_MAX_BYTES ((size_t)UINT32_MAX & ~(size_t)3)

struct strips {
	const uint8_t *bytes; /* the table and what follows it */
	uint32_t rows, cols;
	uint32_t n_rows; /* of each strip but the last */
	uint32_t n_strips;
};

struct strip {
	uint32_t first_row, n_rows;
	const uint8_t *bytes;
	size_t n_bytes;
};

/* The cut of a shape, without bytes. */
struct strips strips_of(uint32_t rows, uint32_t cols);
/* -EBADMSG unless the table's lengths add up to n. `bytes` must outlive *ret. */
int strips_open(const uint8_t *bytes, uint64_t n, uint32_t rows, uint32_t cols, struct strips *ret,
	struct reason *reason) _must_check_;
/* For the cut of strips_of() the bytes are NULL. */
struct strip strips_get(const struct strips *s, uint32_t index);

/* Collects coded strips in order. */
struct strips_writer {
	struct strips cut;
	uint8_t *bytes; /* owned */
	uint64_t n;
	uint32_t n_added;
};

int strips_writer_begin(struct strips_writer *w, uint32_t rows, uint32_t cols) _must_check_;
int strips_writer_add(struct strips_writer *w, const uint8_t *bytes, size_t n) _must_check_;
/* After all strips: hands the malloc'ed bytes over; NULL and 0 if there are none. */
void strips_writer_finish(struct strips_writer *w, uint8_t **ret, uint64_t *ret_n);
void strips_writer_done(struct strips_writer *w);
