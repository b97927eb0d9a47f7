/*
 * How a long computation tells its caller where it is. Libraries call it, deltactl draws the bar.
 */
#pragma once

#include <stdint.h>

struct progress {
	/* `stage` is a present participle ("quantising"); done <= total; 0 if that is unknown. */
	void (*update)(void *user, const char *stage, uint64_t done, uint64_t total);
	void *user;
};

/* `p` may be NULL, and so may its function. */
static inline void progress_update(
	const struct progress *p, const char *stage, uint64_t done, uint64_t total)
{
	if (p && p->update)
		p->update(p->user, stage, done, total);
}
