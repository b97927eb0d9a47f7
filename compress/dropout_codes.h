/*
 * A matrix of which random places keep a code, unpacked: what method deltadq makes and
 * part_dropout() writes. value = step * scale * (code - zero) at the places that seed and shape
 * draw (store/dropout.h), 0 elsewhere; the factor that makes up for the dropped ones is in the
 * step.
 */
#pragma once

#include "compress/dropout_score.h"
#include "store/dropout.h"

struct dropout_codes {
	struct dropout_shape shape;
	uint64_t seed;    /* the tensor's own; see dropout_seed() */
	uint8_t *codes;   /* layout.n_codes, one a byte, rows ascending, ascending inside a row */
	uint16_t *scales; /* fp16, one a row (GRID_ROW), or NULL (GRID_MATRIX) */
	float step, zero;
};

struct dropout_how {
	bool row_steps;   /* a clipped grid for each row, not one for the matrix */
	bool min_max;     /* the paper's: one grid over all survivors; excludes row_steps */
	bool unbiased;    /* the paper's: survivors times group / n_keep. Else by the factor that
			     leaves least, dropout_factor(), of a row or the matrix */
	double coherence; /* in what is left; 0: the squared error on the calibration inputs */
};

/*
 * Drops and quantises. `product` is delta times moments, rows x cols. *ret_left is dropout_left()
 * of what a reader will compute: without coherence the squared error of the output, sum over rows
 * of e^T H e with e the row's error. The shape is that of the target and has passed
 * dropout_layout(). -ENOMEM.
 */
int dropout_codes_fit(const struct dropout_target *t, const double *product,
	const struct dropout_how *how, struct dropout_codes *codes, double *ret_left) _must_check_;

void dropout_codes_done(struct dropout_codes *d);

/* One row as a reader has it, cols numbers. */
void dropout_codes_values(const struct dropout_codes *d, uint32_t row, float *ret);

/* Mean bits of a code by the frequencies of the codes. */
double dropout_codes_entropy(const struct dropout_codes *d);
