/*
 * Losses that were measured at some sizes, where what chooses between the sizes has a guess only.
 *
 * The guess orders choices well and prices them badly: a lambda against guessed losses, which the
 * choices were made with, stands for another one against real losses. Between two measured choices
 * next to each other on the lower convex hull the real lambda is the slope of the hull, the guessed
 * one the geometric mean of theirs; between these pairs both go as a power of each other.
 */
#pragma once

#include <stddef.h>

#define MEASURED_MAX_POINTS 9u

struct measured_point {
	double lambda; /* that made the choice, against guessed losses; > 0 */
	double bytes;
	double loss; /* measured */
};

struct measured_curve {
	size_t n; /* of the pairs; 0: nothing is known, a guess is real */
	struct {
		double real, guess;
	} lambdas[MEASURED_MAX_POINTS];
	size_t n_points;
	struct measured_point points[MEASURED_MAX_POINTS]; /* from most to fewest bytes */
};

/* Points from most to fewest bytes, MEASURED_MAX_POINTS at most. */
void measured_curve_fit(struct measured_curve *c, const struct measured_point *points, size_t n);

/* The lambda against guessed losses that a lambda against real ones stands for. */
double measured_curve_lambda(const struct measured_curve *c, double real);
/* Between the points, or that of the next. */
double measured_curve_loss(const struct measured_curve *c, double bytes);
