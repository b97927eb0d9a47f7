#include "compress/trial.h"

#include "compress/ldlq.h"
#include "compress/trial_parts.h"

#include <math.h>
#include <string.h>

#define TRUST 2.0 /* factor of lambda */

/* What is tried. */
static const struct trial_winner candidates[] = {
	{TRIAL_NOTHING, 0},
	{TRIAL_CODES, .7},
	{TRIAL_CODES, 1},
	{TRIAL_FACTORS, 1},
	{TRIAL_FACTORS, 1.5},
};

static void coding_done(struct trial_coding *c)
{
	free(c->codes);
	free(c->wanted);
	whitened_free(c->factors);
	*c = (struct trial_coding){.winner.codec = TRIAL_NOTHING};
}

int trial_new(const struct trial_settings *settings, struct trial **ret)
{
	struct trial *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->settings = *settings;
	t->allowed = UINT32_MAX;
	t->nothing = -1;
	*ret = t;
	return 0;
}

struct trial *trial_free(struct trial *t)
{
	if (!t)
		return NULL;
	whitened_basis_free(t->basis);
	coding_done(&t->at);
	coding_done(&t->aside);
	free(t);
	return NULL;
}

void trial_allow(struct trial *t, uint32_t allowed)
{
	coding_done(&t->at);
	t->allowed = allowed;
}

void trial_swap(struct trial *t)
{
	const struct trial_coding at = t->at;

	t->at = t->aside;
	t->aside = at;
}

static size_t n_numbers(const struct trial *t)
{
	return (size_t)t->settings.place.rows * t->settings.place.cols;
}

int trial_part(const struct trial *t, struct part *ret)
{
	const struct part_place *p = &t->settings.place;

	switch (t->at.winner.codec) {
	case TRIAL_CODES:
		return trial_codes_part(p, t->at.codes, t->at.step, ret);
	case TRIAL_FACTORS:
		return trial_factors_part(p, t->at.factors, ret);
	case TRIAL_NOTHING:
		break;
	}
	*ret = (struct part){0};
	return 0;
}

int trial_values(const struct trial *t, float *ret)
{
	if (t->at.winner.codec == TRIAL_FACTORS)
		return whitened_values(t->at.factors, ret);
	for (size_t i = 0; i < n_numbers(t); i++)
		ret[i] = t->at.winner.codec == TRIAL_CODES
				 ? (float)t->at.step * (float)t->at.codes[i]
				 : 0;
	return 0;
}

static void round_again(int8_t *codes, const float *latent, size_t n, float threshold)
{
	for (size_t i = 0; i < n; i++)
		if (codes[i] != 0 && fabsf(latent[i]) < threshold)
			codes[i] = 0;
}

void trial_round(struct trial *t, float threshold)
{
	struct whitened *w = t->at.factors;

	if (t->at.winner.codec == TRIAL_CODES)
		round_again(t->at.codes, t->at.wanted, n_numbers(t), threshold);
	if (t->at.winner.codec != TRIAL_FACTORS)
		return;
	round_again(w->u, w->latent_u, (size_t)w->n * w->rows, threshold);
	round_again(w->v, w->latent_v, (size_t)w->n * w->cols, threshold);
}

int trial_count(struct trial *t)
{
	_cleanup_(part_done) struct part part = {0};
	int r = trial_part(t, &part);

	if (r == 0)
		t->at.point.bytes = part.payload ? (double)part_file_bytes(&part) : 0;
	return r;
}

static int find_loss(struct trial *t)
{
	_cleanup_(freep) float *error = malloc((n_numbers(t) + 1) * sizeof(*error));
	int r = error ? trial_values(t, error) : -ENOMEM;

	if (r < 0)
		return r;
	for (size_t i = 0; i < n_numbers(t); i++)
		error[i] = t->settings.delta[i] - error[i];
	r = metric_loss(t->settings.codes.g, t->settings.codes.h, error, &t->at.point.loss);
	t->at.point.loss *= t->at.winner.codec == TRIAL_CODES ? TRIAL_OPTIMISM / 2 : .5;
	return r;
}

int trial_weigh(struct trial *t)
{
	int r = trial_count(t);

	return r < 0 ? r : find_loss(t);
}

static int find_nothing(struct trial *t)
{
	double twice;
	int r;

	if (t->nothing >= 0)
		return 0;
	r = metric_loss(t->settings.codes.g, t->settings.codes.h, t->settings.delta, &twice);
	if (r == 0)
		t->nothing = twice / 2;
	return r;
}

int trial_benefit(struct trial *t, double *ret)
{
	int r = find_nothing(t);

	if (r == 0)
		*ret = t->nothing - t->at.point.loss;
	return r;
}

