/*
 * A matrix of which random places keep a code, unpacked: what method deltadq makes and
 * part_dropout() writes. value = step * scale * (code - zero) at the places that seed and shape
 * draw (store/dropout.h), 0 elsewhere; the factor that makes up for the dropped ones is in the
 * step.
 */
#pragma once

#include "common/base.h"
#include "store/dropout.h"

struct dropout_codes {
	struct dropout_shape shape;
	uint64_t seed;    /* the tensor's own; see dropout_seed() */
	uint8_t *codes;   /* layout.n_codes, one a byte, rows ascending, ascending inside a row */
	uint16_t *scales; /* fp16, one a row (GRID_ROW), or NULL (GRID_MATRIX) */
	float step, zero;
};

static inline void dropout_codes_done(struct dropout_codes *d)
{
	free(d->codes);
	free(d->scales);
	*d = (struct dropout_codes){0};
}
