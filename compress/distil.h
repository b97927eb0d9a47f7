/*
 * Trains whatever a candidate is made of so that it says what the fine-tune says: Adam on the mean
 * of KL(teacher || candidate) at the judged tokens of sequences.
 *
 * The trainer knows no codec. What is trained are groups of numbers of the caller (row scales,
 * singular values, norms, values behind a straight-through rounding); the caller turns them into
 * dense weights (materialise) and gradients of dense weights into theirs (pull back).
 */
#pragma once

#include "common/progress.h"
#include "compress/adam.h"
#include "compress/backward.h"

struct distil_group {
	float *values; /* the caller's, changed in place */
	size_t n;
	double rate; /* factor of the learning rate */
};

struct distil_target {
	struct distil_group *groups;
	size_t n_groups;
	/* Writes the weights that the groups stand for into `weights`. Tensors that nothing changes
	 * are set once by whoever made `weights`. */
	int (*materialise)(void *user, struct dense_model *weights, struct reason *reason);
	/* From the gradient of the loss by the weights, that by the groups: ret[i] has groups[i].n
	 * numbers, zero on entry. */
	int (*pull_back)(void *user, const struct dense_model *gradients, float *const *ret,
		struct reason *reason);
	/* The roles whose gradients pull_back() reads, bits 1 << role. */
	uint32_t roles;
	void *user;
};

struct distil_settings {
	struct pool *pool;
	struct dense_model *teacher;
	struct dense_model *weights; /* the candidate's, same config */
	const struct sequences *sequences;
	/* What results are judged by, best not among `sequences`, whose KL soon tells nothing;
	 * NULL: `sequences`. */
	const struct sequences *held_out;
	/* Judged so often, evenly spread, at the end too; 0: by the caller, the end is taken. */
	uint32_t n_checks;
	uint32_t n_steps;
	/* Whole sequences until so many tokens of a step are judged, or (0: never) so many read. */
	uint32_t batch_tokens, batch_read;
	double rate;       /* highest learning rate */
	uint32_t n_warmup; /* steps of linear rise; a cosine to final_share x rate follows */
	double final_share;
	double max_norm; /* of the gradient of all groups together; larger ones are shortened; 0:
			    off */
	struct adam_settings adam;
	uint64_t seed; /* of the order of the sequences */
	const struct progress *progress;
};

extern const struct distil_settings distil_defaults;

struct distil_report {
	/* Where it was judged: over the held-out sequences, nats a judged token. */
	double kl_before, kl_after;
	uint32_t best_step; /* after how many steps kl_after was measured; 0: none helped */
	double seconds;
	uint64_t n_tokens; /* read in training */
};

/* Learning rate of step 0 .. n_steps - 1. */
double distil_rate(const struct distil_settings *settings, uint32_t step);

/* The groups end where they were judged best, which may be where they began, or else at the end;
 * the weights are those of the groups. Holds the teacher's hidden numbers at all judged tokens. */
int distil_run(const struct distil_settings *settings, const struct distil_target *target,
	struct distil_report *ret, struct reason *reason) _must_check_;
