#include "compress/product.h"

#define LEAST_ROWS 128u
#define MOST_ROWS 512u
#define STRIPES 8u /* enough for some threads; each packs B anew */

struct product {
	struct blas_gemm gemm;
	const double *a, *b;
	double *c;
	size_t n_rows; /* of a stripe */
};

static void multiply_stripe(void *arg, size_t piece, size_t worker)
{
	const struct product *p = arg;
	struct blas_gemm gemm = p->gemm;
	size_t first = piece * p->n_rows;

	(void)worker;
	gemm.m = min_u64(p->n_rows, p->gemm.m - first);
	blas_gemm_f64(&gemm, p->a + first * (gemm.transpose_a ? 1 : gemm.a_stride), p->b,
		p->c + first * gemm.c_stride);
}

void product_f64(struct pool *pool, const struct blas_gemm *gemm, const double *a, const double *b,
	double *c)
{
	struct product p = {.gemm = *gemm, .a = a, .b = b, .c = c};
	size_t rows = max_u64(LEAST_ROWS, min_u64(MOST_ROWS, div_up(gemm->m, STRIPES)));
	size_t n = div_up(gemm->m, rows);

	p.n_rows = rows;
	if (!gemm->a_stride)
		p.gemm.a_stride = gemm->transpose_a ? gemm->m : gemm->k;
	if (!gemm->c_stride)
		p.gemm.c_stride = gemm->n;
	pool_run(pool, multiply_stripe, &p, n);
}
