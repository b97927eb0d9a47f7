#include "store/parallel.h"

#include "common/cpus.h"
#include "common/thread.h"

#include <stdatomic.h>

#define MAX_HELPERS 15u

struct work {
	size_t n;
	void (*fn)(void *arg, size_t i);
	void *arg;
	atomic_size_t next;
};

static void *take_pieces(void *arg)
{
	struct work *w = arg;
	size_t i;

	while ((i = atomic_fetch_add(&w->next, 1)) < w->n)
		w->fn(w->arg, i);
	return NULL;
}

void parallel_for(size_t n, void (*fn)(void *arg, size_t i), void *arg)
{
	struct work work = {.n = n, .fn = fn, .arg = arg};
	size_t wanted = min_u64(min_u64(cpus_usable(), n) - (n > 0), MAX_HELPERS), n_helpers = 0;
	pthread_t helpers[MAX_HELPERS];

	while (n_helpers < wanted &&
		thread_start(&helpers[n_helpers], NULL, take_pieces, &work) == 0)
		n_helpers++;
	take_pieces(&work);
	for (size_t i = 0; i < n_helpers; i++)
		pthread_join(helpers[i], NULL);
}
