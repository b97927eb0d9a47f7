/*
 * A matrix as a sum of quantised components, fewer than its rank, in the metric of its errors.
 *
 * With H = L_h L_h^T of the inputs and G = L_g L_g^T of the outputs, the SVD
 * L_g^T D L_h = P diag(s) R^T gives D = sum s_i u_i v_i^T with u = L_g^-T p, v = L_h^-T r:
 * u_i G u_j = v_i H v_j = (i == j), and dropping component i costs exactly s_i^2 of
 * tr(G E H E^T) (SVD-LLM, arXiv 2403.07378, with both metrics).
 *
 * Quantising (delta-come.md 4.3 in spirit): all v at one step with s_i v_i as the target, so that
 * noise is the same everywhere and bits follow s_i by reverse water-filling; then u solved again
 * for the quantised v and quantised; once more both; then sigma solved for both. All rounding is
 * compress/ldlq.h, with feedback and with the length of the codes in mind.
 */
#pragma once

#include "compress/metric.h"

struct whitened_basis {
	uint32_t rows, cols, rank;  /* min(rows, cols) */
	const struct metric *g, *h; /* borrowed */
	const float *target;        /* borrowed */
	double *u;                  /* rank x rows */
	double *v;                  /* rank x cols */
	double *sigma;              /* falling */
	double *gd, *dh, *gdh;      /* G D, D H, G D H */
	double energy;              /* tr(G D H D^T) = sum sigma^2 */
};

/* g and h are not diagonal ones. -EDOM if the target is not finite, -ENOMEM. */
int whitened_basis_new(const float *target, const struct metric *g, const struct metric *h,
	struct whitened_basis **ret, struct reason *reason) _must_check_;
struct whitened_basis *whitened_basis_free(struct whitened_basis *b);

static inline void whitened_basis_freep(struct whitened_basis **b)
{
	whitened_basis_free(*b);
}

struct whitened_settings {
	double step;   /* in units of ldlq_step() for both factors */
	double lambda; /* > 0 */
	uint32_t max_rank;
	uint32_t n_rounds; /* of both factors; at least 1 */
};

/* D' = sum_i sigma_i u_i v_i^T, u and v codes. */
struct whitened {
	uint32_t rows, cols;
	uint32_t n; /* components; 0: nothing is worth its bits */
	int8_t *u;  /* n x rows */
	int8_t *v;  /* n x cols */
	float *sigma;
	double loss; /* tr(G E H E^T) */
	double bits; /* estimated, with 32 for each sigma */
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
