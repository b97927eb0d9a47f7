#include "compress/tune.h"

#include "compress/code_costs.h"
#include "kernels/blas.h"

#include <math.h>
#include <string.h>

#define BATCH_JUDGED 1024u /* tokens of a step */
#define BATCH_READ 3072u
#define HINT .8f /* how much of what rounding lost direct codes remember */

/* One set of codes with the numbers behind it; all are the trial's. */
struct latents {
	uint32_t rows, cols;
	int8_t *codes;
	float *values;
	float *rounded; /* codes as numbers; ours */
};

/* A trial in training. Direct codes: one set, one scale; components: u, v, and a scale each. */
struct member {
	struct trial *trial;
	struct latents sets[2];
	size_t n_sets;
	float *scales; /* logarithms of what sigma or step is multiplied with */
	size_t n_scales;
	size_t first_group;
	const float *base; /* weights */
	float *weights;
	int error;
};

struct tune {
	const struct tune_settings *settings;
	struct member *members;
	size_t n_members;
	struct distil_group *groups;
	size_t n_groups, first_norm;
	float **beginnings; /* of the groups */
	/* For the workers. */
	const struct dense_model *gradients;
	float *const *group_gradients;
};

static void tune_done(struct tune *t)
{
	for (size_t i = 0; t->members && i < t->n_members; i++) {
		for (size_t k = 0; k < t->members[i].n_sets; k++)
			free(t->members[i].sets[k].rounded);
		free(t->members[i].scales);
	}
	for (size_t i = 0; t->beginnings && i < t->n_groups; i++)
		free(t->beginnings[i]);
	free(t->beginnings);
	free(t->members);
	free(t->groups);
}

static size_t size_of(const struct latents *l)
{
	return (size_t)l->rows * l->cols;
}

static bool is_direct(const struct member *m)
{
	return m->trial->at.winner.codec == TRIAL_CODES;
}

static int add_set(struct member *m, struct latents set)
{
	struct latents *l = &m->sets[m->n_sets++];

	*l = set;
	l->rounded = malloc((size_of(l) + 1) * sizeof(float));
	return l->rounded ? 0 : -ENOMEM;
}

/* Feedback may have asked for far more than half a step. */
static void soften(struct latents *l)
{
	for (size_t i = 0; i < size_of(l); i++) {
		float lost = l->values[i] - l->codes[i];

		l->values[i] = l->codes[i] + HINT * fminf(fmaxf(lost, -.5f), .5f);
	}
}

static int member_new(const struct tune *t, struct trial *trial, struct member *ret)
{
	const struct part_place *p = &trial->settings.place;
	struct whitened *w = trial->at.factors;
	int r;

	*ret = (struct member){
		.trial = trial,
		.base = t->settings->base->layers[p->layer].at[p->role],
		.weights = t->settings->weights->layers[p->layer].at[p->role],
		.n_scales = 1,
	};
	if (is_direct(ret)) {
		r = add_set(ret, (struct latents){p->rows, p->cols, trial->at.codes,
					 trial->at.wanted, NULL});
		soften(&ret->sets[0]);
	} else {
		r = add_set(ret, (struct latents){w->n, p->rows, w->u, w->latent_u, NULL});
		if (r == 0)
			r = add_set(ret, (struct latents){w->n, p->cols, w->v, w->latent_v, NULL});
		ret->n_scales = w->n;
	}
	if (r < 0)
		return r;
	ret->scales = calloc(ret->n_scales + 1, sizeof(float));
	return ret->scales ? 0 : -ENOMEM;
}

/* In steps of the grid. 0: the codes stay. */
static double code_rate(const struct tune_settings *s, bool direct)
{
	if (s->freeze)
		return 0;
	if (!direct)
		return fmin(fmax(.0045 * pow(s->bits, -.7), .003), .05);
	return s->bits < 1.2 ? .006 : s->bits < TUNE_MOST_BITS ? .003 : 0;
}

