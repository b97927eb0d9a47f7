/*
 * What a variant thinks of a given sequence (teacher forcing), one sequence at a time. Keys and
 * values are kept in f32, whatever a daemon would serve with, unless the caller says otherwise.
 *
 * To compare two models position by position, push the same chunks to two scorers in turn and look
 * at the logits of both; nothing needs to be stored.
 */
#pragma once

#include "engine/model.h"

/* Most ids of one push. */
#define SCORE_CHUNK 64u

struct scorer;

/* For sequences of up to max_positions (at most the model's). Borrows model and pool. */
int scorer_new(const struct model *model, struct pool *pool, uint32_t max_positions,
	struct scorer **ret, struct reason *reason) _must_check_;
struct scorer *scorer_free(struct scorer *s);

static inline void scorerp(struct scorer **s)
{
	scorer_free(*s);
}

/* Keys and values as a daemon of that engine.kv_type keeps them; before the first sequence. */
int scorer_set_kv(struct scorer *s, enum kv_type type, struct reason *reason) _must_check_;

/* Forgets what was pushed; what follows is a sequence of this variant, borrowed until the next. */
void scorer_begin(struct scorer *s, const struct variant *variant);

/* Appends 1 .. SCORE_CHUNK ids and computes. -EBADMSG, saying which, if an id is outside the
 * variant's vocabulary or the sequence becomes too long. */
int scorer_push(struct scorer *s, const uint32_t *ids, size_t n, struct reason *reason)
	_must_check_;
/* Logits after id i of the last push, as many as the variant's vocabulary; valid until the next. */
const float *scorer_logits(const struct scorer *s, size_t i);

/* Natural logarithm of the probability of `token`, summed in double. */
double logits_logprob(const float *logits, uint32_t vocab, uint32_t token);
/* The first of the largest. */
uint32_t logits_argmax(const float *logits, uint32_t vocab);

/* `position` counts from 0; `logits` are those after ids[position]. */
typedef void score_visit_fn(void *user, size_t position, const float *logits);

/* A whole sequence of a variant, chunk by chunk; calls `visit` for each position in order. */
int score_sequence(struct scorer *s, const struct variant *variant, const uint32_t *ids, size_t n,
	score_visit_fn *visit, void *user, struct reason *reason) _must_check_;

/* Continues what was pushed with the most probable token, max_tokens times; stops after an
 * end-of-text id (which is part of the result) unless ignore_eos. */
int score_greedy(struct scorer *s, size_t max_tokens, bool ignore_eos, uint32_t *ret_ids,
	size_t *ret_n, struct reason *reason) _must_check_;
