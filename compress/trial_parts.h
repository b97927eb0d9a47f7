/*
 * Parts of a delta file from the two codings of a projection's change.
 */
#pragma once

#include "compress/parts.h"
#include "compress/whitened.h"

/* Codes of all numbers, rows x cols, of one step. */
int trial_codes_part(const struct part_place *p, const int8_t *codes, double step, struct part *ret)
	_must_check_;
int trial_factors_part(const struct part_place *p, const struct whitened *w, struct part *ret)
	_must_check_;
