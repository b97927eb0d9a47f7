#include "compress/uniform.h"

#include <math.h>

#define CLIPS 20u        /* candidates for the largest level */
#define CLIP_FIRST 0.5   /* over the root mean square */
#define CLIP_GROWTH 1.16 /* the last is some 8 times the root mean square */
#define REFINEMENTS 4u   /* of the best of them by least squares */

uint32_t uniform_code(const struct uniform *u, double value)
{
	double top = (double)((1u << u->bits) - 1), code;

	if (u->step <= 0)
		return 0;
	code = value / u->step + u->zero + 0.5;
	if (code >= top)
		return (uint32_t)top;
	return code > 0 ? (uint32_t)code : 0;
}

/* The weighted squared error of a clipped grid; *ret_step is the best step for the same codes. Both
 * signs are alike, so that magnitudes do. */
static double error_of(const struct uniform_sample *s, const struct uniform *u, double *ret_step)
{
	double error = 0, cross = 0, square = 0;
	double top = u->zero - 0.5, inverse = 1 / u->step;

	for (size_t i = 0; i < s->n; i++) {
		double value = fabs((double)s->values[i]);
		double weight = s->weights ? (double)s->weights[i] : 1;
		double steps = value * inverse;
		double level = (double)(int)(steps < top ? steps : top) + 0.5;
		double miss = value - u->step * level;

		error += weight * miss * miss;
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
	/* A sign has one magnitude, which the first refinement finds. */
	uint32_t n_clips = bits > 1 ? CLIPS : 1;

	for (uint32_t i = 0; i < n_clips && clip > 0; i++, clip *= CLIP_GROWTH) {
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
	double low = 0, high = 0;

	for (size_t i = 0; i < s->n; i++) {
		low = fmin(low, (double)s->values[i]);
		high = fmax(high, (double)s->values[i]);
	}
	*ret = (struct uniform){.bits = bits};
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
