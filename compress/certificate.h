/*
 * What a finished delta is worth on text that it was not calibrated on.
 */
#pragma once

#include "compress/calibration.h"
#include "compress/compare.h"
#include "compress/served.h"

struct certificate_settings {
	const struct served *base; /* with the delta */
	const struct served *tuned;
	const struct calibration *calibration;
	struct pool *pool;
	const struct progress *progress;
};

/* Sets the measured members of *ret; the others stay. */
int certificate_measure(const struct certificate_settings *settings, struct certificate *ret,
	struct reason *reason) _must_check_;
