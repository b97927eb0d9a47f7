/*
 * A delta file as checked views: what it adds to or replaces in the base it is bound to.
 */
#pragma once

#include "kernels/types.h"
#include "store/base.h"
#include "store/image.h"

struct mixed_svd {
	uint32_t n_bands;
	struct mixed_svd_view {
		struct qmat v; /* n_ranks x in */
		struct qmat u; /* n_ranks x out (U transposed) */
		const float *sigma;
	} bands[FORMAT_MAX_BANDS];
	uint32_t total_ranks;
};

/* Rows that replace those of the base's matrix. */
struct dense_rows {
	uint32_t n_rows;        /* 0: none */
	const uint32_t *rows;   /* ascending */
	struct mat_bf16 values; /* n_rows x cols */
};

/* What a delta does to one linear projection: nothing (CODEC 0), or one codec's view. */
struct linear_delta {
	uint32_t codec; /* enum tensor_codec, or 0 where the projection did not change */
	struct mixed_svd svd;
};

struct delta_layer {
	struct linear_delta q, k, v, o, gate, up, down;
	struct layer_vectors vectors; /* replacements, NULL where the base's stays */
};

struct delta {
	struct image *image;        /* owned */
	struct model_config config; /* of the fine-tune: its vocabulary, eos, bos */
	struct dense_rows embed;
	struct dense_rows head; /* where tied: the same views as embed */
	const float *final_norm;
	struct delta_layer *layers; /* owned */
	const struct tensor_record *records;
	size_t n_records;
	const struct certificate *certificate;  /* or NULL */
	const struct tensor_quality *qualities; /* n_records of them, or NULL */
};

/*
 * Takes the image on success. Checks every record and every offset inside payloads. `base` may be
 * NULL to look at a delta without one; with it, -EMEDIUMTYPE if the delta was made for another base
 * (the reason gives both digests), or if its config differs from the base's in more than
 * max_positions, bos, eos, pad and a larger vocabulary. Rows of added tokens must all be there.
 */
int delta_bind(struct image *image, const struct base *base, struct delta **ret,
	struct reason *reason) _must_check_;
int delta_open(const char *path, const struct base *base, struct delta **ret,
	const struct progress *progress, struct reason *reason) _must_check_;
struct delta *delta_free(struct delta *delta);

static inline void deltap(struct delta **d)
{
	delta_free(*d);
}

/* Layout of a DENSE_ROWS payload: where the rows' values begin and, returned, the payload's size.
 */
uint64_t dense_rows_layout(uint32_t n_rows, uint32_t cols, uint64_t *ret_values);

/* Layout of a MIXED_SVD payload: fills the offsets of each band from bits, n_ranks and the shape,
 * and returns the payload's size. Writers and the checker share these layouts, so there is one
 * truth: a file whose offsets differ is refused. */
uint64_t mixed_svd_layout(
	struct mixed_svd_band *bands, uint32_t n_bands, uint32_t rows, uint32_t cols);