static void add_group(struct tune *t, float *values, size_t n, double rate)
{
	t->groups[t->n_groups++] = (struct distil_group){.values = values, .n = n, .rate = rate};
}

static void add_member_groups(struct tune *t, struct member *m)
{
	double rate = code_rate(t->settings, is_direct(m));

	m->first_group = t->n_groups;
	for (size_t k = 0; k < m->n_sets; k++)
		add_group(t, m->sets[k].values, size_of(&m->sets[k]), rate);
	add_group(t, m->scales, m->n_scales, is_direct(m) ? .01 : .003);
}

static const enum tensor_role norm_roles[] = {ROLE_ATTN_NORM, ROLE_FFN_NORM};

static void add_norm_groups(struct tune *t, bool direct)
{
	const struct dense_model *w = t->settings->weights;

	t->first_norm = t->n_groups;
	for (uint32_t l = 0; l < w->config.n_layers; l++)
		for (size_t i = 0; i < array_len(norm_roles); i++)
			add_group(t, w->layers[l].at[norm_roles[i]],
				dense_count(w, norm_roles[i], l), direct ? .002 : .0005);
}

static int keep_beginnings(struct tune *t)
{
	t->beginnings = calloc(t->n_groups + 1, sizeof(*t->beginnings));
	if (!t->beginnings)
		return -ENOMEM;
	for (size_t i = 0; i < t->n_groups; i++) {
		size_t n = t->groups[i].n * sizeof(float);

		t->beginnings[i] = malloc(n + 1);
		if (!t->beginnings[i])
			return -ENOMEM;
		memcpy(t->beginnings[i], t->groups[i].values, n);
	}
	return 0;
}

static int list_members(struct tune *t)
{
	const struct tune_settings *s = t->settings;
	size_t n_direct = 0;

	t->members = calloc(s->n_trials + 1, sizeof(*t->members));
	t->groups = calloc(
		3 * s->n_trials + 2 * (size_t)s->weights->config.n_layers + 1, sizeof(*t->groups));
	if (!t->members || !t->groups)
		return -ENOMEM;
	for (size_t i = 0; i < s->n_trials; i++) {
		struct member *m = &t->members[t->n_members];
		int r;

		if (s->trials[i]->at.winner.codec == TRIAL_NOTHING)
			continue;
		t->n_members++;
		r = member_new(t, s->trials[i], m);
		if (r < 0)
			return r;
		n_direct += is_direct(m);
		add_member_groups(t, m);
	}
	add_norm_groups(t, 2 * n_direct > t->n_members);
	return keep_beginnings(t);
}

static float scale_of(const struct member *m, size_t i)
{
	return expf(m->scales[i]) *
	       (is_direct(m) ? (float)m->trial->at.step : m->trial->at.factors->sigma[i]);
}

static void round_set(struct latents *l)
{
	for (size_t i = 0; i < size_of(l); i++) {
		float nearest = rintf(fminf(fmaxf(l->values[i], -CODE_LIMIT), CODE_LIMIT));

		l->codes[i] = (int8_t)nearest;
		l->rounded[i] = nearest;
	}
}

/* Each component times its scale. */
static float *scaled_rows(const struct latents *l, const struct member *m)
{
	float *rows = malloc((size_of(l) + 1) * sizeof(*rows));

	for (uint32_t i = 0; rows && i < l->rows; i++) {
		float scale = scale_of(m, i);

		for (uint32_t k = 0; k < l->cols; k++)
			rows[(size_t)i * l->cols + k] = scale * l->rounded[(size_t)i * l->cols + k];
	}
	return rows;
}

/* W = base + sum sigma u v^T. */
static int add_components(const struct member *m)
{
	const struct latents *u = &m->sets[0], *v = &m->sets[1];
	const struct blas_gemm gemm = {
		.m = u->cols,
		.n = v->cols,
		.k = u->rows,
		.transpose_a = true,
		.alpha = 1,
		.beta = 1,
	};
	_cleanup_(freep) float *scaled = scaled_rows(u, m);

	if (!scaled)
		return -ENOMEM;
	blas_gemm_f32(&gemm, scaled, v->rounded, m->weights);
	return 0;
}

