/*
 * What the stages of method "auto" (compress/auto.c) hand to each other, in the order of the calls:
 *
 *   auto_sense        reads the models, one trial for each projection that changed
 *   auto_set_budget   bytes for all of them;
 *   auto_sense_outer  what embedding and head are worth, where they are ours to choose
 *   auto_code         a codec and a lambda; every trial stands coded
 *   auto_draw_curve   KL at other sizes
 *   auto_train        of what stands coded
 */
#pragma once

#include "compress/auto_text.h"
#include "compress/outer.h"
#include "compress/tune.h"

/* See compress/auto_keep.h. */
struct kept {
	double share, error; /* its standard error; NaN for perplexity */
	size_t n;            /* tasks, */
	bool of_tasks;       /* or positions */
};

struct auto_keep;
struct auto_levels;
struct fisher_block;

struct auto_run {
	const struct method_model *model;
	struct auto_text text;
	struct exam *exam;            /* on what was kept back */
	struct fisher_block *general; /* of each layer, on general text, while it is sensed; NULL */
	struct dense_model *base, *tuned, *weights;
	struct metric **metrics; /* all of them, owned */
	size_t n_metrics;
	struct trial **trials; /* of the projections that changed */
	struct allocate_tensor *tensors;
	float **deltas;
	size_t n_trials;
	double n_weights;       /* numbers in them */
	double budget;          /* bytes; 0: by quality */
	double reserve;         /* bytes beside it, for levels */
	bool shared;            /* budget and lambda, with embedding and head */
	struct rate_loss outer; /* of embedding and head, where they are ours to choose */
	double general_loss[MEASURED_MAX_POINTS]; /* of it at some sizes, on general text */
	struct auto_keep *keep;                   /* NULL: not asked for */
	struct kept kept;
	struct allocation allocation;
	double kl; /* of what stands coded, on what was kept back */
	struct rate_point points[METHOD_MAX_POINTS]; /* the last is what stands */
	size_t n_points;
	struct tune_report tuned_report;
	bool is_tuned;
	struct auto_levels *levels; /* of what stands in the end */
};

struct auto_run *auto_run_free(struct auto_run *a);

static inline void auto_runp(struct auto_run **a)
{
	auto_run_free(*a);
}

int auto_sense(struct auto_run *a, struct reason *reason) _must_check_;
int auto_sense_outer(struct auto_run *a, struct reason *reason) _must_check_;
/* What a nat that was guessed of the projections at lambda is worth beside one of embedding and
 * head, which count so from now on. The projections stand coded at lambda afterwards. */
int auto_price_outer(struct auto_run *a, const struct allocate_settings *settings, double lambda,
	struct outer_worth *ret, struct reason *reason) _must_check_;
int auto_set_budget(struct auto_run *a, struct reason *reason) _must_check_;
int auto_code(struct auto_run *a, struct reason *reason) _must_check_;
int auto_draw_curve(struct auto_run *a, struct reason *reason) _must_check_;
/* Steps of training unless the user says how many; `bits` of a projection weight. */
uint32_t auto_train_steps(enum auto_text_kind kind, double bits);
int auto_train(struct auto_run *a, struct reason *reason) _must_check_;

/* Of what stands coded: bytes of the projections, and how it is trained or measured. */
double auto_projection_bytes(const struct auto_run *a);
struct tune_settings auto_tune_settings(const struct auto_run *a);
/* Its KL on the text that was kept back; `user` is an auto_run, for allocate_quality(). */
int auto_measure(void *user, double *ret, struct reason *reason) _must_check_;
/* Embedding and head of the weights as a reader will have them. */
int auto_take_outer(struct auto_run *a) _must_check_;
