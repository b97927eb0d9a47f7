/*
 * The gradient of a model: forward over whole sequences, a loss at the judged tokens, and back
 * through every block. Everything that compress/block.h computes is supported.
 *
 * Of the forward pass everything that the way back needs is kept if that is not more than
 * BACKWARD_TAPES bytes, as for a step of training; else only the inputs of each block (read tokens
 * x hidden, once per layer), and a block is computed again. Blocks are computed BACKWARD_CHUNK
 * tokens or one sequence at a time, whichever is more. Work is split into fixed pieces and sums
 * have a fixed order: same input, same bytes, whatever the number of threads. BLAS must run on one
 * thread.
 */
#pragma once

#include "compress/loss.h"

#define BACKWARD_CHUNK 4096u
#define BACKWARD_TAPES (UINT64_C(2) << 30)

struct backward;

/* Which sequences, in this order. */
struct batch {
	const struct sequences *sequences;
	const size_t *picks; /* numbers of sequences; NULL: 0, 1, ... n - 1 */
	size_t n;
};

size_t batch_read(const struct batch *b);   /* tokens that are read: n - 1 of each sequence */
size_t batch_judged(const struct batch *b); /* tokens that are judged */

/* Buffers, which grow with the batches. `longest` is the tokens of the longest sequence. */
int backward_new(const struct model_config *config, struct pool *pool, uint32_t longest,
	struct backward **ret, struct reason *reason) _must_check_;
/* The same with blocks computed `chunk` tokens or one sequence at a time. */
int backward_new_chunked(const struct model_config *config, struct pool *pool, uint32_t longest,
	uint32_t chunk, struct backward **ret, struct reason *reason) _must_check_;
struct backward *backward_free(struct backward *b);

static inline void backwardp(struct backward **b)
{
	backward_free(*b);
}

/* Hidden numbers after the final norm, one row a judged token: what the head is applied to. `ret`
 * has room for batch_judged() x hidden. */
int backward_states(struct backward *b, struct dense_model *model, const struct batch *batch,
	float *ret, struct reason *reason) _must_check_;

/* Loss alone. */
int backward_loss(struct backward *b, struct dense_model *model, const struct batch *batch,
	const struct loss *loss, struct loss_sums *ret, struct reason *reason) _must_check_;

/*
 * Loss and gradient. Adds d(weight x sum of losses) / d(tensor) to every tensor of `gradients` that
 * is not NULL; a tied head adds to that of the embedding. Its config is the model's.
 */
int backward_gradient(struct backward *b, struct dense_model *model, const struct batch *batch,
	const struct loss *loss, struct dense_model *gradients, struct loss_sums *ret,
	struct reason *reason) _must_check_;

/* What went through the projections of one block for some tokens: rows of x are the inputs, rows of
 * g the gradient at the outputs; both are tight. q, k and v have the same x, so have gate and up.
 */
struct backward_taps {
	uint32_t layer;
	size_t n;         /* tokens; all of them in several calls */
	bool first, last; /* call of this layer */
	struct {
		const float *x, *g;
		uint32_t rows, cols; /* of the matrix */
	} of[DENSE_N_PROJECTIONS];
};

/* The same without sums: layers from the last to the first, tokens in order. A negative result
 * of `visit` ends the pass and is returned. */
typedef int backward_visit_fn(void *user, const struct backward_taps *taps, struct reason *reason);
int backward_visit(struct backward *b, struct dense_model *model, const struct batch *batch,
	const struct loss *loss, backward_visit_fn *visit, void *user, struct loss_sums *ret,
	struct reason *reason) _must_check_;

/*
 * The same in steps, for models whose inputs of blocks are not kept in memory:
 *
 *   backward_begin()     the rows of the batch; x becomes the inputs of block 0
 *   backward_block()     x, the inputs of a block, becomes its outputs
 *   backward_start()     x being the outputs of the last block, dx becomes their gradient
 *   backward_back()      x being the inputs of a block and dx the gradient at its outputs, dx
 *                        becomes the gradient at its inputs; x stays
 *
 * x and dx are backward_numbers() of the caller's to save and to put back between steps.
 */
int backward_begin(struct backward *b, const struct dense_model *model, const struct batch *batch,
	struct reason *reason) _must_check_;
size_t backward_numbers(const struct backward *b);
float *backward_x(struct backward *b);
float *backward_dx(struct backward *b);
int backward_block(struct backward *b, struct dense_model *model, uint32_t layer,
	struct reason *reason) _must_check_;
int backward_start(struct backward *b, const struct dense_model *model, const struct loss *loss,
	struct loss_sums *ret) _must_check_;
int backward_back(struct backward *b, struct dense_model *model, uint32_t layer,
	backward_visit_fn *visit, void *user, struct reason *reason) _must_check_;
