#include "compress/measured_curve.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static double slope(const struct measured_point *more, const struct measured_point *fewer)
{
	return (fewer->loss - more->loss) / (more->bytes - fewer->bytes);
}

/* Slopes of a lower hull get steeper with fewer bytes. Returns how many points are left. */
static size_t take_hull(const struct measured_point *points, size_t n, struct measured_point *ret)
{
	size_t n_hull = 0;

	for (size_t i = 0; i < n; i++) {
		const struct measured_point *p = &points[i];

		if (n_hull > 0 && !(p->bytes < ret[n_hull - 1].bytes))
			continue;
		while (n_hull > 0 && p->loss <= ret[n_hull - 1].loss)
			n_hull--;
		while (n_hull > 1 &&
			slope(&ret[n_hull - 1], p) <= slope(&ret[n_hull - 2], &ret[n_hull - 1]))
			n_hull--;
		ret[n_hull++] = *p;
	}
	return n_hull;
}

void measured_curve_fit(struct measured_curve *c, const struct measured_point *points, size_t n)
{
	*c = (struct measured_curve){0};
	c->n_points = take_hull(points, n, c->points);
	for (size_t i = 0; i + 1 < c->n_points; i++) {
		const struct measured_point *p = &c->points[i];

		c->lambdas[i].real = slope(p, p + 1);
		c->lambdas[i].guess = sqrt(p[0].lambda * p[1].lambda);
		c->n++;
	}
}

/* y(x) = y0 (x / x0)^k through two points. */
static double power_between(double x, double x0, double x1, double y0, double y1)
{
	return y0 * pow(y1 / y0, log(x / x0) / log(x1 / x0));
}

double measured_curve_lambda(const struct measured_curve *c, double real)
{
	size_t i = 0;

	if (c->n == 0)
		return real;
	while (i < c->n && c->lambdas[i].real < real)
		i++;
	if (i == 0)
		return real * c->lambdas[0].guess / c->lambdas[0].real;
	if (i == c->n)
		return real * c->lambdas[i - 1].guess / c->lambdas[i - 1].real;
	return power_between(real, c->lambdas[i - 1].real, c->lambdas[i].real,
		c->lambdas[i - 1].guess, c->lambdas[i].guess);
}

double measured_curve_loss(const struct measured_curve *c, double bytes)
{
	const struct measured_point *p = c->points;
	size_t i = 0;

	if (c->n_points == 0)
		return 0;
	while (i < c->n_points && p[i].bytes > bytes)
		i++;
	if (i == 0 || i == c->n_points)
		return p[i ? i - 1 : 0].loss;
	return p[i].loss +
	       (p[i - 1].loss - p[i].loss) * (bytes - p[i].bytes) / (p[i - 1].bytes - p[i].bytes);
}
