/*
 * What a finished delta is worth on text that it was not calibrated on.
 */
#pragma once

#include "compress/calibration.h"
#include "compress/compare.h"
#include "compress/sequences.h"
#include "compress/served.h"

struct certificate_settings {
	const struct served *base; /* with the delta */
	const struct served *tuned;
	const struct calibration *calibration;
	struct pool *pool;
	const struct progress *progress;
};

/* Words for what the figures were measured on. */
const char *certificate_text_name(uint32_t text);

/* The same on the judged tokens of sequences: fills in all but the text. */
int certificate_measure_tasks(const struct certificate_settings *settings,
	const struct sequences *sequences, struct certificate_tasks *ret, struct reason *reason)
	_must_check_;

/* Sets the measured members of *ret; the others stay. */
int certificate_measure(const struct certificate_settings *settings, struct certificate *ret,
	struct reason *reason) _must_check_;

/* The same of sums that were made otherwise. */
void certificate_set(struct certificate *certificate, const struct comparison *sums);
