/*
 * Group-wise dropout (DeltaDQ, arXiv 2410.08666, section "Group-wise Dropout"): every row of a
 * matrix is cut into groups of `group` columns, of which `n_keep`, drawn at random, keep a code.
 * What is dropped does not depend on the numbers, so a file holds a seed instead of positions, and
 * who reads it draws them again.
 *
 * The generator is part of the file format and frozen: deltad-format(5) describes it, test_dropout
 * has its vectors. A group's places depend on seed, row and group alone, so that rows may be
 * expanded in any order and by any number of threads.
 */
#pragma once

#include "common/reason.h"

#define DROPOUT_MAX_BITS 8u
#define DROPOUT_ENTRY_BITS 16u   /* most bits of index and code */
#define DROPOUT_MAX_GROUP 32768u /* follows from the line above */

struct dropout_shape {
	uint32_t rows, cols;
	uint32_t group;  /* divides cols */
	uint32_t n_keep; /* 1 .. group */
	uint32_t bits;   /* of a code */
};

struct dropout_layout {
	uint32_t n_groups;       /* of a row */
	uint32_t entries_of_row; /* n_groups * n_keep */
	uint32_t index_bits;     /* that tell the columns of a group apart */
	uint32_t entry_bytes;    /* in memory: 1 or 2; an entry is code << index_bits | index */
	uint64_t n_codes;        /* rows * entries_of_row */
	uint64_t code_bytes;     /* of the codes packed without gaps, lowest bit first */
	uint64_t expanded_bytes; /* of all entries in memory */
};

/* The only check of a shape, which may come from a file. -EBADMSG names the field. */
int dropout_layout(const struct dropout_shape *s, struct dropout_layout *ret, struct reason *reason)
	_must_check_;

/* The places of a group: n_keep columns of [0, group), ascending.
 * 1 <= n_keep <= group <= DROPOUT_MAX_GROUP. */
void dropout_draw(uint64_t seed, uint32_t row, uint32_t group, uint32_t group_size, uint32_t n_keep,
	uint16_t *ret_columns);

/*
 * Seed and codes as entries of struct dropmat (kernels/types.h): rows [row0, row1), each group by
 * group, ascending inside a group. `entries` begins with row 0 and holds entry_bytes an entry,
 * 2-byte entries aligned. The shape has been checked by dropout_layout().
 *
 *   dropout_expand_rows    from codes packed as code_bytes tells, beginning with row 0
 *   dropout_expand_bytes   from one byte a code, beginning with row 0; higher bits are dropped
 */
void dropout_expand_rows(const struct dropout_shape *s, uint64_t seed, const uint8_t *packed,
	uint32_t row0, uint32_t row1, void *entries);
void dropout_expand_bytes(const struct dropout_shape *s, uint64_t seed, const uint8_t *codes,
	uint32_t row0, uint32_t row1, void *entries);

/* One byte a code to code_bytes packed bytes; the last byte is filled with zeros. */
void dropout_pack(const uint8_t *codes, uint64_t n_codes, uint32_t bits, uint8_t *ret);

/* A tensor's own seed: what is written to its record. Attempts differ by their number. */
uint64_t dropout_seed(uint64_t seed, uint32_t role, uint32_t layer, uint32_t attempt);
