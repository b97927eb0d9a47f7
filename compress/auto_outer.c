/*
 * What embedding and head are worth beside the projections, where both share a budget.
 */
#include "compress/auto_run.h"

#include "compress/tasks.h"

#define N_TEXTS 2u
#define FIRST_BITS 0.5
#define MEASURED_TOKENS 2048u /* of each text, about */
#define PRICE_STEP 2.0        /* of lambda */

/* Text on which embedding and head are measured, and how much of all text will be like it. */
struct usage {
	struct sequences text;
	float *states; /* of the fine-tune, behind its judged tokens */
	struct outer_use use;
};

struct usages {
	struct usage all[N_TEXTS];
	size_t n;
	struct backward *backward;
};

static void usages_done(struct usages *u)
{
	for (size_t i = 0; i < u->n; i++) {
		sequences_done(&u->all[i].text);
		free(u->all[i].states);
	}
	backward_free(u->backward);
}

/*
 * How often text will have a token that the text to learn from has not: as often as that has one
 * that is nowhere else in it (Good 1953). Tasks may be there twice, with a second answer; the first
 * ones are all different. Where there is no such token, half of one.
 */
static int unseen_share(const struct auto_run *a, double *ret)
{
	const struct sequences *learn = &a->text.learn;
	size_t n_tasks = min_u64(learn->n, a->model->options->tasks->n), n = 0, n_single = 0;
	_cleanup_(freep) uint32_t *counts = calloc(a->tuned->config.vocab + 1, sizeof(*counts));

	if (!counts)
		return -ENOMEM;
	for (size_t i = 0; i < n_tasks; i++)
		for (uint32_t k = 0; k < learn->items[i].n; k++, n++)
			counts[sequence_ids(learn, i)[k]]++;
	for (uint32_t token = 0; token < a->tuned->config.vocab; token++)
		n_single += counts[token] == 1;
	*ret = ((double)n_single + .5) / ((double)n + .5);
	return 0;
}

static int add_general(const struct auto_run *a, struct usages *u)
{
	const struct calibration *c = a->model->calibration;
	struct sequences windows = {0};
	struct usage *usage = &u->all[u->n++];
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < c->n_held_out; i++)
		r = sequences_add(&windows, c->held_out + (size_t)i * c->window, c->window, 1);
	if (r == 0)
		r = sequences_add_some(&usage->text, &windows, MEASURED_TOKENS);
	sequences_done(&windows);
	usage->use.ids = c->ids;
	usage->use.n = (size_t)c->n_windows * c->window;
	return r < 0 ? r : unseen_share(a, &usage->use.share);
}

/* The fine-tune's own text; beside tasks, which may have few words, general text as often as words
 * will come up that they do not have. */
static int list_usages(const struct auto_run *a, struct usages *ret)
{
	const struct auto_text *t = &a->text;
	struct usage *usage = &ret->all[ret->n++];
	int r = sequences_add_some(&usage->text, &t->kept_back, MEASURED_TOKENS);

	if (r == 0)
		r = sequences_add_some(&usage->text, &t->learn, MEASURED_TOKENS);
	usage->use = (struct outer_use){.ids = t->learn.ids, .n = t->learn.n_ids, .share = 1};
	return r == 0 && t->kind == AUTO_TEXT_TASKS ? add_general(a, ret) : r;
}

static struct batch batch_of(const struct usage *u)
{
	return (struct batch){.sequences = &u->text, .n = u->text.n};
}

/* Asks the fine-tune. */
static int open_usages(struct auto_run *a, struct usages *u, struct reason *reason)
{
	const struct model_config *config = &a->tuned->config;
	uint32_t longest = 0;
	int r = list_usages(a, u);

	for (size_t i = 0; i < u->n; i++)
		longest = (uint32_t)max_u64(longest, sequences_longest(&u->all[i].text));
	if (r == 0)
		r = backward_new(config, a->model->pool, longest, &u->backward, reason);
	for (size_t i = 0; r == 0 && i < u->n; i++) {
		const struct batch batch = batch_of(&u->all[i]);

		u->all[i].states =
			malloc((batch_judged(&batch) * config->hidden + 1) * sizeof(float));
		r = u->all[i].states ? backward_states(u->backward, a->tuned, &batch,
					       u->all[i].states, reason)
				     : -ENOMEM;
	}
	return r;
}

/* KL of the weights on one of the texts. */
static int measure_usage(
	struct auto_run *a, const struct usages *u, size_t i, double *ret, struct reason *reason)
{
	const struct batch batch = batch_of(&u->all[i]);
	const struct loss loss = {
		.kind = LOSS_TEACHER,
		.weight = 1,
		.teacher_states = u->all[i].states,
		.teacher_head = dense_head(a->tuned),
	};
	struct loss_sums sums;
	int r = backward_loss(u->backward, a->weights, &batch, &loss, &sums, reason);

	if (r == 0)
		*ret = sums.sum / (double)sums.n;
	return r;
}

