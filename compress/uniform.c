#include "compress/uniform.h"

#include <math.h>

#define CLIPS 32u       /* candidates for the largest level */
#define CLIP_FIRST 0.5  /* over the root mean square */
#define CLIP_GROWTH 1.1 /* the last is some 10 times the root mean square */
#define REFINEMENTS 3u  /* of the best of them by least squares */

uint32_t uniform_code(const struct uniform *u, double value)
{
	double top = (double)((1u << u->bits) - 1);

	if (u->step <= 0)
		return 0;
	return (uint32_t)fmax(0, fmin(top, floor(value / u->step + u->zero + 0.5)));
}

static double weight_of(const struct uniform_sample *s, size_t i)
{
	return s->weights ? (double)s->weights[i] : 1;
}

/* The weighted squared error; *ret_step is the best step for the same codes. */
static double error_of(const struct uniform_sample *s, const struct uniform *u, double *ret_step)
{
	double error = 0, cross = 0, square = 0;

	for (size_t i = 0; i < s->n; i++) {
		double value = (double)s->values[i], weight = weight_of(s, i);
		double level = (double)uniform_code(u, value) - u->zero;

		error += weight * (value - u->step * level) * (value - u->step * level);
		cross += weight * value * level;
		square += weight * level * level;
	}
	*ret_step = square > 0 ? cross / square : 0;
	return error;
}

static double root_mean_square(const struct uniform_sample *s)
{
	double sum = 0;

	for (size_t i = 0; i < s->n; i++)
		sum += (double)s->values[i] * (double)s->values[i];
	return s->n ? sqrt(sum / (double)s->n) : 0;
}

void uniform_fit_clipped(const struct uniform_sample *s, uint32_t bits, struct uniform *ret)
{
	struct uniform best = {.bits = bits, .zero = (double)((1u << bits) - 1) / 2};
	double clip = root_mean_square(s) * CLIP_FIRST;
	double lowest = INFINITY, best_step = 0;

	for (uint32_t i = 0; i < CLIPS && clip > 0; i++, clip *= CLIP_GROWTH) {
		struct uniform u = {.bits = bits, .step = clip / best.zero, .zero = best.zero};
		double step, error = error_of(s, &u, &step);

		if (error < lowest) {
			lowest = error;
			best = u;
			best_step = step;
		}
	}
	for (uint32_t i = 0; i < REFINEMENTS && best_step > 0; i++) {
		struct uniform u = {.bits = bits, .step = best_step, .zero = best.zero};
		double step, error = error_of(s, &u, &step);

		if (error >= lowest)
			break;
		lowest = error;
		best = u;
		best_step = step;
	}
	*ret = best;
}

void uniform_fit_min_max(const struct uniform_sample *s, uint32_t bits, struct uniform *ret)
{
	double low = INFINITY, high = -INFINITY;

	*ret = (struct uniform){.bits = bits};
	for (size_t i = 0; i < s->n; i++) {
		low = fmin(low, (double)s->values[i]);
		high = fmax(high, (double)s->values[i]);
	}
	if (s->n == 0)
		return;
	/* A single number: with 0 it makes a range. */
	if (low == high) {
		low = fmin(low, 0);
		high = fmax(high, 0);
	}
	ret->step = (high - low) / (double)((1u << bits) - 1);
	if (ret->step > 0)
		ret->zero = rint(-low / ret->step);
}

double uniform_entropy(const uint64_t counts[static 1u << UNIFORM_MAX_BITS])
{
	double bits = 0, n = 0;

	for (size_t i = 0; i < 1u << UNIFORM_MAX_BITS; i++)
		n += (double)counts[i];
	for (size_t i = 0; i < 1u << UNIFORM_MAX_BITS; i++)
		if (counts[i])
			bits -= (double)counts[i] * log2((double)counts[i] / n);
	return n > 0 ? bits / n : 0;
}