static void materialise_member(void *arg, size_t piece, size_t worker)
{
	struct tune *t = arg;
	struct member *m = &t->members[piece];
	const struct part_place *p = &m->trial->settings.place;
	size_t n = (size_t)p->rows * p->cols;

	(void)worker;
	for (size_t i = 0; i < m->n_sets; i++)
		round_set(&m->sets[i]);
	memcpy(m->weights, m->base, n * sizeof(float));
	m->error = 0;
	if (!is_direct(m))
		m->error = add_components(m);
	else
		for (size_t i = 0; i < n; i++)
			m->weights[i] += scale_of(m, 0) * m->sets[0].rounded[i];
}

static int first_error(const struct tune *t)
{
	for (size_t i = 0; i < t->n_members; i++)
		if (t->members[i].error < 0)
			return t->members[i].error;
	return 0;
}

static int materialise(void *user, struct dense_model *weights, struct reason *reason)
{
	struct tune *t = user;

	(void)weights;
	(void)reason;
	pool_run(t->settings->pool, materialise_member, t, t->n_members);
	return first_error(t);
}

static void pull_codes(const struct member *m, const float *dw, float *const *ret)
{
	const struct latents *l = &m->sets[0];
	float step = scale_of(m, 0);
	double by_step = 0;

	for (size_t i = 0; i < size_of(l); i++) {
		by_step += (double)dw[i] * (double)l->rounded[i];
		ret[0][i] = step * dw[i];
	}
	ret[1][0] = (float)(by_step * (double)step);
}

/* dU = sigma V dW^T, dV = sigma U dW, d ln sigma = sigma U dW V^T. */
static int pull_factors(const struct member *m, const float *dw, float *const *ret)
{
	const struct latents *u = &m->sets[0], *v = &m->sets[1];
	const struct blas_gemm to_v = {.m = u->rows, .n = v->cols, .k = u->cols, .alpha = 1};
	const struct blas_gemm to_u = {
		.m = u->rows, .n = u->cols, .k = v->cols, .transpose_b = true, .alpha = 1};
	_cleanup_(freep) float *scaled_u = scaled_rows(u, m);
	_cleanup_(freep) float *scaled_v = scaled_rows(v, m);

	if (!scaled_u || !scaled_v)
		return -ENOMEM;
	blas_gemm_f32(&to_v, scaled_u, dw, ret[1]);
	blas_gemm_f32(&to_u, scaled_v, dw, ret[0]);
	for (uint32_t i = 0; i < u->rows; i++) {
		const float *dv = ret[1] + (size_t)i * v->cols;
		double sum = 0;

		for (uint32_t k = 0; k < v->cols; k++)
			sum += (double)dv[k] * (double)v->rounded[(size_t)i * v->cols + k];
		ret[2][i] = (float)sum;
	}
	return 0;
}

static void pull_member(void *arg, size_t piece, size_t worker)
{
	struct tune *t = arg;
	struct member *m = &t->members[piece];
	const struct part_place *p = &m->trial->settings.place;
	const float *dw = t->gradients->layers[p->layer].at[p->role];

	(void)worker;
	m->error = 0;
	if (is_direct(m))
		pull_codes(m, dw, t->group_gradients + m->first_group);
	else
		m->error = pull_factors(m, dw, t->group_gradients + m->first_group);
}

static int pull_back(
	void *user, const struct dense_model *gradients, float *const *ret, struct reason *reason)
{
	struct tune *t = user;
	size_t group = t->first_norm;

	(void)reason;
	t->gradients = gradients;
	t->group_gradients = ret;
	pool_run(t->settings->pool, pull_member, t, t->n_members);
	for (uint32_t l = 0; l < gradients->config.n_layers; l++)
		for (size_t i = 0; i < array_len(norm_roles); i++, group++)
			memcpy(ret[group], gradients->layers[l].at[norm_roles[i]],
				t->groups[group].n * sizeof(float));
	return first_error(t);
}

