#include "foreign/integers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8 /* sums that go on side by side, so that they fit a vector */

/* Steps that are tried: the largest number becomes 8 and this much more or less. */
static const float over[] = {-0.75f, 0, 0.75f, 1.5f};
/* Scales that are tried: the largest step of the sub-groups is this multiple. */
static const float largest_multiples[] = {10.5f, 10, 9.5f, 9, 8.5f, 8, 7.5f, 7};

/* Neighbouring numbers with one step, and codes from -half to half - 1. */
struct stretch {
	const float *values, *weights;
	size_t n;
	float half;
	double squares; /* of the values, weighed and summed */
};

/* What the codes of a step say of the values. */
struct moments {
	double by_values, squares; /* weighed sums of code * value and code * code */
};

/* Adding and taking away this rounds what is much smaller to an integer, ties to even. */
#define ROUNDER 0x1.8p23f

static inline float rounded(float x, float half)
{
	x = x < -half ? -half : x;
	x = x > half - 1 ? half - 1 : x;
	return (x + ROUNDER) - ROUNDER;
}

static float inverse_of(float step)
{
	float inverse = 1 / step;

	return isfinite(inverse) ? inverse : 0;
}

static double lanes_sum(float lanes[static LANES])
{
	for (size_t width = LANES / 2; width > 0; width /= 2)
		for (size_t l = 0; l < width; l++)
			lanes[l] += lanes[l + width];
	return lanes[0];
}

static struct moments moments_of(const struct stretch *s, float step)
{
	float by_values[LANES] = {0}, squares[LANES] = {0}, inverse = inverse_of(step);

	for (size_t i = 0; i < s->n; i += LANES)
		for (size_t l = 0; l < LANES; l++) {
			float value = s->values[i + l], code = rounded(value * inverse, s->half);
			float weighed = s->weights[i + l] * code;

			by_values[l] += weighed * value;
			squares[l] += weighed * code;
		}
	return (struct moments){lanes_sum(by_values), lanes_sum(squares)};
}

static double error_of(const struct stretch *s, const struct moments *m, double step)
{
	return s->squares - 2 * step * m->by_values + step * step * m->squares;
}

static struct stretch stretch_of(const float *values, const float *weights, size_t n, float half)
{
	struct stretch s = {.values = values, .weights = weights, .n = n, .half = half};

	for (size_t i = 0; i < n; i++)
		s.squares += (double)weights[i] * values[i] * values[i];
	return s;
}

/* The largest in size, with its sign. */
static float largest_of(const struct stretch *s)
{
	float largest = 0;

	for (size_t i = 0; i < s->n; i++)
		largest = fabsf(s->values[i]) > fabsf(largest) ? s->values[i] : largest;
	return largest;
}

/* The best of a few steps, refitted to its codes; 0 for zeros. */
static float best_step(const struct stretch *s)
{
	double least = s->squares;
	float best = 0, largest = largest_of(s);

	for (size_t i = 0; i < sizeof(over) / sizeof(*over); i++) {
		struct moments m = moments_of(s, -largest / (s->half + over[i]));
		double step, error;

		if (m.squares <= 0)
			continue;
		step = m.by_values / m.squares;
		error = error_of(s, &m, step);
		if (error < least) {
			least = error;
			best = (float)step;
		}
	}
	return best;
}

static uint16_t multiplier_bits(int multiplier)
{
	return (uint16_t)(abs(multiplier) - MAT_INT_MULTIPLIER) | (multiplier < 0 ? 8 : 0);
}

/* A group of four sub-groups on its way, with the best so far. */
struct search {
	struct stretch parts[MAT_INT_SUBGROUPS];
	float steps[MAT_INT_SUBGROUPS];
	double least;
	float scale;
	int multipliers[MAT_INT_SUBGROUPS];
};

