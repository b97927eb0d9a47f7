#include "compress/auto_keep.h"
#include "compress/auto_levels.h"
#include "compress/auto_run.h"

#include "compress/methods.h"

#include <math.h>

#define COMPONENTS_BITS 0.5
#define DIRECT_BITS 1.6
#define SLACK 0.01
#define FIRST_LAMBDA 1e-7
#define KEEP_NEAREST 1.1 /* a score has steps: sizes nearer than 3 % cannot be told apart */
#define SAMPLES 48u      /* rows, columns */

/* Bits that a matrix takes by the theory of fine grids: for each number half a logarithm of its
 * energy over that of the errors, which at form_lambda (compress/trial.c) are lambda / (8 ln 2).
 * Some rows and columns speak for all. */
static double expected_bits(const struct trial *t, double lambda)
{
	const struct trial_settings *s = &t->settings;
	uint32_t rows = s->place.rows, cols = s->place.cols;
	uint32_t row_stride = (uint32_t)div_up(rows, SAMPLES),
		 col_stride = (uint32_t)div_up(cols, SAMPLES);
	double energy = 0, bits = 0, n_rows = div_up(rows, row_stride), n = 0;

	for (uint32_t r = 0; r < rows; r += row_stride)
		for (uint32_t c = 0; c < cols; c++)
			energy += (double)s->delta[(size_t)r * cols + c] *
				  (double)s->delta[(size_t)r * cols + c];
	energy /= n_rows * cols;
	for (uint32_t r = 0; r < rows; r += row_stride)
		for (uint32_t c = 0; c < cols; c += col_stride, n++)
			bits += fmax(0, .5 * log2(8 * M_LN2 * energy * s->codes.g->weights[r] *
						     s->codes.h->weights[c] / lambda));
	return bits / n * rows * cols;
}

/* Where codes may be about as large as wanted: each wrong guess costs a round of coding. */
static double first_lambda(const struct auto_run *a)
{
	double low = log(FIRST_LAMBDA) - 16, high = log(FIRST_LAMBDA) + 16;

	for (int i = 0; a->budget > 0 && i < 20; i++) {
		double middle = (low + high) / 2, bits = 0;

		for (size_t k = 0; k < a->n_trials; k++)
			bits += expected_bits(a->trials[k], exp(middle));
		if (bits > 8 * a->budget)
			low = middle;
		else
			high = middle;
	}
	return exp((low + high) / 2);
}

static struct allocate_settings allocate_settings_of(const struct auto_run *a)
{
	return (struct allocate_settings){
		.tensors = a->tensors,
		.n = a->n_trials + a->shared,
		.pool = a->model->pool,
		.progress = a->model->progress,
		.stage = "allocating",
		.first = a->allocation.lambda,
		.slack = SLACK,
		.nearest = a->keep ? KEEP_NEAREST : 0,
	};
}

static void allow(struct auto_run *a, uint32_t codecs)
{
	for (size_t i = 0; i < a->n_trials; i++)
		trial_allow(a->trials[i], codecs);
}

static void swap_all(struct auto_run *a)
{
	for (size_t i = 0; i < a->n_trials; i++)
		trial_swap(a->trials[i]);
}

/* What a projection may choose from: everything, unless its bits say what would win. */
static uint32_t codecs_of(const struct auto_run *a)
{
	double bits = 8 * a->budget / a->n_weights;
	bool known = a->budget > 0 && !a->shared;

	if (known && bits <= COMPONENTS_BITS)
		return 1u << TRIAL_NOTHING | 1u << TRIAL_FACTORS;
	if (known && bits >= DIRECT_BITS)
		return 1u << TRIAL_NOTHING | 1u << TRIAL_CODES;
	return 1u << TRIAL_NOTHING | 1u << TRIAL_FACTORS | 1u << TRIAL_CODES;
}

static int allocate(
	struct auto_run *a, const struct allocate_settings *settings, struct reason *reason)
{
	const struct method_options *o = a->model->options;
	int r;