/* The trials' sigmas and steps take over what was learned; the codes stand there already. */
static void hand_over(struct tune *t)
{
	for (size_t i = 0; i < t->n_members; i++) {
		struct member *m = &t->members[i];

		if (is_direct(m)) {
			m->trial->at.step = (double)scale_of(m, 0);
			continue;
		}
		for (size_t k = 0; k < m->n_scales; k++)
			m->trial->at.factors->sigma[k] = scale_of(m, k);
	}
}

static int revert(struct tune *t)
{
	for (size_t i = 0; i < t->n_groups; i++)
		memcpy(t->groups[i].values, t->beginnings[i], t->groups[i].n * sizeof(float));
	return materialise(t, t->settings->weights, NULL);
}

int tune_install(const struct tune_settings *s)
{
	for (size_t i = 0; i < s->n_trials; i++) {
		const struct part_place *p = &s->trials[i]->settings.place;
		const float *base = s->base->layers[p->layer].at[p->role];
		float *w = s->weights->layers[p->layer].at[p->role];
		int r = trial_values(s->trials[i], w);

		if (r < 0)
			return r;
		for (size_t k = 0; k < (size_t)p->rows * p->cols; k++)
			w[k] += base[k];
	}
	return 0;
}

static int train(struct tune *t, struct tune_report *report, struct reason *reason)
{
	const struct tune_settings *s = t->settings;
	struct distil_settings distil = distil_defaults;
	const struct distil_target target = {
		.groups = t->groups,
		.n_groups = t->n_groups,
		.materialise = materialise,
		.pull_back = pull_back,
		.roles = DENSE_PROJECTIONS | 1u << ROLE_ATTN_NORM | 1u << ROLE_FFN_NORM,
		.user = t,
	};
	struct distil_report distilled;
	int r;

	distil.pool = s->pool;
	distil.teacher = s->teacher;
	distil.weights = s->weights;
	distil.sequences = s->sequences;
	distil.n_checks = 0;
	distil.n_steps = s->n_steps;
	distil.batch_tokens = BATCH_JUDGED;
	distil.batch_read = BATCH_READ;
	distil.rate = 1; /* groups have their own */
	distil.n_warmup = 5;
	distil.final_share = 0;
	distil.max_norm = 0;
	distil.adam = (struct adam_settings){.beta1 = .9, .beta2 = .97, .epsilon = 1e-20};
	distil.seed = s->seed;
	distil.progress = s->progress;
	r = distil_run(&distil, &target, &distilled, reason);
	if (r < 0)
		return r;
	report->seconds = distilled.seconds;
	return 0;
}

/* Is it better, as far as the text that was kept back can tell? */
static int judge(struct tune *t, const struct exam_marks *before, struct tune_report *report,
	struct reason *reason)
{
	const struct tune_settings *s = t->settings;
	struct exam_marks after;
	struct exam_change change;
	int r = exam_marks(s->exam, s->weights, &after, reason);

	if (r < 0)
		return r;
	change = exam_compare(s->exam, before, &after);
	report->kl_before = before->kl;
	report->kl_after = after.kl;
	report->reverted = !(change.mean < -change.error);
	exam_marks_done(&after);
	return report->reverted ? revert(t) : 0;
}

int tune_run(const struct tune_settings *settings, struct tune_report *ret, struct reason *reason)
{
	_cleanup_(tune_done) struct tune t = {.settings = settings};
	_cleanup_(exam_marks_done) struct exam_marks before = {0};
	struct tune_report report = {0};
	int r = exam_marks(settings->exam, settings->weights, &before, reason);

	if (r == 0)
		r = list_members(&t);
	if (r == 0)
		r = train(&t, &report, reason);
	if (r == 0)
		r = judge(&t, &before, &report, reason);
	if (r < 0)
		return r;
	hand_over(&t);
	*ret = report;
	return 0;
}
