#include "compress/svd.h"

#include "kernels/blas.h"

#include <math.h>

struct svd *svd_free(struct svd *s)
{
	if (!s)
		return NULL;
	free(s->u);
	free(s->v);
	free(s->sigma);
	free(s);
	return NULL;
}

static int svd_alloc(uint32_t rows, uint32_t cols, struct svd **ret)
{
	_cleanup_(svd_freep) struct svd *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->rows = rows;
	s->cols = cols;
	s->rank = rows < cols ? rows : cols;
	s->u = malloc(((size_t)s->rank * rows + 1) * sizeof(*s->u));
	s->v = malloc(((size_t)s->rank * cols + 1) * sizeof(*s->v));
	s->sigma = malloc(((size_t)s->rank + 1) * sizeof(*s->sigma));
	if (!s->u || !s->v || !s->sigma)
		return -ENOMEM;
	*ret = take_ptr(s);
	return 0;
}

/* From LAPACK's u (rows x rank) and s->v, to vectors in rows and of unit mean square. */
static void set_vectors(struct svd *s, const double *u)
{
	double u_scale = sqrt(s->rows), v_scale = sqrt(s->cols);

	for (uint32_t i = 0; i < s->rank; i++) {
		for (uint32_t r = 0; r < s->rows; r++)
			s->u[(size_t)i * s->rows + r] = u[(size_t)r * s->rank + i] * u_scale;
		for (uint32_t c = 0; c < s->cols; c++)
			s->v[(size_t)i * s->cols + c] *= v_scale;
		s->sigma[i] /= u_scale * v_scale;
	}
}

int svd_new(
	const float *matrix, uint32_t rows, uint32_t cols, struct svd **ret, struct reason *reason)
{
	size_t n = (size_t)rows * cols;
	_cleanup_(svd_freep) struct svd *s = NULL;
	_cleanup_(freep) double *a = malloc((n + 1) * sizeof(*a));
	_cleanup_(freep) double *u = NULL;
	int r;

	r = svd_alloc(rows, cols, &s);
	if (r < 0)
		return r;
	u = malloc(((size_t)rows * s->rank + 1) * sizeof(*u));
	if (!a || !u)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		a[i] = (double)matrix[i];
	r = blas_svd(a, rows, cols, u, s->sigma, s->v);
	if (r > 0)
		return reason_set(reason, -EDOM,
			"the singular values of a %u x %u matrix cannot be found: its numbers are "
			"not finite",
			rows, cols);
	if (r < 0)
		return r;
	set_vectors(s, u);
	for (uint32_t i = 0; i < s->rank; i++)
		s->total += s->sigma[i] * s->sigma[i];
	*ret = take_ptr(s);
	return 0;
}

double svd_energy(const struct svd *s, uint32_t n)
{
	double kept = 0;

	for (uint32_t i = 0; i < s->rank && i < n; i++)
		kept += s->sigma[i] * s->sigma[i];
	return s->total > 0 ? fmin(1, kept / s->total) : 1;
}

/* A smaller block, or the old one where the allocator will not give it. */
static double *shrink(double *block, size_t n)
{
	double *smaller = realloc(block, (n + 1) * sizeof(*block));

	return smaller ? smaller : block;
}

void svd_truncate(struct svd *s, uint32_t n)
{
	if (n >= s->rank)
		return;
	s->rank = n;
	s->u = shrink(s->u, (size_t)n * s->rows);
	s->v = shrink(s->v, (size_t)n * s->cols);
	s->sigma = shrink(s->sigma, n);
}
