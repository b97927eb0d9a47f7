/*
 * Delta-CoMe (arXiv 2406.08903): the loop over blocks.
 *
 * Calibration sequences travel through the model once. In each block, the groups of projections
 * that share their inputs (q, k, v; o; gate, up; down) are met in the order of the computation; a
 * group's inputs give one matrix of second moments, with which V and then U of each member are
 * quantised; the result is installed before the inputs of the next group are computed, and the
 * block's outputs, made by the compressed block, are the next block's inputs. Norms, biases and
 * the embedding are the fine-tune's.
 *
 * One deviation from the paper: grids of U are taken along its singular vectors (128 outputs of one
 * rank) instead of along the ranks of one output. Both factors then have the same packed form, and
 * a matrix of few ranks does not pay a grid per output for them: at 1024 x 384 and 1 bit a weight
 * the paper's grids would cost 3 bytes for each output and band (0.19 bit a weight), these 0.05.
 */
#pragma once

#include "common/progress.h"
#include "compress/calibration.h"
#include "compress/delta_file.h"
#include "compress/pair.h"
#include "engine/pool.h"

struct delta_come_settings {
	const struct pair *pair;
	const struct calibration *calibration;
	const uint16_t *embedding; /* the fine-tune's, vocab x hidden */
	double ratio;
	struct pool *pool; /* BLAS runs on one thread in each of its workers */
	const struct progress *progress;
};

/* Of the projections that were stored. */
struct delta_come_report {
	uint32_t n_stored;
	uint32_t n_unchanged;
	uint32_t n_too_small; /* changed, but the ratio leaves no room for a single rank */
	double sum_weight_error, sum_activation_error;
	uint64_t original_bytes; /* of all projections that changed, at 16 bits */
};

/* Adds the records of all projections, norms and biases of the blocks. */
int delta_come_run(const struct delta_come_settings *settings, struct delta_file *f,
	struct delta_come_report *ret, struct reason *reason) _must_check_;
