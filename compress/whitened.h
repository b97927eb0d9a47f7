/*
 * A matrix as a sum of quantised components, fewer than its rank, in the metric of its errors.
 *
 * With H = L_h L_h^T of the inputs and G = L_g L_g^T of the outputs, the SVD
 * L_g^T D L_h = P diag(s) R^T gives D = sum s_i u_i v_i^T with u = L_g^-T p, v = L_h^-T r:
 * u_i G u_j = v_i H v_j = (i == j), and dropping component i costs exactly s_i^2 of
 * tr(G E H E^T) (SVD-LLM, arXiv 2403.07378, with both metrics).
 *
 * Quantising: s_i u_i and s_i v_i are rounded to the nearest on one grid for all components, so
 * that the noise is the same everywhere and bits follow s_i by reverse water-filling; a component
 * is kept while its numbers stand out of the grid. What lowers tr(G E H E^T) further raises the KL
 * that is measured: rounding with feedback and with the length of codes in mind, solving one factor
 * for the codes of the other, solving sigma for both. (Math fine-tune at half a bit: KL 0.014
 * plain, 0.028 with sigma solved, 0.023 with all.) Nor could codes made so be trained, which must
 * know what they were rounded from (compress/tune.h).
 */
#pragma once

#include "compress/metric.h"

struct whitened_basis {
	uint32_t rows, cols, rank;  /* min(rows, cols), or as many as were asked for */
	const struct metric *g, *h; /* borrowed */
	const float *target;        /* borrowed */
	double *u;                  /* rank x rows */
	double *v;                  /* rank x cols */
	double *sigma;              /* falling */
};

/* g and h are not diagonal ones. -EDOM if the target is not finite, -ENOMEM. */
int whitened_basis_new(const float *target, const struct metric *g, const struct metric *h,
	struct whitened_basis **ret, struct reason *reason) _must_check_;
/* The first n components alone, for large matrices: `turned` is the target in the coordinates of
 * compress/metric_root.h, and metrics need no more than metric_new_feedback() makes of them. */
int whitened_basis_leading(struct pool *pool, const float *turned, const struct metric *g,
	const struct metric *h, uint32_t n, struct whitened_basis **ret, struct reason *reason)
	_must_check_;
struct whitened_basis *whitened_basis_free(struct whitened_basis *b);

static inline void whitened_basis_freep(struct whitened_basis **b)
{
	whitened_basis_free(*b);
}

struct whitened_settings {
	double lambda;     /* > 0; of a bit, in units of tr(G E H E^T) */
	double coarseness; /* of the grid: 1, or more for fewer bits and more components */
	double least;      /* root mean square of latent numbers, in steps, of the last component */
};

/* D' = sum_i sigma_i u_i v_i^T, u and v codes. */
struct whitened {
	uint32_t rows, cols;
	uint32_t n;                 /* components; may be 0 */
	int8_t *u;                  /* n x rows */
	int8_t *v;                  /* n x cols */
	float *latent_u, *latent_v; /* what was rounded, in steps */
	float *sigma;
};

int whitened_quantise(const struct whitened_basis *basis, const struct whitened_settings *settings,
	struct whitened **ret) _must_check_;
struct whitened *whitened_free(struct whitened *w);

static inline void whitened_freep(struct whitened **w)
{
	whitened_free(*w);
}

/* rows x cols values of what the codes stand for. -ENOMEM. */
int whitened_values(const struct whitened *w, float *ret) _must_check_;
