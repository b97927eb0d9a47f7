/*
 * What the calibration text and the held-out text look like inside the model, at the block that is
 * being compressed: the residual stream of every window and the inputs of the next projections.
 *
 * Both texts travel through the blocks as they are after compression, so that each block is judged
 * on the inputs that it will meet. They live in the file of work in progress; in memory is one
 * window for each thread, and one stretch of inputs while second moments are summed.
 */
#pragma once

#include "compress/block.h"
#include "compress/calibration.h"
#include "compress/work_file.h"
#include "engine/pool.h"

struct activations;

enum activation_text {
	ACTIVATION_CALIBRATION,
	ACTIVATION_HELD_OUT,
	N_ACTIVATION_TEXTS,
};

/* Each step ends where new weights may be put in place before the next. */
enum activation_step {
	STEP_TO_QKV,     /* inputs of q, k, v */
	STEP_TO_O,       /* needs q, k, v; inputs of o */
	STEP_TO_GATE_UP, /* needs o; inputs of gate, up */
	STEP_TO_DOWN,    /* needs gate, up; inputs of down */
	STEP_TO_NEXT,    /* needs down; the block's outputs */
};

struct activation_settings {
	const struct model_config *config;
	const struct calibration *calibration;
	bool held_out_only; /* the method does not look at calibration text */
	struct pool *pool;  /* borrowed, as is the rest */
};

/* What the file of work has to hold for it; the caller adds the rest. */
void activations_shape(const struct activation_settings *settings, struct work_shape *ret);

int activations_new(const struct activation_settings *settings, struct work_file *work,
	struct activations **ret, struct reason *reason) _must_check_;
struct activations *activations_free(struct activations *a);

/* Where the first block begins; `embedding` is vocab x hidden, bf16. */
int activations_begin(struct activations *a, const uint16_t *embedding) _must_check_;
/* Where block work_file_blocks() begins: what earlier blocks have left in the file is checked.
 * 1 if it is damaged. */
int activations_resume(struct activations *a) _must_check_;

/* The steps of layer work_file_blocks(), in order. Errors are those of the file. */
int activations_advance(struct activations *a, const struct block_weights *weights,
	enum activation_step step) _must_check_;
/* After STEP_TO_NEXT: of each window's residual stream. */
const struct digest *activations_digests(const struct activations *a);

/* Tokens of a text; 0 where it does not travel. */
size_t activations_tokens(const struct activations *a, enum activation_text text);

/* Second moments of the inputs that the last step has made; ret is width x width. The text has
 * tokens. -ENOMEM and errors of the file. */
int activations_moments(const struct activations *a, enum activation_text text, uint32_t width,
	double *ret) _must_check_;
/* The same of the inputs x of one model with the inputs y of another, of the same texts and at the
 * same step: 1/T sum_t x_t y_t^T. */
int activations_cross_moments(const struct activations *x, const struct activations *y,
	enum activation_text text, uint32_t width, double *ret) _must_check_;

static inline void activations_freep(struct activations **a)
{
	activations_free(*a);
}