/* What a use is worth is not the same in all texts: a model that is sure of every token of its
 * tasks bears more. */
static int balance(struct auto_run *a, const struct usages *u, struct reason *reason)
{
	struct outer *outer = a->model->outer;
	struct outer_use uses[N_TEXTS];
	int r;

	for (size_t i = 0; i < u->n; i++)
		uses[i] = u->all[i].use;
	r = outer_weigh(outer, uses, u->n);
	if (r == 0)
		r = outer_choose_size(outer, FIRST_BITS, NULL);
	if (r == 0)
		r = auto_take_outer(a);
	for (size_t i = 0; r == 0 && i < u->n; i++) {
		double kl, guess;

		uses[i].share = 1;
		r = outer_weigh(outer, &uses[i], 1);
		guess = outer_loss(outer);
		if (r == 0)
			r = measure_usage(a, u, i, &kl, reason);
		if (r == 0)
			uses[i].share = u->all[i].use.share * (guess > 0 ? kl / guess : 1);
	}
	return r < 0 ? r : outer_weigh(outer, uses, u->n);
}

static const double sizes[MEASURED_MAX_POINTS] = {
	4, 2, 1, 1. / 2, 1. / 4, 1. / 8, 1. / 16, 1. / 32, 0}; /* bits a weight */

/* KL at all sizes, beside the projections as they are in the weights. What general text adds to it
 * is measured where `general` says so, and else known. */
static int measure_sizes(struct auto_run *a, const struct usages *u, bool general,
	struct measured_curve *ret, struct reason *reason)
{
	struct measured_point points[MEASURED_MAX_POINTS] = {0};
	struct outer *outer = a->model->outer;
	int r = 0;

	for (size_t i = 0; r == 0 && i < MEASURED_MAX_POINTS; i++) {
		double kl;

		progress_update(
			a->model->progress, "sensing the embedding", i, MEASURED_MAX_POINTS);
		r = outer_choose_size(outer, sizes[i], &points[i]);
		if (r == 0)
			r = auto_take_outer(a);
		if (r == 0)
			r = measure_usage(a, u, 0, &points[i].loss, reason);
		if (r == 0 && general && u->n > 1) {
			r = measure_usage(a, u, 1, &kl, reason);
			a->general_loss[i] = u->all[1].use.share * kl;
		}
		points[i].loss += a->general_loss[i];
	}
	if (r == 0)
		measured_curve_fit(ret, points, MEASURED_MAX_POINTS);
	return r;
}

/*
 * The more of embedding and head is left out, the more wrong is a loss that was estimated row by
 * row: by a factor of a thousand on one fine-tune, between one bit a weight and none, for what is
 * left out of all rows has a direction in common. So the KL itself is measured at some sizes.
 */
int auto_sense_outer(struct auto_run *a, struct reason *reason)
{
	_cleanup_(usages_done) struct usages usages = {0};
	struct outer_worth worth = {.price = 1};
	int r = open_usages(a, &usages, reason);

	if (r == 0)
		r = balance(a, &usages, reason);
	if (r == 0)
		r = measure_sizes(a, &usages, true, &worth.curve, reason);
	if (r == 0)
		outer_learn(a->model->outer, &worth);
	return r;
}

/* KL and guess of the projections coded at lambda, beside embedding and head as they stand. */
static int measure_projections(struct auto_run *a, const struct allocate_settings *settings,
	double lambda, struct rate_loss *ret, double *ret_guess, struct reason *reason)
{
	struct allocate_settings projections = *settings;
	int r;

	projections.n = a->n_trials;
	r = allocate_at(&projections, lambda, ret, reason);
	*ret_guess = ret->loss;
	return r < 0 ? r : auto_measure(a, &ret->loss, reason);
}

/*
 * The projections' losses are guesses too: a nat of them is worth as many real ones as the KL
 * changes by when lambda does. And beside projections that have errors, those of the embedding cost
 * more than by themselves, in a model that is sure of most tokens ten times as much: the sizes are
 * measured again.
 */
int auto_price_outer(struct auto_run *a, const struct allocate_settings *settings, double lambda,
	struct outer_worth *ret, struct reason *reason)
{
	_cleanup_(usages_done) struct usages usages = {0};
	struct outer_worth worth = {.price = 1};
	struct rate_loss coarse, fine;
	double coarse_guess, guess;
	int r = measure_projections(
		a, settings, lambda * PRICE_STEP, &coarse, &coarse_guess, reason);

	if (r == 0)
		r = measure_projections(a, settings, lambda, &fine, &guess, reason);
	if (r == 0)
		r = open_usages(a, &usages, reason);
	if (r == 0)
		r = measure_sizes(a, &usages, false, &worth.curve, reason);
	if (r < 0)
		return r;
	if (coarse.loss > fine.loss && coarse_guess > guess)
		worth.price = (coarse.loss - fine.loss) / (coarse_guess - guess);
	outer_learn(a->model->outer, &worth);
	*ret = worth;
	return 0;
}
