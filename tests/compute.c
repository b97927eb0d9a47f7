#include "tests/compute.h"

#include "kernels/blas.h"

struct pool *compute_pool;

int compute_load(void **state)
{
	struct reason reason = {0};

	(void)state;
	return blas_load(1, &reason);
}

int compute_start(void **state)
{
	struct reason reason = {0};
	int r = compute_load(state);

	return r < 0 ? r : pool_new(2, &compute_pool, &reason);
}

int compute_stop(void **state)
{
	(void)state;
	compute_pool = pool_free(compute_pool);
	return 0;
}
