/*
 * One transformer block over whole calibration sequences, dense and in f32: the same mathematics as
 * engine/forward.c, in pieces, so that the weights of a step may be replaced after its inputs were
 * seen.
 *
 *   h = rms_norm(x, attn_norm)                 inputs of q, k, v     block_attention_input
 *   a = attention(W_q h, W_k h, W_v h)         inputs of o           block_attention
 *   x = x + W_o a                                                    block_attention_output
 *   f = rms_norm(x, ffn_norm)                  inputs of gate, up    block_ffn_input
 *   g = silu(W_gate f) * (W_up f)              inputs of down        block_ffn
 *   x = x + W_down g                                                 block_ffn_output
 *
 * A call handles one sequence of n <= max_tokens tokens that starts at position 0. Different
 * sequences may be computed at once, each with scratch of its own; BLAS must run on one thread.
 */
#pragma once

#include "common/reason.h"
#include "store/format.h"

/* Matrices are row-major, outputs by inputs. Vectors that the model lacks are NULL. */
struct block_weights {
	const float *q, *k, *v, *o, *gate, *up, *down;
	const float *attn_norm, *ffn_norm;
	const float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
	const float *q_norm, *k_norm;
};

struct block_shape;   /* config and rotation tables */
struct block_scratch; /* room for one sequence */

int block_shape_new(const struct model_config *config, uint32_t max_tokens,
	struct block_shape **ret, struct reason *reason) _must_check_;
struct block_shape *block_shape_free(struct block_shape *b);
int block_scratch_new(const struct block_shape *b, struct block_scratch **ret) _must_check_;
struct block_scratch *block_scratch_free(struct block_scratch *s);

/* What the heads of a position are turned by, head_dim / 2 of each. */
struct block_angles {
	const float *cosines, *sines;
};
struct block_angles block_angles(const struct block_shape *b, uint32_t position);

/* What one sequence passes through a step: rows stand x_stride and tap_stride numbers apart. */
struct block_rows {
	uint32_t n; /* tokens */
	uint32_t layer;
	float *x; /* hidden numbers a row: the residual stream */
	size_t x_stride;
	float *tap; /* inputs of the next matrices; block_tap_width() numbers a row */
	size_t tap_stride;
};

/* The widest of the inputs: hidden, heads * head_dim, ffn. */
size_t block_tap_width(const struct model_config *config);

void block_attention_input(const struct block_shape *b, const struct block_weights *w,
	const struct block_rows *rows); /* tap = h */
void block_attention(const struct block_shape *b, const struct block_weights *w,
	struct block_scratch *s, const struct block_rows *rows); /* tap: h -> a */
void block_attention_output(const struct block_shape *b, const struct block_weights *w,
	const struct block_rows *rows); /* x += W_o tap */
void block_ffn_input(const struct block_shape *b, const struct block_weights *w,
	const struct block_rows *rows); /* tap = f */
void block_ffn(const struct block_shape *b, const struct block_weights *w, struct block_scratch *s,
	const struct block_rows *rows); /* tap: f -> g */
void block_ffn_output(const struct block_shape *b, const struct block_weights *w,
	const struct block_rows *rows); /* x += W_down tap */

static inline void block_shape_freep(struct block_shape **b)
{
	block_shape_free(*b);
}

static inline void block_scratch_freep(struct block_scratch **s)
{
	block_scratch_free(*s);
}
