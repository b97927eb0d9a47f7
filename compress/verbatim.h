/*
 * A projection of the fine-tune as its bf16 words.
 */
#pragma once

#include "compress/method.h"

/* `coded`: told from the base's words by store/bf16_stream.h; the part is then decoded again and
 * compared, -EIO if a single bit is not what it was. */
int verbatim_part(const struct pair *pair, const struct method_matrix *m, bool coded,
	struct part *ret, struct reason *reason) _must_check_;
