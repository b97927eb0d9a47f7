/*
 * How many singular triplets of a matrix are kept, and with how many bits: bands of 8, 3 and 2 bits
 * as in Delta-CoMe (arXiv 2406.08903, section 4.1 and its "8+3+2").
 *
 * The budget is the matrix's own: 16-bit bytes / ratio for its whole payload (codes, scales, zero
 * points, sigma, records, padding), so grouped-query k and v get fewer ranks than q, by their
 * shape. The 2-bit band takes what the other two leave; where all ranks fit at 2 bits, what is left
 * widens the 3-bit band and then the 8-bit band.
 *
 * The published widths (2 at 8 bits, 32 at 3 bits) were tuned where a matrix keeps a thousand
 * ranks. They are kept while the budget holds BANDS_FULL_RANKS ranks of 2 bits; with s the share of
 * that which it holds, less than 1, there are 2 s ranks of 8 bits and 32 s^2 of 3 bits.
 *
 * Measured on the math fine-tune of models/ (width 384), KL on 150 reference answers with the same
 * numbers of 8-bit and 3-bit ranks in every matrix: at 16x, where a 384 x 384 matrix holds 86
 * ranks, 0.0028, 0.0035 and 0.0032 for 2 + 32, 2 + 16 and 2 + 8 (standard error 0.001); at 29x,
 * where it holds 47, 0.043, 0.035, 0.031 and 0.023 for 2 + 32, 2 + 16, 1 + 8 and 1 + 4 (0.006).
 */
#pragma once

#include "common/base.h"
#include "store/format.h"

#define BANDS_KINDS 3u
#define BANDS_FULL_RANKS 86u

struct band {
	uint32_t bits;
	uint32_t n_ranks; /* never 0 */
};

struct band_plan {
	uint32_t n_bands; /* 0: the budget does not hold a single rank */
	struct band bands[BANDS_KINDS];
	uint32_t n_ranks;     /* of all bands */
	uint64_t bytes;       /* of payloads and records */
	uint64_t limit_bytes; /* the budget */
};

/* The largest plan that is not above the budget. ratio > 0. */
void bands_plan(uint32_t rows, uint32_t cols, double ratio, struct band_plan *ret);

/* Bytes of payloads and records with these ranks at 8, 3 and 2 bits. */
uint64_t bands_bytes(uint32_t rows, uint32_t cols, const uint32_t n_ranks[static BANDS_KINDS]);
