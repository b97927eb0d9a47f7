/*
 * One factor of D ~ U W solved for the codes of the other, by least squares in the metric of the
 * outputs: what lowers E = tr((D - U W) H (D - U W)^T) once W, n vectors over the inputs with their
 * sigma in them, is what a reader will have.
 *
 *   refit_vectors   U = D H W^T (W H W^T)^-1, before it is rounded itself: no other U has a lower
 * E. It also takes up what of D is outside the kept components. (Reconstruction target correction,
 * arXiv 2506.11087.) refit_factors   with U rounded, what each component is to be multiplied with:
 * M f = d with M_ij = (u_i . u_j) (w_i H w_j), d_i = u_i D H w_i; no other f has a lower E
 *
 * H is damped as GPTQ's is.
 */
#pragma once

#include "common/reason.h"
#include "engine/pool.h"

struct refit_problem {
	struct pool *pool;     /* may be NULL; changes no byte */
	const float *target;   /* D, rows x cols */
	const double *moments; /* H, cols x cols */
	const double *w;       /* n x cols */
	uint32_t rows, cols, n;
};

struct refit {
	uint32_t rows, n;
	double *cross; /* D H W^T, rows x n */
	double *gram;  /* W H W^T, n x n */
};

/* -ENOMEM. *ret goes to refit_done(). */
int refit_init(const struct refit_problem *p, struct refit *ret) _must_check_;
void refit_done(struct refit *f);

/* ret: n x rows, one vector after the other. -ENOMEM; -EDOM if W's vectors depend on each other. */
int refit_vectors(const struct refit *f, double *ret, struct reason *reason) _must_check_;
/* u: n x rows. ret: n factors, 0 for a vector of zeros. Errors likewise. */
int refit_factors(const struct refit *f, const double *u, double *ret, struct reason *reason)
	_must_check_;