/* The better of the two multipliers between which a step is. */
static int best_multiplier(const struct stretch *s, float step, float scale, struct moments *ret)
{
	float size = floorf(fabsf(step / scale));
	double least = INFINITY;
	int best = MAT_INT_MULTIPLIER;

	size = fminf(fmaxf(size, MAT_INT_MULTIPLIER), MAT_INT_MULTIPLIER + 6);
	for (int i = 0; i < 2; i++) {
		int multiplier = (step < 0) != (scale < 0) ? -((int)size + i) : (int)size + i;
		struct moments m = moments_of(s, scale * (float)multiplier);
		double error = error_of(s, &m, (double)scale * multiplier);

		if (error < least) {
			least = error;
			best = multiplier;
			*ret = m;
		}
	}
	return best;
}

/* Keeps a scale if it is better; returns the one that fits the codes that it gives. */
static float try_scale(struct search *f, float scale)
{
	int multipliers[MAT_INT_SUBGROUPS];
	struct moments all = {0, 0};
	double error = 0;

	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
		struct moments m = {0, 0};

		multipliers[s] = best_multiplier(&f->parts[s], f->steps[s], scale, &m);
		error += error_of(&f->parts[s], &m, (double)scale * multipliers[s]);
		all.by_values += m.by_values * multipliers[s];
		all.squares += m.squares * multipliers[s] * multipliers[s];
	}
	if (error < f->least) {
		f->least = error;
		f->scale = scale;
		memcpy(f->multipliers, multipliers, sizeof(multipliers));
	}
	return all.squares > 0 ? (float)(all.by_values / all.squares) : scale;
}

static float to_bf16(float x)
{
	return bf16_to_f32(bf16_from_f32(x));
}

static void search_scale(struct search *f, const float *values, const float *weights)
{
	float largest = 0;

	f->least = INFINITY;
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
		f->parts[s] = stretch_of(values + s * MAT_INT_SUBGROUP,
			weights + s * MAT_INT_SUBGROUP, MAT_INT_SUBGROUP, 8);
		f->steps[s] = best_step(&f->parts[s]);
		largest = fmaxf(largest, fabsf(f->steps[s]));
	}
	for (size_t i = 0; i < sizeof(largest_multiples) / sizeof(*largest_multiples); i++) {
		float scale = to_bf16(largest / largest_multiples[i]);

		if (scale == 0)
			continue;
		scale = to_bf16(try_scale(f, scale));
		if (scale != 0)
			try_scale(f, scale);
	}
}

static void put_codes(uint8_t *ret, const struct stretch *s, float step)
{
	float inverse = inverse_of(step);

	for (size_t i = 0; i < s->n; i++)
		ret[i] = (uint8_t)(rounded(s->values[i] * inverse, s->half) + s->half);
}

static void fit_4_bits(struct int_group *ret, const float *values, const float *weights)
{
	struct search f = {.multipliers = {MAT_INT_MULTIPLIER, MAT_INT_MULTIPLIER,
				   MAT_INT_MULTIPLIER, MAT_INT_MULTIPLIER}};

	search_scale(&f, values, weights);
	ret->scale = bf16_from_f32(f.scale);
	ret->multipliers = 0;
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
		ret->multipliers |= (uint16_t)(multiplier_bits(f.multipliers[s]) << 4 * s);
		put_codes(ret->codes + s * MAT_INT_SUBGROUP, &f.parts[s],
			f.scale * (float)f.multipliers[s]);
	}
}

static void fit_8_bits(struct int_group *ret, const float *values, const float *weights)
{
	const struct stretch s = stretch_of(values, weights, MAT_INT_GROUP, 128);
	float scale = to_bf16(best_step(&s));

	ret->scale = bf16_from_f32(scale);
	ret->multipliers = 0;
	put_codes(ret->codes, &s, scale);
}

void int_group_fit(struct int_group *ret, const float values[static MAT_INT_GROUP],
	const float *weights, uint32_t bits)
{
	static const float equal[MAT_INT_GROUP] = {[0 ... MAT_INT_GROUP - 1] = 1};

	if (bits == 4)
		fit_4_bits(ret, values, weights ? weights : equal);
	else
		fit_8_bits(ret, values, weights ? weights : equal);
}
