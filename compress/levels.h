/*
 * What the beginnings of a delta file are worth: each of its levels with those before it, measured
 * as the whole file is (compress/certificate.h).
 */
#pragma once

#include "compress/certificate.h"

/*
 * `fd` holds the file that the levels end in; it is shortened on the way. `base` has no delta and
 * gets none. Fills ret[0 .. n_levels - 2], file_bytes apart; the last level is the whole file.
 * `original_bytes`: 16-bit bytes of the projections that changed.
 */
int levels_measure(const struct certificate_settings *settings, struct served *base, int fd,
	const struct format_header *header, uint64_t original_bytes, struct rate_point *ret,
	struct reason *reason) _must_check_;
