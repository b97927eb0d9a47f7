/*
 * Some whole sequences on their way through one block, and the gradient on its way back: the
 * mathematics of compress/block.h with everything kept that the derivatives need. Work that knows
 * no neighbours is done in tiles of rows across sequences; attention for each sequence and head of
 * keys.
 */
#pragma once

#include "compress/block.h"
#include "engine/pool.h"

/* A sequence in the rows of a pass: row first + p is position p. */
struct block_span {
	size_t first;
	uint32_t n;
};

struct block_pass {
	const struct block_shape *shape;
	struct model_config config;
	struct pool *pool;

	/* Set for each run. */
	struct block_weights weights;
	uint32_t layer;
	const struct block_span *spans; /* without gaps, from row 0 */
	size_t n_spans, n;              /* n: rows */
	const float *x;                 /* n x hidden: inputs */
	float *y;                       /* n x hidden: outputs, may be x; NULL: not wanted */
	const float *dy;                /* n x hidden: gradient at the outputs */
	bool want_norms;

	size_t room; /* rows */

	/* Made by block_pass_forward(), on its own tape or the caller's. Rows are tight. */
	float *tape;
	uint32_t *positions;
	float *h, *q, *k, *v; /* inputs of q, k, v; heads, placed */
	float *q_raw, *k_raw; /* before norm and rotation; NULL where the model has no such norm */
	float *a, *x2, *f;    /* inputs of o; the residual stream after it; inputs of gate, up */
	float *gate, *up, *sig; /* sig = sigmoid(gate) */
	float *g;               /* inputs of down */

	/* Made by block_pass_backward(): gradients at what the names say. Those at gate and up
	 * stand in place of the values, that at the output of down is dy, that at o is dx2. */
	float *dq, *dk, *dv, *da, *dx2, *dx;
	/* Gradients of attn_norm, ffn_norm, q_norm, k_norm: one after the other, where wanted. */
	double *dnorms;

	float *work;        /* rows x hidden */
	float *dg;          /* rows x ffn */
	double *norm_parts; /* dnorms of each tile */
	float *scores;      /* of each worker */
	size_t n_scores;    /* numbers of one */
};

/* For up to `room` rows and sequences of up to `longest` tokens. Borrows shape and pool. */
int block_pass_init(struct block_pass *p, const struct model_config *config,
	const struct block_shape *shape, struct pool *pool, size_t room, uint32_t longest)
	_must_check_;
void block_pass_done(struct block_pass *p);

/*
 * What block_pass_forward() makes of up to n rows goes to `tape` from now on, n times
 * block_pass_tape() numbers of the caller's, so that several passes may be on their way back; NULL:
 * to its own, for all its room.
 */
size_t block_pass_tape(const struct block_pass *p);
void block_pass_use_tape(struct block_pass *p, float *tape, size_t n);

void block_pass_forward(struct block_pass *p);
/* After block_pass_forward() with the same x, on the same tape, whose last use it is. */
void block_pass_backward(struct block_pass *p);
