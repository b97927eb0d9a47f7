/*
 * The SELFTEST section: a short prompt and some of the logits that the writer of the file saw after
 * it, so that whoever holds the file can tell whether this machine computes what was meant.
 */
#pragma once

#include "engine/model.h"

/* Differences beyond this share of the largest |logit| are never accepted, whatever a file says. */
#define SELFTEST_MAX_TOLERANCE 0.1f
/* A longer prompt would only take longer. */
#define SELFTEST_MAX_IDS 1024u

/* Runs the prompt (1 to SELFTEST_MAX_IDS ids, below the variant's vocabulary) and makes the
 * section's bytes, malloc'ed: the 16 largest logits and 48 spread over the vocabulary. */
int selftest_make(const struct variant *variant, struct pool *pool, const uint32_t *ids, size_t n,
	float tolerance, uint8_t **ret, size_t *ret_n, struct reason *reason) _must_check_;

/*
 * Runs the prompt of a section (whose bytes may be hostile) and compares. *ret_error is the largest
 * difference as a share of the largest |logit|. -EMEDIUMTYPE, with the numbers, if it exceeds the
 * section's tolerance.
 */
int selftest_run(const struct variant *variant, struct pool *pool, const uint8_t *bytes,
	uint64_t n_bytes, float *ret_error, struct reason *reason) _must_check_;
