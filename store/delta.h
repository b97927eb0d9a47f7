/*
 * A delta file as checked views: what it adds to or replaces in the base it is bound to.
 */
#pragma once

#include "kernels/types.h"
#include "store/base.h"
#include "store/image.h"

/* U diag(sigma) V^T. */
struct factors {
	struct qmat v;      /* components x in */
	struct qmat u;      /* components x out */
	const float *sigma; /* of each component */
};

/* Codes that are added to rows of a matrix. */
struct row_codes {
	struct qmat q;        /* rows with codes x in */
	const uint32_t *rows; /* which they are, ascending; NULL: all */
};

/* Rows that replace those of the base's matrix. */
struct replaced_rows {
	uint32_t n_rows;
	const uint32_t *rows;   /* ascending; NULL: all */
	struct mat_bf16 values; /* n_rows x cols */
};

/* The first place, of n_rows ascending rows, whose row is not below `row`; n_rows if all are.
 * `rows` NULL: all rows below n_rows. */
static inline size_t rows_first_at(const uint32_t *rows, size_t n_rows, size_t row)
{
	size_t low = 0, high = n_rows;

	if (!rows)
		return min_u64(row, n_rows);
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (rows[middle] < row)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct delta_part {
	uint32_t codec; /* enum tensor_codec */
	union {
		struct replaced_rows rows;
		struct factors factors;
		struct row_codes codes;
		struct dropmat dropout;
	};
};

/* What a delta does to one matrix: the sum of its parts, the lowest level first; coded FACTORS of
 * one width are a single part, whatever levels they stand at (store/placement.h). ROWS stand alone,
 * but for CODES of other rows; no parts where nothing changed. */
struct linear_delta {
	uint32_t n_parts;
	struct delta_part parts[FORMAT_MAX_LEVELS];
};

struct delta_layer {
	struct linear_delta q, k, v, o, gate, up, down;
	struct layer_vectors vectors; /* replacements, NULL where the base's stays */
};

struct delta {
	struct image *image;        /* owned */
	struct model_config config; /* of the fine-tune: its vocabulary, eos, bos */
	struct linear_delta embed;
	struct linear_delta head; /* where tied: the same views as embed */
	const float *final_norm;
	struct delta_layer *layers;          /* owned */
	const struct tensor_record *records; /* of the levels that are there */
	size_t n_records;
	uint8_t *expanded; /* owned; NULL if nothing had to be expanded, or there was no base */
	uint64_t expanded_bytes;
	const struct certificate *certificate;  /* or NULL */
	const struct tensor_quality *qualities; /* n_records of them, or NULL */
	const struct rate_point *points;        /* certificate->n_points of them, or NULL */
	const struct certificate_tasks *tasks;  /* or NULL */
};

/*
 * Takes the image on success. Checks every record and every offset inside payloads. `base` may be
 * NULL to look at a delta without one, or have no weights (layers NULL); coded parts are then not
 * expanded. With a base, -EMEDIUMTYPE if the delta was made for another base or for other values of
 * it than its codes serve (the reason gives the digests), if it tells weights from numbers that the
 * base has codes for, or if its
 * config differs from the base's in more than max_positions, bos, eos, pad and a larger vocabulary.
 * Rows of added tokens must all be there.
 */
int delta_bind(struct image *image, const struct base *base, struct delta **ret,
	struct reason *reason) _must_check_;
/* Of an open file, which stays the caller's. */
int delta_load(int fd, const struct base *base, struct delta **ret, const struct progress *progress,
	struct reason *reason) _must_check_;
int delta_open(const char *path, const struct base *base, struct delta **ret,
	const struct progress *progress, struct reason *reason) _must_check_;
struct delta *delta_free(struct delta *delta);

static inline void deltap(struct delta **d)
{
	delta_free(*d);
}
