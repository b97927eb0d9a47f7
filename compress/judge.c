#include "compress/judge.h"

#include "compress/moments.h"
#include "compress/part_values.h"
#include "compress/spectrum.h"

#include <math.h>
#include <string.h>

/* Sizes of a matrix: by itself, and by what it makes of the inputs of the two texts. */
struct sizes {
	double norm, calibration, held_out;
};

/* NaN stays: where inputs overflow nothing is known. */
static double square_root(double energy)
{
	return energy <= 0 ? 0 : sqrt(energy);
}

static double norm_of(const float *values, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)values[i] * (double)values[i];
	return sqrt(sum);
}

static int measure(
	const struct method_group *g, const float *values, uint32_t rows, struct sizes *ret)
{
	double held_out;
	int r;

	r = moments_energy(g->pool, g->held_out, values, rows, g->cols, &held_out);
	if (r < 0)
		return r;
	*ret = (struct sizes){
		.norm = norm_of(values, (size_t)rows * g->cols),
		.calibration = (double)NAN,
		.held_out = square_root(held_out),
	};
	return 0;
}

/* Only asked of the change and of what all parts together have missed. */
static int measure_calibration(
	const struct method_group *g, const float *values, uint32_t rows, struct sizes *sizes)
{
	double calibration;
	int r;

	if (!g->moments)
		return 0;
	r = moments_energy(g->pool, g->moments, values, rows, g->cols, &calibration);
	if (r < 0)
		return r;
	sizes->calibration = square_root(calibration);
	return 0;
}

/* An error where there was nothing to miss is all or nothing; NaN where numbers overflow. */
static double share(double error, double whole)
{
	if (!isfinite(error) || !isfinite(whole))
		return (double)NAN;
	return whole > 0 ? error / whole : error > 0;
}

static struct judgement judge(const struct sizes *error, const struct sizes *whole)
{
	return (struct judgement){
		.weight_error = share(error->norm, whole->norm),
		.calibration_error = share(error->calibration, whole->calibration),
		.held_out_error = share(error->held_out, whole->held_out),
	};
}

static void find_error(const struct method_matrix *m, const float *weights, float *ret)
{
	for (size_t i = 0; i < (size_t)m->rows * m->cols; i++)
		ret[i] = (float)((double)m->delta[i] - ((double)weights[i] - (double)m->base[i]));
}

/* Fine-tunes in bf16 leave many weights as they were: it decides whether leaving numbers out or
 * coding them sparsely is worth more. */
static uint16_t unchanged_share(const float *delta, size_t n)
{
	size_t zeros = 0;

	for (size_t i = 0; i < n; i++)
		zeros += delta[i] == 0;
	return (uint16_t)lround((double)zeros / (double)n * (QUALITY_UNMEASURED - 1));
}

/* Zeros, as for what is not known, where the change overflows. */
static int measure_spectrum(const struct method_matrix *m, double norm,
	uint8_t ret[static FORMAT_SPECTRUM], struct reason *reason)
{
	int r;

	memset(ret, 0, FORMAT_SPECTRUM);
	if (!isfinite(norm))
		return 0;
	r = spectrum_measure(m->delta, m->rows, m->cols, ret);
	return r == -EDOM ? reason_set(reason, r, "%s: its singular values cannot be found",
				    tensor_role_name(m->role))
			  : r;
}

int judge_matrix(const struct method_group *group, struct method_matrix *m, float *ret_weights,
	struct judgement *ret, struct reason *reason)
{
	size_t n = (size_t)m->rows * m->cols;
	_cleanup_(freep) float *error = malloc((n + 1) * sizeof(*error));
	struct sizes whole, missed;
	uint8_t spectrum[FORMAT_SPECTRUM];
	uint16_t unchanged;
	double base;
	int r;

	if (!error)
		return -ENOMEM;
	memcpy(ret_weights, m->base, n * sizeof(*ret_weights));
	r = measure(group, m->delta, m->rows, &whole);
	if (r == 0)
		r = measure_calibration(group, m->delta, m->rows, &whole);
	if (r == 0)
		r = measure_spectrum(m, whole.norm, spectrum, reason);
	if (r < 0)
		return r;
	base = norm_of(m->base, n);
	unchanged = unchanged_share(m->delta, n);
	*ret = judge(&whole, &whole);
	for (uint32_t i = 0; i < m->n_parts; i++) {
		struct tensor_quality *q = &m->parts[i].quality;

		r = part_apply(group->pool, &m->parts[i], ret_weights, reason);
		if (r < 0)
			return r;
		find_error(m, ret_weights, error);
		r = measure(group, error, m->rows, &missed);
		if (r == 0 && i + 1 == m->n_parts)
			r = measure_calibration(group, error, m->rows, &missed);
		if (r < 0)
			return r;
		*ret = judge(&missed, &whole);
		q->weight_error = (float)ret->weight_error;
		q->activation_error = (float)ret->held_out_error;
		q->delta_norm = (float)share(whole.norm, base);
		q->unchanged = unchanged;
		memcpy(q->spectrum, spectrum, sizeof(q->spectrum));
	}
	return 0;
}
