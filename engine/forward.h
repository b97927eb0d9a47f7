/*
 * One step of the transformer over a batch of rows of any variants and sequences. Prompt tokens and
 * next tokens are the same kind of row.
 */
#pragma once

#include "engine/kv.h"
#include "engine/model.h"

struct batch_row {
	const struct variant *variant;
	struct kv_seq *seq;
	uint32_t token;    /* checked by the caller: < vocabulary of the variant */
	uint32_t position; /* < capacity of seq; rows of one sequence come in ascending order */
	bool want_logits;
};

struct forward; /* scratch for up to max_rows rows */

int forward_new(const struct model *model, struct pool *pool, uint32_t max_rows,
	struct forward **ret, struct reason *reason) _must_check_;
struct forward *forward_free(struct forward *f);

/*
 * Runs n <= max_rows rows. Rows of one variant must be neighbours, and rows of one sequence too.
 * Allocates nothing.
 */
void forward_step(struct forward *f, const struct batch_row *rows, size_t n);

/* Logits of row i of the last step, which must have asked for them: as many as the variant's
 * vocabulary. Valid until the next step. */
const float *forward_logits(const struct forward *f, size_t i);

/* Bytes of scratch it holds. */
uint64_t forward_bytes(const struct forward *f);
