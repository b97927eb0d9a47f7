/*
 * Parts of a delta file (store/part.h) from what methods make. `coded` parts go through an entropy
 * coder (store/code_stream.h, store/bf16_stream.h); whether that is smaller is the caller's to
 * know.
 */
#pragma once

#include "common/reason.h"
#include "compress/code_matrix.h"
#include "store/part.h"

/* Which tensor, and at which level. */
struct part_place {
	enum tensor_role role;
	uint32_t layer;
	uint32_t rows, cols; /* of the whole tensor, in the fine-tune */
	uint8_t level;
};

struct part {
	struct tensor_record record; /* without offset */
	struct tensor_quality quality;
	uint8_t *payload; /* owned; record.bytes of them */
};

static inline void part_done(struct part *p)
{
	free(p->payload);
	*p = (struct part){0};
}

/* Hands the part on; nothing stays behind. */
static inline struct part part_take(struct part *p)
{
	struct part taken = *p;

	*p = (struct part){0};
	return taken;
}

/* Bytes that a part takes in a file: its payload and its record. */
static inline uint64_t part_file_bytes(const struct part *p)
{
	return p->record.bytes + sizeof(p->record);
}

/* Codes for the rows that are listed, ascending; NULL: for all. */
int part_codes(const struct part_place *place, const struct code_matrix *m, const uint32_t *rows,
	bool coded, struct part *ret) _must_check_;

/* V^T is n x cols, U^T is n x rows, both on the same grid: GROUP, or MATRIX with a step of 1 and
 * the same bits and zero. Coded sigmas are rounded to fp16 in units of their largest. */
int part_factors(const struct part_place *place, const struct code_matrix *v,
	const struct code_matrix *u, const float *sigma, bool coded, struct part *ret) _must_check_;

/* Plain numbers of 16 bits (fp16, rounded) or 32. */
struct plain_factors {
	uint32_t n;
	const float *v;     /* n x cols */
	const float *u;     /* n x rows */
	const float *sigma; /* n */
};
int part_factors_plain(const struct part_place *place, const struct plain_factors *f, uint8_t bits,
	struct part *ret) _must_check_;

/* Survivors: codes are rows x survivors of a row, in the order of their columns. */
struct survivors {
	uint32_t group, n_keep;
	uint64_t seed;
	const struct code_matrix *codes; /* GRID_ROW or GRID_MATRIX */
};
int part_dropout(const struct part_place *place, const struct survivors *s, bool coded,
	struct part *ret) _must_check_;

/* Values (n x cols, bf16) that replace the listed rows, ascending; rows NULL: all, n is rows.
 * `base` (base_rows x cols) is what coded values are told from; NULL: plain. */
struct new_rows {
	uint32_t n;
	const uint32_t *rows;
	const uint16_t *values;
	const uint16_t *base;
	uint32_t base_rows;
};
int part_rows(const struct part_place *place, const struct new_rows *n, struct part *ret)
	_must_check_;

/* A norm or a bias: values[rows]. */
int part_vector(const struct part_place *place, const float *values, struct part *ret) _must_check_;
