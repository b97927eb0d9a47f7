/*
 * DeltaDQ (arXiv 2410.08666) as a method: what may be asked of it.
 *
 * Of every group of columns of a row some places, drawn at random, keep a code (compress/
 * dropout_codes.h); the file holds a seed in the place of positions. Several seeds are tried for
 * each tensor, and the one that leaves the least error on the calibration inputs is kept: it costs
 * no byte.
 *
 * With the factor of the least error of its own output every tensor comes out too short. What
 * dropping adds is different in each; what is missing is the same in all, a weaker fine-tune, and
 * adds up: n layers that lack b each lack n b, where n errors without relation are sqrt(n) of one.
 * So what is missing counts once for every layer, in factors, seeds and groups alike. The paper's
 * factor, alpha, lets nothing be missing whatever it costs.
 *
 * The paper then splits the codes by value into m parts of k - log2 m bits each and counts only
 * those bits. That changes no weight, and it moves bits to the positions instead of saving them, so
 * files hold one part; `parts` enters what is claimed, which is reported beside what is true.
 */
#pragma once

#include "common/reason.h"

#define DELTADQ_DEFAULT_SEEDS 4u

enum deltadq_search {
	DELTADQ_SEARCH_CLOSED_FORM = 0, /* each tensor's own group, by compress/dropout_score.h */
	DELTADQ_SEARCH_FIRST_LAYER,     /* the paper's: one for all, by compress/deltadq_search.h */
};

/* What survivors are multiplied with. */
enum deltadq_rescale {
	DELTADQ_RESCALE_MODEL = 0, /* what leaves least of the model's error: what is missing of a
				      tensor's output adds up over the layers */
	DELTADQ_RESCALE_TENSOR,    /* of the tensor's error */
	DELTADQ_RESCALE_ALPHA,     /* the paper's: nothing is missing */
};

struct deltadq_options {
	double claimed_ratio; /* alpha * 16 / (code_bits - log2 parts); 0: not said */
	uint32_t alpha;       /* one of so many stays; 0: not said */
	uint32_t code_bits;   /* with alpha */
	uint32_t parts;       /* a power of two below 2^code_bits; 0: 1 */
	uint32_t group;       /* columns; 0: searched */
	enum deltadq_search search;
	bool min_max; /* the paper's grid, from least to greatest, instead of the best one */
	enum deltadq_rescale rescale;
	uint32_t seeds; /* tried for a tensor; 0: DELTADQ_DEFAULT_SEEDS */
	uint64_t seed;  /* from which all are made */
};

/* Was anything asked that only this method knows? */
bool deltadq_options_said(const struct deltadq_options *o);

/* alpha, bits and parts of a claimed ratio: 4-bit codes; alpha is ratio / 4 up to 8, which is kept
 * while parts of 2 and 1 bits do the rest, and ratio / 16 from there on. -EINVAL if that gives no
 * whole alpha of 2 or more. */
int deltadq_claim(double ratio, struct deltadq_options *o, struct reason *reason) _must_check_;
