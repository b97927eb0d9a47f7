/*
 * What programs that measure themselves share: a clock, and an order for medians.
 */
#pragma once

#include <time.h>

/* The thread's own time, so that other programs cost only what they take of the memory's rate. */
static inline double thread_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}
