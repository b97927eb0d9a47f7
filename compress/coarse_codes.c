#include "compress/coarse_codes.h"

#include "compress/code_costs.h"

#include <math.h>
#include <string.h>

#define ROWS_PER_TASK 64u
#define N_SEARCHES 8
#define ENOUGH 0.985 /* of the bytes */
#define N_SWEEPS 2
#define SLOPE -1.5 /* of log bytes over log step, while only one point is known */

struct fit {
	const struct coarse_codes_problem *p;
	struct code_costs *costs;
	double *weights; /* of the columns */
	double step;
	float lambda; /* of a bit, over the squared step */
	int8_t *codes;
	int *errors; /* of the tasks */
};

/* Rows on their way. */
struct tile {
	const struct fit *fit;
	uint32_t first;
};

/* A step that was tried, and the share of the bytes that its part takes. */
struct probe {
	double step, share;
};

static void fit_done(struct fit *f)
{
	code_costs_free(f->costs);
	free(f->weights);
	free(f->codes);
	free(f->errors);
}

static double round_one(void *arg, uint32_t row, uint32_t column, double value)
{
	const struct tile *t = arg;
	const struct fit *f = t->fit;
	uint32_t at = t->first + row;
	int code = code_costs_cheapest(code_costs_at(f->costs, at, column),
		(float)(value / f->step), (float)f->weights[column] / f->lambda);

	f->codes[(size_t)at * f->p->place.cols + column] = (int8_t)code;
	return f->step * code;
}

static void fit_task(void *arg, size_t piece, size_t worker)
{
	struct fit *f = arg;
	uint32_t cols = f->p->place.cols;
	struct tile t = {.fit = f, .first = (uint32_t)piece * ROWS_PER_TASK};
	const struct gptq_rounding rounding = {.round = round_one, .arg = &t};
	uint32_t n_rows = (uint32_t)min_u64(ROWS_PER_TASK, f->p->place.rows - t.first);
	size_t n = (size_t)n_rows * cols;
	_cleanup_(freep) double *target = malloc((n + 1) * sizeof(*target));

	(void)worker;
	f->errors[piece] = -ENOMEM;
	if (!target)
		return;
	for (size_t i = 0; i < n; i++)
		target[i] = (double)f->p->matrix[(size_t)t.first * cols + i];
	f->errors[piece] = gptq_rows(f->p->gptq, target, 0, n_rows, &rounding);
}

/* All codes at a step, first by the costs of plain rounding, then by those of what came of it. */
static int choose_codes(struct fit *f, double step)
{
	const struct part_place *place = &f->p->place;
	size_t n_tasks = div_up(place->rows, ROWS_PER_TASK);

	f->step = step;
	for (size_t i = 0; i < (size_t)place->rows * place->cols; i++) {
		double code = rint((double)f->p->matrix[i] / step);

		f->codes[i] = (int8_t)fmax(-CODE_LIMIT, fmin(CODE_LIMIT, code));
	}
	for (int i = 0; i < N_SWEEPS; i++) {
		int r = code_costs_learn(f->costs, f->codes);

		if (r < 0)
			return r;
		pool_run(f->p->pool, fit_task, f, n_tasks);
		for (size_t task = 0; task < n_tasks; task++)
			if (f->errors[task] < 0)
				return f->errors[task];
	}
	return 0;
}

static int make_part(const struct fit *f, struct code_matrix **ret, struct part *ret_part)
{
	const struct part_place *place = &f->p->place;
	_cleanup_(code_matrix_freep) struct code_matrix *m = NULL;
	struct code_range range = {0};
	int r;

	code_range_add(&range, f->codes, (size_t)place->rows * place->cols);
	r = code_matrix_of_signed(f->codes, place->rows, place->cols, range, &m);
	if (r < 0)
		return r;
	m->step = (float)f->step;
	r = part_codes(place, m, NULL, true, ret_part);
	if (r == 0)
		*ret = take_ptr(m);
	return r;
}

/* Between the finest step that is too long and the coarsest that fits, where the line through both,
 * in logarithms, meets what is wanted; beyond the one that is known, by the usual slope. */
static double next_step(const struct probe *too_long, const struct probe *fits)
{
	const struct probe *known = fits->step > 0 ? fits : too_long;
	double wanted = log((1 + ENOUGH) / 2), slope = SLOPE, at;

	if (fits->step > 0 && too_long->step > 0) {
		double width = log(fits->step / too_long->step);

		slope = log(fits->share / too_long->share) / width;
		at = (wanted - log(too_long->share)) / slope / width;
		return too_long->step * exp(fmax(0.1, fmin(0.9, at)) * width);
	}
	return known->step * exp(fmax(-1, fmin(1, (wanted - log(known->share)) / slope)));
}

/* Tries steps; the longest part that fits is kept. */
static int search(struct fit *f, double step, struct code_matrix **ret, struct part *ret_part)
{
	struct probe too_long = {0}, fits = {0};

	for (int i = 0; i < N_SEARCHES && fits.share <= ENOUGH; i++) {
		_cleanup_(code_matrix_freep) struct code_matrix *m = NULL;
		_cleanup_(part_done) struct part part = {0};
		struct probe probe = {.step = step};
		int r = choose_codes(f, step);

		if (r == 0)
			r = make_part(f, &m, &part);
		if (r < 0)
			return r;
		probe.share = (double)part_file_bytes(&part) / (double)f->p->bytes;
		if (probe.share > 1) {
			too_long = probe;
		} else {
			struct code_matrix *worse = *ret;
			struct part worse_part = *ret_part;

			fits = probe;
			*ret = m;
			*ret_part = part;
			m = worse;
			part = worse_part;
		}
		step = (double)(float)next_step(&too_long, &fits);
	}
	return 0;
}

/* What the weights make of lambda. */
static void find_weights(struct fit *f)
{
	uint32_t cols = f->p->place.cols;
	double sum = 0;

	gptq_weights(f->p->gptq, f->weights);
	for (uint32_t c = 0; c < cols; c++)
		sum += f->weights[c] / cols;
	f->lambda = (float)(sum * M_LN2 / 6);
}

static double root_mean_square(const float *values, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)values[i] * (double)values[i];
	return n ? sqrt(sum / (double)n) : 0;
}

int coarse_codes_fit(
	const struct coarse_codes_problem *problem, struct code_matrix **ret, struct part *ret_part)
{
	uint32_t rows = problem->place.rows, cols = problem->place.cols;
	double size = root_mean_square(problem->matrix, (size_t)rows * cols);
	_cleanup_(fit_done) struct fit f = {
		.p = problem,
		.weights = malloc(((size_t)cols + 1) * sizeof(*f.weights)),
		.codes = malloc((size_t)rows * cols + 1),
		.errors = calloc(div_up(rows, ROWS_PER_TASK) + 1, sizeof(*f.errors)),
	};
	_cleanup_(code_matrix_freep) struct code_matrix *m = NULL;
	_cleanup_(part_done) struct part part = {0};
	double bits, step;
	int r = code_costs_new(rows, cols, &f.costs);

	if (r < 0 || !f.weights || !f.codes || !f.errors)
		return -ENOMEM;
	if (!isfinite(size))
		return -EDOM;
	find_weights(&f);
	bits = 8.0 * (double)problem->bytes / ((double)rows * cols);
	step = (double)(float)(size * fmax(1.5, 4 * exp2(-bits)));
	if (size > 0 && f.lambda > 0 && problem->bytes > 0)
		r = search(&f, step, &m, &part);
	if (r < 0)
		return r;
	*ret = take_ptr(m);
	*ret_part = part;
	part = (struct part){0};
	return 0;
}
