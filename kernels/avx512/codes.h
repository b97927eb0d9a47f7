#pragma once

#include "kernels/qmat.h"

/* Whether all groups of a row have one grid: what avx512_codes_dot() takes. */
bool avx512_codes_fit(const struct qmat *m);
/* qmat_dot() of n rows of d->x; d->tail is not read. */
void avx512_codes_dot(const struct qmat_dot *d, size_t n, size_t row0, size_t row1);
