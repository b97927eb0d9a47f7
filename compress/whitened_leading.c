#include "compress/metric_root.h"
#include "compress/svd.h"
#include "compress/whitened.h"

#include <math.h>

/* n rows of unit length in turned coordinates become what they are in plain ones. */
static int turn_back(
	struct pool *pool, const struct metric *m, const double *from, uint32_t n, double **ret)
{
	size_t count = (size_t)n * m->n;
	_cleanup_(freep) float *rows = malloc((count + 1) * sizeof(*rows));
	double *to = malloc((count + 1) * sizeof(*to));

	*ret = to;
	if (!rows || !to)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		rows[i] = (float)(from[i] / sqrt(m->n));
	metric_root_solve(pool, m, rows, n);
	for (size_t i = 0; i < count; i++)
		to[i] = (double)rows[i];
	return 0;
}

/* Components that come as zeros are none. */
static uint32_t count_components(const struct svd *s, uint32_t n)
{
	uint32_t found = 0;

	while (found < n && found < s->rank && s->sigma[found] > 0)
		found++;
	return found;
}

int whitened_basis_leading(struct pool *pool, const float *turned, const struct metric *g,
	const struct metric *h, uint32_t n, struct whitened_basis **ret, struct reason *reason)
{
	_cleanup_(whitened_basis_freep) struct whitened_basis *b = calloc(1, sizeof(*b));
	_cleanup_(svd_freep) struct svd *s = NULL;
	int r;

	if (!b)
		return -ENOMEM;
	r = svd_leading(pool, turned, g->n, h->n, n, &s, reason);
	if (r < 0)
		return r;
	*b = (struct whitened_basis){.rows = g->n, .cols = h->n, .g = g, .h = h};
	b->rank = count_components(s, n);
	b->sigma = malloc(((size_t)b->rank + 1) * sizeof(*b->sigma));
	if (!b->sigma)
		return -ENOMEM;
	for (uint32_t i = 0; i < b->rank; i++)
		b->sigma[i] = s->sigma[i] * sqrt((double)g->n * h->n);
	r = turn_back(pool, g, s->u, b->rank, &b->u);
	if (r == 0)
		r = turn_back(pool, h, s->v, b->rank, &b->v);
	if (r < 0)
		return r;
	*ret = take_ptr(b);
	return 0;
}