	if (a->budget > 0)
		return allocate_bytes(settings, a->budget, &a->allocation, reason);
	if (a->keep)
		r = allocate_quality(
			settings, auto_keep_loss, a->keep, 1 - o->keep, &a->allocation, reason);
	else
		r = allocate_quality(settings, auto_measure, a, o->max_kl, &a->allocation, reason);
	return r == -ERANGE ? reason_prefix(reason, r, "no codes lose as little as %s allows",
				      a->keep ? "keep" : "max-kl")
			    : r;
}

/* Near what was found with another price of embedding and head. */
static int allocate_again(struct auto_run *a, struct reason *reason)
{
	struct allocate_settings settings = allocate_settings_of(a);
	struct outer_worth worth;
	int r = auto_price_outer(a, &settings, settings.first, &worth, reason);

	return r < 0 ? r : allocate(a, &settings, reason);
}

int auto_code(struct auto_run *a, struct reason *reason)
{
	struct allocate_settings settings = allocate_settings_of(a);
	int r;

	settings.first = first_lambda(a);
	allow(a, codecs_of(a));
	r = allocate(a, &settings, reason);
	if (r == 0 && a->shared)
		r = allocate_again(a, reason);
	if (r == 0 && a->model->outer)
		r = outer_encode(a->model->outer, a->allocation.lambda, &a->outer, reason);
	return r < 0 ? r : auto_measure(a, &a->kl, reason);
}

static void add_point(struct auto_run *a, double bytes, double kl)
{
	a->points[a->n_points++] = (struct rate_point){.bits = 8 * bytes / a->n_weights, .kl = kl};
}

/* Coarser and finer ones of what stands, in the ways that won, while it is aside. */
int auto_draw_curve(struct auto_run *a, struct reason *reason)
{
	static const double factors[] = {16, 4, 1. / 4, 1. / 16};
	const struct allocate_settings settings = allocate_settings_of(a);
	const struct tune_settings tune = auto_tune_settings(a);
	double bytes = auto_projection_bytes(a);
	int r = 0;

	swap_all(a);
	allow(a, codecs_of(a));
	for (size_t i = 0; i < a->n_trials; i++)
		a->trials[i]->settled = true;
	for (size_t i = 0; r == 0 && i < array_len(factors); i++) {
		struct rate_loss sum;
		double kl;

		r = allocate_at(&settings, factors[i] * a->allocation.lambda, &sum, reason);
		if (r == 0)
			r = auto_measure(a, &kl, reason);
		if (r == 0)
			add_point(a, auto_projection_bytes(a), kl);
	}
	allow(a, codecs_of(a));
	swap_all(a);
	add_point(a, bytes, a->kl);
	if (r == 0 && a->model->outer)
		r = outer_encode(a->model->outer, a->allocation.lambda, &a->outer, reason);
	if (r == 0)
		r = tune_install(&tune);
	return r < 0 ? r : auto_take_outer(a);
}

/* What is there to be coded, and in how many bytes. */
int auto_set_budget(struct auto_run *a, struct reason *reason)
{
	const struct method_model *model = a->model;
	const struct method_options *o = model->options;

	a->shared = model->outer && (o->file_ratio > 0 || o->max_kl > 0 || o->keep > 0);
	if (o->file_ratio > 0)
		a->budget = model->room;
	else if (!(o->max_kl > 0) && !(o->keep > 0))
		a->budget = 2 * a->n_weights / method_ratio(&method_auto, o);
	if (codecs_of(a) & 1u << TRIAL_FACTORS)
		a->reserve = auto_levels_reserve(a->budget, a->n_trials);
	a->budget -= a->reserve;
	if (a->shared)
		a->tensors[a->n_trials] =
			(struct allocate_tensor){.encode = outer_encode, .self = model->outer};
	return model->outer ? auto_sense_outer(a, reason) : 0;
}
