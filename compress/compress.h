/*
 * Two checkpoints in, one delta file out.
 *
 * Method "delta-come": Delta-CoMe (arXiv 2406.08903). Every projection's delta is decomposed by SVD;
 * singular vectors are quantised with 8, 3 and 2 bits in three bands by GPTQ, V with the Hessian of
 * the layer's inputs, then U with that of Sigma V^T x; blocks are calibrated in order, each on the
 * outputs of the compressed blocks before it.
 */
#pragma once

#include "common/progress.h"
#include "foreign/checkpoint.h"

struct compress_settings {
	const char *method; /* "delta-come" */
	double ratio;	    /* 16-bit bytes of the projections over the bytes of their payloads,
			       everything counted: codes, scales, zero points, sigma, padding */
	const char *calibration_text; /* UTF-8, documents separated by blank lines */
	size_t n_calibration_text;
	uint32_t calibration_tokens; /* most tokens of it to use */
	uint32_t window;	     /* tokens of one calibration sequence */
	uint32_t n_threads;	     /* 0: what the process may use */
};

struct compress_report {
	struct digest root;
	uint64_t file_bytes;
	uint64_t original_bytes; /* of the fine-tune's tensors at 16 bits */
	uint64_t projection_bytes, projection_original_bytes;
	uint64_t embedding_bytes, other_bytes;
	double mean_weight_error, mean_activation_error;
	double kl, agreement; /* on held-out calibration text; see struct certificate */
	double seconds;
};

/* Writes the delta into an empty open file. Same input, same bytes. */
int compress_delta(struct checkpoint *base, struct checkpoint *tuned,
	const struct compress_settings *settings, int fd, const struct progress *progress,
	struct compress_report *ret, struct reason *reason) _must_check_;
