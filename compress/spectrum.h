/*
 * How steep the singular values of a change are: what tells whether few components say most of it.
 */
#pragma once

#include "common/reason.h"
#include "store/format.h"

/* Past this many rows and columns nobody waits for it. */
#define SPECTRUM_MAX_RANKS 2048u

/* ret[i]: share of ||D||_F^2 in the first (i + 1) / 16 of the singular values of D (rows x cols),
 * of 255; zeros where D is zero or has more than SPECTRUM_MAX_RANKS ranks. -EDOM if D is not
 * finite. */
int spectrum_measure(const float *d, uint32_t rows, uint32_t cols,
	uint8_t ret[static FORMAT_SPECTRUM]) _must_check_;