/* The KL is half of the quadratic form, and lambda here is of a byte. */
static double form_lambda(double lambda)
{
	return 2 * lambda / 8;
}

static int code_directly(struct trial *t, double lambda)
{
	const struct trial_settings *s = &t->settings;
	size_t n = n_numbers(t);
	_cleanup_(freep) float *error = malloc((n + 1) * sizeof(*error));
	struct ldlq_problem problem = {
		.rows = s->place.rows,
		.cols = s->place.cols,
		.target = s->delta,
		.g = s->codes.g,
		.h = s->codes.h,
		.lambda = form_lambda(lambda) / TRIAL_OPTIMISM,
		.n_sweeps = LDLQ_SWEEPS,
	};
	struct ldlq result = {.error = error};
	int r;

	t->at.codes = malloc(n + 1);
	t->at.wanted = malloc((n + 1) * sizeof(*t->at.wanted));
	if (!error || !t->at.codes || !t->at.wanted)
		return -ENOMEM;
	t->at.step = (double)(float)fmax(
		t->at.winner.step * ldlq_step(problem.g, problem.h, problem.lambda),
		ldlq_least_step(s->delta, n));
	problem.step = t->at.step;
	result.codes = t->at.codes;
	result.wanted = t->at.wanted;
	r = ldlq_run(&problem, &result);
	t->at.point.loss = TRIAL_OPTIMISM * result.loss / 2;
	return r;
}

static int code_nothing(struct trial *t)
{
	int r = find_nothing(t);

	if (r == 0)
		t->at.point.loss = t->nothing;
	return r;
}

static int code_factors(struct trial *t, double lambda, struct reason *reason)
{
	const struct trial_settings *s = &t->settings;
	const struct whitened_settings settings = {
		.lambda = form_lambda(lambda),
		.coarseness = t->at.winner.step,
		.least = t->at.winner.step > 1 ? .45 : .6,
	};
	int r = 0;

	if (!t->basis)
		r = whitened_basis_new(s->delta, s->factors.g, s->factors.h, &t->basis, reason);
	if (r == 0)
		r = whitened_quantise(t->basis, &settings, &t->at.factors);
	if (r < 0)
		return r;
	if (t->at.factors->n > 0)
		return find_loss(t);
	coding_done(&t->at);
	return code_nothing(t);
}

/* Makes it stand. */
static int code_as(struct trial *t, struct trial_winner what, double lambda, struct reason *reason)
{
	int r = 0;

	coding_done(&t->at);
	t->at.winner = what;
	switch (what.codec) {
	case TRIAL_NOTHING:
		r = code_nothing(t);
		break;
	case TRIAL_CODES:
		r = code_directly(t, lambda);
		break;
	case TRIAL_FACTORS:
		r = code_factors(t, lambda, reason);
		break;
	}
	return r < 0 ? r : trial_count(t);
}

/* Everything that is allowed; the cheapest stands. */
static int explore(struct trial *t, double lambda, struct reason *reason)
{
	_cleanup_(coding_done) struct trial_coding best = {0};
	struct trial_winner winner = {0};
	double least = INFINITY;

	for (size_t i = 0; i < array_len(candidates); i++) {
		double cost;
		int r;

		if (!(t->allowed & 1u << candidates[i].codec))
			continue;
		r = code_as(t, candidates[i], lambda, reason);
		if (r < 0)
			return r;
		cost = t->at.point.loss + lambda * t->at.point.bytes;
		if (cost >= least)
			continue;
		least = cost;
		winner = candidates[i];
		coding_done(&best);
		best = t->at;
		t->at = (struct trial_coding){0};
	}
	coding_done(&t->at);
	t->at = best;
	best = (struct trial_coding){0};
	if (t->n_explored < TRIAL_MAX_EXPLORED) {
		t->explored[t->n_explored].allowed = t->allowed;
		t->explored[t->n_explored].lambda = lambda;
		t->explored[t->n_explored++].winner = winner;
	}
	return 0;
}

static const struct trial_winner *known_winner(const struct trial *t, double lambda)
{
	const struct trial_winner *found = NULL;
	double nearest = t->settled ? INFINITY : log(TRUST);

	for (uint32_t i = 0; i < t->n_explored; i++) {
		double distance = fabs(log(lambda / t->explored[i].lambda));

		if (t->explored[i].allowed == t->allowed && distance <= nearest) {
			nearest = distance;
			found = &t->explored[i].winner;
		}
	}
	return found;
}

int trial_encode(void *self, double lambda, struct rate_loss *ret, struct reason *reason)
{
	struct trial *t = self;
	const struct trial_winner *known = known_winner(t, lambda);
	int r = known ? code_as(t, *known, lambda, reason) : explore(t, lambda, reason);

	*ret = t->at.point;
	return r;
}
