/*
 * compress/compare.h for models that do not fit into memory: base, fine-tune and result on held-out
 * text, one block of one of them at a time, with nothing kept but the residual stream of the text
 * in each. Every tensor is read once, the base's twice. Logits are made for a strip of the
 * vocabulary at a time, sums over it go on from strip to strip.
 *
 * The arithmetic is dense f32, where the engine that serves rounds as its kernels do: figures agree
 * to their first digits, not to the last.
 */
#pragma once

#include "common/progress.h"
#include "compress/calibration.h"
#include "compress/compare.h"
#include "compress/three_models.h"

struct block_compare {
	struct three_models models;
	const struct calibration *calibration; /* whose held-out text is read */
	const struct progress *progress;
};

/* Sums over all held-out tokens but the last of each window. What the base thinks of the text is
 * NaN where that has tokens that the base lacks. -ENOMEM; errors of reading. */
int block_compare_run(const struct block_compare *c, struct comparison *ret, struct reason *reason)
	_must_check_;
