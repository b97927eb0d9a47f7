/*
 * How much of what a fine-tune can do is kept by what stands coded, as the engine will serve it, on
 * text that was kept back:
 *
 *   final-number, exact   the share of solved tasks, over that of the fine-tune; both answer
 *                         greedily
 *   perplexity            the fine-tune's perplexity of the references over ours
 *   no tasks              positions with the same most probable token
 */
#pragma once

#include "compress/auto_run.h"

struct auto_keep;

/* Borrows the run. */
int auto_keep_new(struct auto_run *a, struct auto_keep **ret, struct reason *reason) _must_check_;
struct auto_keep *auto_keep_free(struct auto_keep *k);

static inline void auto_keepp(struct auto_keep **k)
{
	auto_keep_free(*k);
}

int auto_keep_measure(struct auto_keep *k, struct kept *ret, struct reason *reason) _must_check_;
/* 1 - share, for allocate_quality(). */
int auto_keep_loss(void *user, double *ret, struct reason *reason) _must_check_;
