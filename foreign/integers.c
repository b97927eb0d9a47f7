#include "foreign/integers.h"

#include <math.h>
#include <string.h>

#define LANES 8 /* sums that go on side by side, so that they fit a vector */

/* Adding and taking away this rounds what is much smaller to an integer, ties to even. */
#define ROUNDER 0x1.8p23f

static inline float rounded(float x, float least, float most)
{
	x = x < least ? least : x;
	x = x > most ? most : x;
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

static float to_bf16(float x)
{
	return bf16_to_f32(bf16_from_f32(x));
}

/* What numbers say of the values that they stand for. */
struct moments {
	double by_values, squares; /* weighed sums of number * value and number * number */
};

/* 8 bits: the largest number becomes 128 and this much more or less. */
static const float over[] = {-0.75f, 0, 0.75f, 1.5f};

static struct moments moments_of_8(const float *values, const float *weights, float scale)
{
	float by_values[LANES] = {0}, squares[LANES] = {0}, inverse = inverse_of(scale);

	for (size_t i = 0; i < MAT_INT_GROUP; i += LANES)
		for (size_t l = 0; l < LANES; l++) {
			float value = values[i + l], code = rounded(value * inverse, -128, 127);
			float weighed = weights[i + l] * code;

			by_values[l] += weighed * value;
			squares[l] += weighed * code;
		}
	return (struct moments){lanes_sum(by_values), lanes_sum(squares)};
}

/* The largest in size, with its sign. */
static float largest_of(const float *values)
{
	float largest = 0;

	for (size_t i = 0; i < MAT_INT_GROUP; i++)
		largest = fabsf(values[i]) > fabsf(largest) ? values[i] : largest;
	return largest;
}

/* The best of a few scales, refitted to its codes; 0 for zeros. */
static float best_scale_of_8(const float *values, const float *weights)
{
	double all = 0, least;
	float best = 0, largest = largest_of(values);

	for (size_t i = 0; i < MAT_INT_GROUP; i++)
		all += (double)weights[i] * values[i] * values[i];
	least = all;

	for (size_t i = 0; i < sizeof(over) / sizeof(*over); i++) {
		struct moments m = moments_of_8(values, weights, -largest / (128 + over[i]));

		double scale, error;

		if (m.squares <= 0)
			continue;
		scale = m.by_values / m.squares;
		error = all - 2 * scale * m.by_values + scale * scale * m.squares;
		if (error < least) {
			least = error;
			best = (float)scale;
		}
	}
	return best;
}

static void fit_8_bits(struct int_group *ret, const float *values, const float *weights)
{
	float scale = to_bf16(best_scale_of_8(values, weights)), inverse = inverse_of(scale);

	ret->scale = bf16_from_f32(scale);
	for (size_t i = 0; i < MAT_INT_GROUP; i++)
		ret->codes[i] = (uint8_t)(rounded(values[i] * inverse, -128, 127) + 128);
}

/* 4 bits: scales that are tried, as multiples of that whose largest step is what the sub-group that
 * needs most needs. */
static const float multiples[] = {1.25f, 1.2f, 1.15f, 1.1f, 1.05f, 1, 0.95f};
#define LARGEST_STEP 13
#define LARGEST_ZERO 9.25f /* and 15 less the least */
#define TRIED_STEPS 3      /* from the largest that is no larger than what is needed */
#define TRIED_ZEROS 2      /* around that which puts the middle of the range in the middle */

/* A group on its way. Sub-groups stand side by side: what is said of them is so many numbers. */
struct search {
	float values[MAT_INT_SUBGROUP][MAT_INT_SUBGROUPS];
	float weights[MAT_INT_SUBGROUP][MAT_INT_SUBGROUPS];
	/* The step that reaches the least and the largest number, had it any zero between the
	 * least and the largest that there are; the middle between the numbers. */
	float need[MAT_INT_SUBGROUPS], middle[MAT_INT_SUBGROUPS];
	/* The best so far. */
	double least;
	float scale;
	uint8_t grids[MAT_INT_SUBGROUPS];
};

/* A grid of each sub-group, in units of the scale: as mat_int_step() and mat_int_offset() have it,
 * in a form for vectors. */
struct grids {
	int32_t step[MAT_INT_SUBGROUPS], zero[MAT_INT_SUBGROUPS]; /* which */
	float size[MAT_INT_SUBGROUPS];                            /* of the step */
};

static void search_init(struct search *f, const float *values, const float *weights)
{
	f->least = INFINITY;
	f->scale = 0;
	memset(f->grids, 0, sizeof(f->grids));
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
		float low = 0, high = 0;

		for (size_t i = 0; i < MAT_INT_SUBGROUP; i++) {
			float value = values[s * MAT_INT_SUBGROUP + i];

			f->values[i][s] = value;
			f->weights[i][s] = weights[s * MAT_INT_SUBGROUP + i];
			low = value < low ? value : low;
			high = value > high ? value : high;
		}
		f->need[s] = fmaxf(high / 15 - low / 15, fmaxf(-low, high) / LARGEST_ZERO);
		f->middle[s] = high / 2 + low / 2;
	}
}

/* Where it says unroll 1, loops over sub-groups stay loops until vectors are made of them. */

