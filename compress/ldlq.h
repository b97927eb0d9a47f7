/*
 * Rounding a matrix to a uniform grid, with the errors made so far corrected along both axes and
 * the length of the codes in mind.
 *
 * For a matrix D, codes Q of integers and one step, with the error E = D - step Q, it lowers
 *
 *   tr(G E H E^T) + lambda * bits(Q)
 *
 * H weighs the inputs, G the outputs (compress/metric.h). With G = U diag(g) U^T, H = V diag(h)
 * V^T, U and V upper with unit diagonals, the first term is sum g_r h_c (U^T E V)_rc^2, and (U^T E
 * V)_rc depends on errors above and to the left only. So rows are met from the top and columns from
 * the left, and each code is chosen for D_rc plus what the earlier errors leave to be repaired.
 * With G the identity this is the feedback of GPTQ (arXiv 2210.17323; QuIP, 2307.13304, calls it
 * LDLQ); both axes are YAQA's (2505.22988).
 *
 * The candidates of a code are the nearest integer, its neighbour towards zero, and zero; bits are
 * those of compress/code_costs.h, learned anew before every sweep.
 */
#pragma once

#include "compress/code_costs.h"
#include "compress/metric.h"

#define LDLQ_SWEEPS 3u

struct ldlq_problem {
	uint32_t rows, cols;
	const float *target;        /* D */
	const struct metric *g, *h; /* of rows and cols numbers */
	double step;                /* > 0 */
	double lambda;              /* 0: length does not matter */
	uint32_t n_sweeps;          /* with lambda 0 one is enough */
	uint32_t n_sketches;        /* before them, without feedback: as good as a sweep or more
				       for the costs, and much cheaper; with lambda > 0 */
};

struct ldlq {
	int8_t *codes; /* rows x cols, the caller's */
	float *error;  /* rows x cols, the caller's: E */
	float *wanted; /* rows x cols, the caller's, or NULL: what was rounded, in steps */
	double loss;   /* tr(G E H E^T) */
	double bits;   /* estimated length of the codes */
};

/* The step at which, by the theory of fine grids, lambda buys as many bits as it should: with noise
 * step^2 / 12 of weight w a code, 6 lambda / ln 2 = w step^2. Coarse grids want a little more. */
double ldlq_step(const struct metric *g, const struct metric *h, double lambda);

/* The finest step that is of use: the largest of the numbers has a code, and feedback some room. */
double ldlq_least_step(const float *target, size_t n);

/* Fills codes and error and sets the sums. BLAS must run on one thread; calls may run side by side.
 * -ENOMEM. */
int ldlq_run(const struct ldlq_problem *problem, struct ldlq *ret) _must_check_;
