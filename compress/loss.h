/*
 * What a model's logits cost at the judged tokens of sequences, and the gradient of that.
 *
 *   LOSS_TOKENS    -log p(token)                        dz = p - onehot(token)
 *   LOSS_TEACHER   KL(teacher || model)                 dz = p - p_teacher
 *   LOSS_SAMPLED   -log p_T(y), y drawn from p_T        dz = (p_T - onehot(y)) / T
 *
 * with p = softmax(z) and p_T = softmax(z / T). At T = 1 the second moment of the gradient of
 * LOSS_SAMPLED is the Fisher information; a higher T stands for it where the model is so sure of
 * itself that next to no sample says anything. A draw depends on the seed, the number of the
 * sequence and the place of the token alone.
 *
 * Logits are made for LOSS_ROWS tokens at a time, never stored.
 */
#pragma once

#include "compress/dense_model.h"
#include "compress/sequences.h"
#include "engine/pool.h"

#define LOSS_ROWS 256u

enum loss_kind {
	LOSS_TOKENS,
	LOSS_TEACHER,
	LOSS_SAMPLED,
};

struct loss {
	enum loss_kind kind;
	/* Factor of every judged token in the gradient: 1 / judged tokens for the gradient of a
	 * mean. */
	double weight;
	/* LOSS_TEACHER: the teacher's hidden numbers after the final norm, as backward_states()
	 * makes them, and its head. The vocabulary is the model's. */
	const float *teacher_states, *teacher_head;
	double temperature; /* LOSS_SAMPLED */
	uint64_t seed;      /* LOSS_SAMPLED */
	double *each;       /* set to the losses of the judged tokens, in order; or NULL */
};

struct loss_sums {
	size_t n;   /* judged tokens */
	double sum; /* of their losses in nats, unweighted */
};
