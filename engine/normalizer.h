/*
 * What happens to text before it is cut into words: Unicode normal forms and replacements.
 */
#pragma once

#include "common/reason.h"
#include "engine/buffer.h"
#include "engine/tokenizer_tables.h"

/* A step with its strings found in the tables. */
struct normalize_step {
	enum normalize_kind kind;
	const char *a, *b; /* borrowed */
	size_t n_a, n_b;
};

struct normalizer {
	struct normalize_step steps[TOKENIZER_MAX_STEPS];
	size_t n_steps;
};

/* Appends the normal form of valid UTF-8. -EOPNOTSUPP for text no writer means: more than a
 * thousand combining marks on one letter, whose ordering would take quadratic time. */
int normalizer_apply(const struct normalizer *z, const char *text, size_t n, struct text *out,
	struct reason *reason) _must_check_;

/* Appends `text` with every `a` (n_a > 0) replaced by `b`. */
int text_replace(struct text *out, const char *text, size_t n, const char *a, size_t n_a,
	const char *b, size_t n_b) _must_check_;
