/*
 * Fork-join workers that own nothing: pool_run() calls a function for piece 0 .. n-1, on the
 * calling thread and the workers, and returns when all are done. Pieces are taken one by one, so a
 * preempted worker delays only the piece in its hands. Workers spin briefly, then sleep.
 */
#pragma once

#include "common/reason.h"

struct pool;

typedef void pool_fn(void *arg, size_t piece, size_t worker);

/* n_threads counts the caller; 0 means as many as the process may use (affinity and cgroup quota).
 * `worker` of pool_fn is in 0 .. pool_threads()-1 and may index scratch. */
int pool_new(size_t n_threads, struct pool **ret, struct reason *reason) _must_check_;
size_t pool_threads(const struct pool *pool);
/* Without a pool (NULL) all pieces are the calling thread's. */
void pool_run(struct pool *pool, pool_fn *fn, void *arg, size_t n_pieces);
struct pool *pool_free(struct pool *pool);

static inline void poolp(struct pool **p)
{
	pool_free(*p);
}
