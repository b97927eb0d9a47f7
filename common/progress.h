/*
 * How a long computation tells its caller where it is. Libraries call it, deltactl draws the bar.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct progress {
	/* `stage` is a present participle ("quantising"); done <= total; 0 if that is unknown. */
	void (*update)(void *user, const char *stage, uint64_t done, uint64_t total);
	void *user;
	/* Once this is true, those computations that say that they heed it return -ECANCELED; NULL:
	 * never. */
	const atomic_bool *cancelled;
};

/* `p` may be NULL, and so may its function. */
static inline void progress_update(
	const struct progress *p, const char *stage, uint64_t done, uint64_t total)
{
	if (p && p->update)
		p->update(p->user, stage, done, total);
}

static inline bool progress_cancelled(const struct progress *p)
{
	return p && p->cancelled && atomic_load(p->cancelled);
}
