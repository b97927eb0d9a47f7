/*
 * The token sequences that a delta is calibrated on, and others, held out, that it is judged on.
 *
 * A text's documents (separated by blank lines) are tokenised one by one, each with its begin of
 * text, joined, and cut into windows. Some windows, evenly spread, are held out; from the others as
 * many as asked for are taken, evenly spread too. Nothing is random: same text, same windows.
 */
#pragma once

#include "common/digest.h"
#include "common/reason.h"
#include "engine/tokenizer.h"

#define CALIBRATION_HELD_OUT_TOKENS 4096u /* at most */

struct calibration {
	uint32_t window; /* tokens of each sequence; at least 2 */
	uint32_t n_windows;
	uint32_t n_held_out;  /* at least 1 */
	uint32_t *ids;        /* n_windows x window */
	uint32_t *held_out;   /* n_held_out x window */
	struct digest digest; /* of ids, as little-endian u32 */
};

struct calibration_limits {
	uint32_t max_tokens; /* of ids */
	uint32_t window;     /* smaller if the text is short */
};

/* -EBADMSG if the text is not UTF-8 or too short. */
int calibration_of_text(const struct tokenizer *t, const char *text, size_t n,
	const struct calibration_limits *limits, struct calibration **ret, struct reason *reason)
	_must_check_;

/* Tokens as they stand. -EBADMSG if they are too few. */
int calibration_of_ids(const uint32_t *ids, size_t n, const struct calibration_limits *limits,
	struct calibration **ret, struct reason *reason) _must_check_;

/* Tokens drawn evenly from [0, vocab) by a fixed generator: for a model without a tokenizer, whose
 * inputs nobody can know. */
int calibration_of_vocabulary(uint32_t vocab, const struct calibration_limits *limits,
	struct calibration **ret) _must_check_;

/* Is every id below `vocab`? -EBADMSG names one that is not. */
int calibration_check(const struct calibration *c, uint32_t vocab, struct reason *reason)
	_must_check_;

struct calibration *calibration_free(struct calibration *c);

static inline void calibration_freep(struct calibration **c)
{
	calibration_free(*c);
}
