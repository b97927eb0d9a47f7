/*
 * One projection of a fine-tune and the ways of coding its change: codes of all its numbers
 * (compress/ldlq.h), components (compress/whitened.h), or nothing. At a lambda the one is taken
 * for which loss + lambda * bytes is lowest; its codes stay until the next call.
 *
 * Trying everything at every lambda would mostly confirm what the lambdas nearby have shown, so a
 * winner is believed where lambda is within a factor of 2 of one at which it won.
 */
#pragma once

#include "compress/allocate.h"
#include "compress/metric.h"
#include "compress/parts.h"
#include "compress/whitened.h"

#define TRIAL_MAX_EXPLORED 24u
/*
 * Losses of direct codes count so many times, and are traded for bytes accordingly: rounding with
 * feedback fits to the very factors that it is judged by, components less. (At a bit, KL on text
 * that was kept back over loss is 2.3 for codes and 1.2 for components of the tools fine-tune, 2.3
 * and 1.9 of the chat one; the less of both ratios, since training improves codes more.)
 */
#define TRIAL_OPTIMISM 1.2

enum trial_codec {
	TRIAL_NOTHING,
	TRIAL_CODES,
	TRIAL_FACTORS,
};

/* What the fine-tune's Fisher information says of the errors of one projection. */
struct trial_metrics {
	const struct metric *g, *h;
};

struct trial_settings {
	struct part_place place;
	const float *delta; /* rows x cols; borrowed, as are the metrics */
	struct trial_metrics codes, factors;
};

struct trial_winner {
	enum trial_codec codec;
	double step; /* in units of what lambda suggests */
};

struct trial_coding {
	struct trial_winner winner;
	int8_t *codes; /* TRIAL_CODES: rows x cols */
	float *wanted; /* likewise: what was rounded, in steps */
	double step;   /* of them, absolute */
	struct whitened *factors;
	struct rate_loss point;
};

struct trial {
	struct trial_settings settings;
	struct whitened_basis *basis; /* made when first needed */
	double nothing;               /* the loss of coding nothing; negative: not known yet */
	uint32_t allowed;             /* bits 1 << enum trial_codec */
	bool settled; /* winners are believed at any lambda; the caller's to change */
	struct {
		uint32_t allowed;
		double lambda;
		struct trial_winner winner;
	} explored[TRIAL_MAX_EXPLORED];
	uint32_t n_explored;
	struct trial_coding at, aside; /* what stands coded, and what did */
};

int trial_new(const struct trial_settings *settings, struct trial **ret) _must_check_;
struct trial *trial_free(struct trial *t);

static inline void trial_freep(struct trial **t)
{
	trial_free(*t);
}

/* Another choice of codecs; nothing stands coded. What is aside stays. */
void trial_allow(struct trial *t, uint32_t allowed);

/* What stands coded goes aside, and what was there stands. */
void trial_swap(struct trial *t);

/* For struct allocate_tensor. */
int trial_encode(void *self, double lambda, struct rate_loss *ret, struct reason *reason);

/* The numbers that stand coded, rows x cols. */
int trial_values(const struct trial *t, float *ret) _must_check_;
/* Codes of numbers within `threshold` steps of zero become zero. */
void trial_round(struct trial *t, float threshold);
/* Bytes, and bytes and loss, of what stands coded, after somebody else changed it. */
int trial_count(struct trial *t) _must_check_;
int trial_weigh(struct trial *t) _must_check_;
/* How much less the loss is by what stands coded than by nothing. */
int trial_benefit(struct trial *t, double *ret) _must_check_;
/* Their part; no payload where nothing stands. */
int trial_part(const struct trial *t, struct part *ret) _must_check_;
