/*
 * Codes that learn: what allocation chose is trained on KL(fine-tune || compressed), so that what
 * can be stored makes up for what cannot, across matrices and layers.
 *
 * Trained by Adam are the latent numbers behind the codes, with a straight-through rounding
 * (forward and in the file a number counts as its nearest integer, backward as itself), logarithms
 * of sigmas and steps, and the norms of the blocks, which cost no bytes. The size hardly moves.
 *
 * Rates were found on the fine-tunes of ../shared: components want larger ones the coarser they
 * are; direct codes bear small ones only (zeros begin to walk) and none above TUNE_MOST_BITS, where
 * scales and norms alone gain a tenth or two. Training text is soon known by heart, so that what
 * counts is text that was kept back: unless it shows there by more than a standard error
 * (compress/exam.h), everything is as it was. At 16x on a fine-tune for word problems, training
 * that the text could not judge raised KL from .0006 to .0010 on tasks that nobody had seen.
 */
#pragma once

#include "compress/distil.h"
#include "compress/exam.h"
#include "compress/trial.h"

#define TUNE_MOST_BITS 1.6 /* finer codes do not bear it */

struct tune_settings {
	struct trial *const *trials; /* what stands coded; updated */
	size_t n_trials;
	const struct dense_model *base; /* whose projections the codes are added to */
	/* Projections are overwritten with base + codes; norms of the blocks are trained. */
	struct dense_model *weights;
	struct dense_model *teacher;
	const struct sequences *sequences;
	struct exam *exam; /* what decides whether it was worth it */
	struct pool *pool;
	const struct progress *progress;
	uint32_t n_steps;
	double bits; /* of a projection weight, about: what the rates depend on */
	bool freeze; /* the codes */
	uint64_t seed;
};

struct tune_report {
	double kl_before, kl_after; /* on the text that was kept back */
	bool reverted;              /* no better for certain: nothing has changed */
	double seconds;
};

/* The weights are base + what stands coded. Trials stand with the trained codes then; trial_weigh()
 * them. */
int tune_run(const struct tune_settings *settings, struct tune_report *ret, struct reason *reason)
	_must_check_;

/* base + what stands coded, for all trials. */
int tune_install(const struct tune_settings *settings) _must_check_;
