/*
 * The walk over the blocks: whatever the method, this is the order in which projections are met.
 *
 * Calibration and held-out sequences travel through the model once. In each block, the groups of
 * projections that share their inputs (q, k, v; o; gate, up; down) are met in the order of the
 * computation; the method makes the parts of a group; base + decoded delta is installed before the
 * inputs of the next group are computed, and the block's outputs, made by the compressed block, are
 * the next block's inputs. Norms, biases and the embedding are the fine-tune's.
 *
 * After a block, the walk's state is the activations and the parts made so far. Both are in a file
 * (compress/work_file.h), in which a walk with the same key goes on, whenever it was ended. One
 * group of matrices is in memory at a time, with the second moments of its inputs.
 */
#pragma once

#include "common/digest.h"
#include "compress/delta_file.h"
#include "compress/method.h"

/* Progress is told under this name, in groups. */
#define WALK_STAGE "compressing"
#define WALK_GROUPS 4u /* of a block */

struct walk_settings {
	const struct method *method;
	const struct method_options *options;
	const struct pair *pair;
	const struct calibration *calibration;
	const uint16_t *embedding; /* vocab x hidden; follows what the method chooses of `outer` */
	struct outer *outer;       /* open, or NULL; see struct method_model */
	double room;
	struct pool *pool; /* BLAS runs on one thread in each of its workers */
	const struct progress *progress;
	int work_fd;       /* the file, borrowed: readable and writable */
	bool resume;       /* go on with what is there */
	struct digest key; /* of all that the parts depend on but calibration and embedding */
	/* NULL, or told the number of blocks that are safe. */
	uint32_t *blocks_done;
};

/* Sums are over the projections that were stored. */
struct walk_report {
	uint32_t n_stored;
	uint32_t n_unchanged;
	uint32_t n_left_out; /* changed, but the method leaves the base's weights */
	double sum_weight_error;
	double sum_calibration_error; /* NaN where the method needs no calibration */
	double sum_held_out_error;
	uint64_t original_bytes; /* of all projections that changed, at 16 bits */
	struct method_figure figures[METHOD_MAX_FIGURES];
	size_t n_figures;
	struct rate_point points[METHOD_MAX_POINTS];
	size_t n_points;
	struct method_tokens text;
	uint32_t n_resumed; /* blocks that an earlier walk had made */
	bool began_anew;    /* the file held something else, or was damaged */
};

/* Adds the records of all projections, norms and biases of the blocks. */
int walk_run(const struct walk_settings *settings, struct delta_file *f, struct walk_report *ret,
	struct reason *reason) _must_check_;
