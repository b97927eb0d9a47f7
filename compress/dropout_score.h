/*
 * What dropping at random does to a matrix's outputs, without dropping: closed forms over the
 * second moments H = E[x x^T] of the inputs.
 *
 * A row d keeps n of every h columns, those that stay times h / n. Its output d x is then right on
 * average, and the mean squared error over masks and inputs is
 *
 *   E_h = (h/n - 1) h/(h-1) ( sum_c d_c^2 H_cc  -  1/h sum_g d_g^T H_gg d_g )
 *
 * with d_g, H_gg the parts of group g: only the diagonal blocks of H are needed. (Sampling without
 * replacement inside each group, groups independent; arXiv 2410.08666 searches h by trial.)
 */
#pragma once

#include "compress/uniform.h"
#include "engine/pool.h"

struct dropout_target {
	struct pool *pool;
	uint32_t rows, cols;
	const float *delta;    /* rows x cols */
	const double *moments; /* cols x cols */
};

/* Numbers of each row: d^T H d, and with the diagonal of H alone. */
struct dropout_energies {
	double *full, *diagonal; /* rows */
};

int dropout_energies_of(const struct dropout_target *t, struct dropout_energies *ret) _must_check_;
void dropout_energies_done(struct dropout_energies *e);

/* delta times moments, rows x cols. -ENOMEM. */
int dropout_product(const struct dropout_target *t, double *ret) _must_check_;

/* sum_g d_g^T H_gg d_g of each row for groups of h columns, which divides cols. -ENOMEM. */
int dropout_blocks(const struct dropout_target *t, uint32_t h, double *ret) _must_check_;

/* E_h of one row from its sums. */
double dropout_variance(double diagonal, double blocks, uint32_t h, uint32_t n_keep);

/*
 * The same for a row that is quantised too, q = a d + noise, the noise of different columns taken
 * as unrelated.
 */
struct dropout_outlook {
	double full;   /* d^T H d */
	double cross;  /* q^T H d on average */
	double energy; /* of the output that dropping leaves, on average over masks */
};

struct dropout_row {
	double full, diagonal, blocks; /* of d */
	double cross, square;          /* sum H_cc q_c d_c, sum H_cc q_c^2 */
};

struct dropout_outlook dropout_outlook_of(
	const struct dropout_row *row, uint32_t h, uint32_t n_keep);

/*
 * What is left when that which cross and energy are of is scaled by `factor` (for an outlook in
 * units of h / n), where the part of the error that is the output itself, too short or too long,
 * counts 1 + coherence times. That part is alike in all tensors and adds up through a model; the
 * rest is different everywhere, and mostly does not.
 */
static inline double dropout_left(const struct dropout_outlook *o, double factor, double coherence)
{
	double rest = o->full - factor * (2 * o->cross - factor * o->energy);
	double missing = o->full > 0 ? 1 - factor * o->cross / o->full : 0;

	return rest + coherence * missing * missing * o->full;
}

/* The factor that leaves least. */
static inline double dropout_factor(const struct dropout_outlook *o, double coherence)
{
	if (o->full <= 0 || o->cross <= 0 || o->energy <= 0)
		return 0;
	return (1 + coherence) * o->cross / (o->energy + coherence * o->cross * o->cross / o->full);
}
