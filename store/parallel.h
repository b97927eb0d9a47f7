/*
 * Independent pieces of work on several processors, for as long as they take: for the one place
 * where loading computes more than it reads.
 */
#pragma once

#include <stddef.h>

/* Calls fn(arg, i) for all i < n, from this thread and from others that end before it returns; each
 * waits for nothing but its own piece. With no other thread to be had, this one does it all. */
void parallel_for(size_t n, void (*fn)(void *arg, size_t i), void *arg);
