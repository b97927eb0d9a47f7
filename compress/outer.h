/*
 * What a delta carries outside the blocks: embedding, head and final norm. An adapter's factors of
 * the head stay what they are.
 *
 * How embedding and head are stored is settled when they are read, or left open for a method that
 * puts them and the projections under one lambda (compress/allocate.h).
 */
#pragma once

#include "compress/allocate.h"
#include "compress/calibration.h"
#include "compress/delta_file.h"
#include "compress/embedding.h"
#include "compress/measured_curve.h"

struct outer_settings {
	const struct pair *pair;
	const struct calibration *calibration; /* whose ids tell how often tokens are used */
	struct embedding_choice choice;        /* for embedding and head */
	double bits;     /* EMBEDDING_AUTO: bits a weight, all rows taken together */
	bool open;       /* EMBEDDING_AUTO: the method chooses; exact until it has */
	bool whole_head; /* if it is exact and changed: all its rows, not only those that changed */
	struct pool *pool;
};

struct outer;

/* Reads embedding and head. -EDOM if a change is not finite. The settings' pointers are borrowed.
 */
int outer_new(const struct outer_settings *settings, struct outer **ret, struct reason *reason)
	_must_check_;
struct outer *outer_free(struct outer *o);

static inline void outerp(struct outer **o)
{
	outer_free(*o);
}

/* The embedding that a reader will have, vocab x hidden, bf16: what the blocks behind it are
 * calibrated on. Follows the choice. */
const uint16_t *outer_embedding(const struct outer *o);
/* As floats, vocab x hidden each; `head` is not looked at where the two are tied. */
int outer_install(const struct outer *o, float *embedding, float *head) _must_check_;

/* What follows is for an open one. */

/* Text that tells how often tokens are used: each as often as it does, and half a time more. */
struct outer_use {
	const uint32_t *ids;
	size_t n;
	double share; /* of all text, or of what a use is worth in all text */
};

/* Losses are first guesses then, see outer_learn(). */
int outer_weigh(struct outer *o, const struct outer_use *uses, size_t n) _must_check_;
/* Of the present choice, as guessed. */
double outer_loss(const struct outer *o);
/* At most `bits` a weight. Fills in all but the measured loss; ret may be NULL. */
int outer_choose_size(struct outer *o, double bits, struct measured_point *ret) _must_check_;
/* Real losses: what was measured, and how much of it a nat is that lambda counts. */
struct outer_worth {
	struct measured_curve curve;
	double price;
};

/* From now on. Before, losses are guesses, and lambda is against them. */
void outer_learn(struct outer *o, const struct outer_worth *worth);
/* `self` is an outer; as the encode() of struct allocate_tensor. Bytes are those of the parts with
 * records and qualities. */
int outer_encode(void *self, double lambda, struct rate_loss *ret, struct reason *reason)
	_must_check_;

/* Adds all parts, as they are chosen; an adapter once. */
int outer_add(struct outer *o, struct delta_file *f, struct reason *reason) _must_check_;