/* Steps number `i` of those that are tried, each with the first of its zeros. */
static void grids_near(struct grids *ret, const struct search *f, float inverse, int i)
{
#pragma GCC unroll 1
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
		float need = f->need[s] * inverse, quarters;
		int32_t step = i;

		/* The first is 5, or the largest up to 10 that is no larger than what is needed. */
		for (int larger = 6; larger <= 10; larger++)
			step += need >= (float)larger;
		ret->step[s] = step;
		ret->size[s] = (float)(step + 5 + (step == MAT_INT_N_STEPS - 1));
		quarters = 30 - 4 * f->middle[s] * inverse / ret->size[s] - MAT_INT_LEAST_ZERO;
		quarters = quarters < 0 ? 0 : quarters;
		quarters = quarters > 2 * (MAT_INT_N_ZEROS - TRIED_ZEROS)
				   ? 2 * (MAT_INT_N_ZEROS - TRIED_ZEROS)
				   : quarters;
		ret->zero[s] = (int32_t)(quarters / 2);
	}
}

/* The code, not yet as an integer, of a value in units of the scale that has the offset added. */
static inline float code_of(float value, float step_inverse)
{
	return rounded(value * step_inverse, 0, 15);
}

/* What each sub-group loses, in units of the scale. */
static void errors_of(float ret[static MAT_INT_SUBGROUPS], const struct search *f, float inverse,
	const struct grids *g)
{
	float step_inverse[MAT_INT_SUBGROUPS], offset[MAT_INT_SUBGROUPS];
	float errors[MAT_INT_SUBGROUPS] = {0};

#pragma GCC unroll 1
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
		float quarters = g->size[s] * (float)(MAT_INT_LEAST_ZERO + 2 * g->zero[s]);

		offset[s] = (float)((int32_t)(quarters + 2) >> 2);
		step_inverse[s] = 1 / g->size[s];
	}
	for (size_t i = 0; i < MAT_INT_SUBGROUP; i++)
#pragma GCC unroll 1
		for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
			float value = f->values[i][s] * inverse + offset[s];
			float error = code_of(value, step_inverse[s]) * g->size[s] - value;

			errors[s] += f->weights[i][s] * error * error;
		}
	memcpy(ret, errors, sizeof(errors));
}

/* What is best for a scale. */
struct choice {
	float least[MAT_INT_SUBGROUPS];
	int32_t grids[MAT_INT_SUBGROUPS];
};

static void try_grids(
	struct choice *best, const struct search *f, float inverse, const struct grids *g)
{
	float errors[MAT_INT_SUBGROUPS];

	errors_of(errors, f, inverse, g);
#pragma GCC unroll 1
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
		int32_t grid = g->step[s] | g->zero[s] << 3;

		best->grids[s] = errors[s] < best->least[s] ? grid : best->grids[s];
		best->least[s] = errors[s] < best->least[s] ? errors[s] : best->least[s];
	}
}

/* Finds the grids for a scale and keeps both if they are better. */
static void try_scale(struct search *f, float scale)
{
	float inverse = inverse_of(scale);
	struct choice best = {.least = {[0 ... MAT_INT_SUBGROUPS - 1] = INFINITY}};
	double error = 0;

	for (int i = 0; i < TRIED_STEPS; i++) {
		struct grids g;

		grids_near(&g, f, inverse, i);
		for (int zero = 0; zero < TRIED_ZEROS; zero++) {
			try_grids(&best, f, inverse, &g);
			for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++)
				g.zero[s]++;
		}
	}
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++)
		error += (double)best.least[s] * (double)scale * (double)scale;
	if (error < f->least) {
		f->least = error;
		f->scale = scale;
		for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++)
			f->grids[s] = (uint8_t)best.grids[s];
	}
}

static void put_best(struct int_group *ret, const struct search *f)
{
	float inverse = inverse_of(f->scale);

	ret->scale = bf16_from_f32(f->scale);
	memcpy(ret->grids, f->grids, sizeof(f->grids));
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
		float step_inverse = 1 / (float)mat_int_step(f->grids[s]),
		      offset = (float)mat_int_offset(f->grids[s]);

		for (size_t i = 0; i < MAT_INT_SUBGROUP; i++)
			ret->codes[s * MAT_INT_SUBGROUP + i] =
				(uint8_t)code_of(f->values[i][s] * inverse + offset, step_inverse);
	}
}

/* The scale that fits the codes, as they are, best. */
static float refitted(const struct int_group *g, const float *values, const float *weights)
{
	struct moments m = {0, 0};

	for (size_t i = 0; i < MAT_INT_GROUP; i++) {
		uint8_t grid = g->grids[i / MAT_INT_SUBGROUP];
		double number = mat_int_step(grid) * g->codes[i] - mat_int_offset(grid);

		m.by_values += (double)weights[i] * number * (double)values[i];
		m.squares += (double)weights[i] * number * number;
	}
	return m.squares > 0 ? (float)(m.by_values / m.squares) : 0;
}

static void fit_4_bits(struct int_group *ret, const float *values, const float *weights)
{
	struct search f;
	float most = 0, scale;

	search_init(&f, values, weights);
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++)
		most = fmaxf(most, f.need[s]);
	for (size_t i = 0; i < sizeof(multiples) / sizeof(*multiples); i++) {
		scale = to_bf16(most / LARGEST_STEP * multiples[i]);
		if (scale > 0)
			try_scale(&f, scale);
	}
	put_best(ret, &f);
	scale = to_bf16(refitted(ret, values, weights));
	if (scale > 0)
		try_scale(&f, scale);
	put_best(ret, &f);
}

void int_group_fit(struct int_group *ret, const float values[static MAT_INT_GROUP],
	const float *weights, uint32_t bits)
{
	static const float equal[MAT_INT_GROUP] = {[0 ... MAT_INT_GROUP - 1] = 1};

	memset(ret->grids, 0, sizeof(ret->grids));
	if (bits == 4)
		fit_4_bits(ret, values, weights ? weights : equal);
	else
		fit_8_bits(ret, values, weights ? weights : equal);
}
