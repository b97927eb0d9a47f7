#include "compress/distil.h"

#include "compress/random.h"

#include <math.h>
#include <string.h>
#include <time.h>

const struct distil_settings distil_defaults = {
	.n_steps = 100,
	.batch_tokens = 4096,
	.rate = 1e-3,
	.n_warmup = 10,
	.final_share = 0.05,
	.max_norm = 1,
	.adam = {.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8},
};

struct distil {
	const struct distil_settings *settings;
	const struct distil_target *target;
	struct backward *backward;
	struct dense_model *gradients;
	struct adam **adams; /* one a group, as what follows */
	float **group_gradients;
	float **beginnings;  /* the values before the first step */
	float *states;       /* the teacher's, of all judged tokens in order of the sequences */
	size_t *first_state; /* of each sequence, in rows */
	float *batch_states; /* of the batch in work */
	size_t *order;       /* the sequences as this epoch takes them */
	size_t next;         /* of `order` */
	uint64_t epoch;
	struct distil_report report;
};

static void distil_done(struct distil *d)
{
	for (size_t i = 0; i < d->target->n_groups; i++) {
		if (d->adams)
			adam_free(d->adams[i]);
		if (d->group_gradients)
			free(d->group_gradients[i]);
		if (d->beginnings)
			free(d->beginnings[i]);
	}
	free(d->adams);
	free(d->group_gradients);
	free(d->beginnings);
	free(d->states);
	free(d->first_state);
	free(d->batch_states);
	free(d->order);
	dense_model_free(d->gradients);
	backward_free(d->backward);
}

static int group_new(struct distil *d, size_t i)
{
	const struct distil_group *g = &d->target->groups[i];

	d->group_gradients[i] = calloc(g->n + 1, sizeof(float));
	d->beginnings[i] = calloc(g->n + 1, sizeof(float));
	if (!d->group_gradients[i] || !d->beginnings[i])
		return -ENOMEM;
	memcpy(d->beginnings[i], g->values, g->n * sizeof(float));
	return adam_new(g->n, &d->adams[i]);
}

static int make_groups(struct distil *d)
{
	size_t n = d->target->n_groups;
	int r = 0;

	d->adams = calloc(n, sizeof(*d->adams));
	d->group_gradients = calloc(n, sizeof(*d->group_gradients));
	d->beginnings = calloc(n, sizeof(*d->beginnings));
	if (!d->adams || !d->group_gradients || !d->beginnings)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = group_new(d, i);
	return r;
}

static int make_order(struct distil *d)
{
	const struct sequences *s = d->settings->sequences;
	size_t hidden = d->settings->weights->config.hidden, rows = 0;

	d->order = calloc(s->n, sizeof(*d->order));
	d->first_state = calloc(s->n, sizeof(*d->first_state));
	d->states = calloc(sequences_judged(s) * hidden, sizeof(*d->states));
	d->batch_states = calloc(sequences_judged(s) * hidden, sizeof(*d->batch_states));
	if (!d->order || !d->first_state || !d->states || !d->batch_states)
		return -ENOMEM;
	for (size_t i = 0; i < s->n; i++) {
		d->order[i] = i;
		d->first_state[i] = rows;
		rows += s->items[i].n - s->items[i].answer;
	}
	d->next = s->n;
	return 0;
}

/* By Fisher and Yates; the same for the same seed and epoch. */
static void shuffle(struct distil *d)
{
	uint64_t seed = random_at(d->settings->seed, d->epoch++);

	for (size_t i = d->settings->sequences->n; i > 1; i--) {
		size_t j = random_at(seed, i) % i, kept = d->order[i - 1];

		d->order[i - 1] = d->order[j];
		d->order[j] = kept;
	}
	d->next = 0;
}

/* Sequences from picks[0] on until they have enough judged tokens. */
static struct batch batch_from(const struct distil *d, const size_t *picks, size_t n_picks)
{
	const struct sequences *s = d->settings->sequences;
	struct batch b = {.sequences = s, .picks = picks};
	size_t judged = 0;

	while (b.n < n_picks && judged < d->settings->batch_tokens) {
		const struct sequence *item = &s->items[picks[b.n++]];

		judged += item->n - item->answer;
	}
	return b;
}

/* The end of an epoch may be a smaller batch. */
static struct batch next_batch(struct distil *d)
{
	size_t n = d->settings->sequences->n;
	struct batch b;

	if (d->next == n)
		shuffle(d);
	b = batch_from(d, d->order + d->next, n - d->next);
	d->next += b.n;
	return b;
}

/* Calls `of` for batches that together are all the sequences, in their own order. */
static int for_all(struct distil *d,
	int (*of)(struct distil *d, const struct batch *b, void *arg, struct reason *reason),
	void *arg, struct reason *reason)
{
	size_t n = d->settings->sequences->n;
	_cleanup_(freep) size_t *picks = calloc(n, sizeof(*picks));
	int r = 0;

	if (!picks)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		picks[i] = i;
	for (size_t at = 0; r == 0 && at < n;) {
		struct batch b = batch_from(d, picks + at, n - at);

		r = of(d, &b, arg, reason);
		at += b.n;
	}
	return r;
}

static int ask_teacher(struct distil *d, const struct batch *b, void *arg, struct reason *reason)
{
	struct dense_model *teacher = d->settings->teacher;
	size_t at = d->first_state[b->picks[0]] * teacher->config.hidden;

	(void)arg;
	return backward_states(d->backward, teacher, b, d->states + at, reason);
}

static struct loss loss_of(struct distil *d, const struct batch *b)
{
	size_t hidden = d->settings->teacher->config.hidden, rows = 0;

	for (size_t i = 0; i < b->n; i++) {
		const struct sequence *s = &b->sequences->items[b->picks[i]];
		size_t n = s->n - s->answer;

		memcpy(d->batch_states + rows * hidden,
			d->states + d->first_state[b->picks[i]] * hidden,
			n * hidden * sizeof(float));
		rows += n;
	}
	return (struct loss){
		.kind = LOSS_TEACHER,
		.weight = 1 / (double)rows,
		.teacher_states = d->batch_states,
		.teacher_head = dense_head(d->settings->teacher),
	};
}

static int add_loss(struct distil *d, const struct batch *b, void *arg, struct reason *reason)
{
	struct loss loss = loss_of(d, b);
	struct loss_sums *total = arg, sums;
	int r = backward_loss(d->backward, d->settings->weights, b, &loss, &sums, reason);

	if (r < 0)
		return r;
	total->n += sums.n;
	total->sum += sums.sum;
	return 0;
}

/* Of the groups as they are. */
static int measure(struct distil *d, double *ret, struct reason *reason)
{
	struct loss_sums total = {0};
	int r = d->target->materialise(d->target->user, d->settings->weights, reason);

	if (r == 0)
		r = for_all(d, add_loss, &total, reason);
	if (r < 0)
		return r;
	*ret = total.sum / (double)total.n;
	return 0;
}

double distil_rate(const struct distil_settings *s, uint32_t step)
{
	double done;

	if (step < s->n_warmup)
		return s->rate * (step + 1) / (s->n_warmup + 1);
	done = (double)(step - s->n_warmup) / fmax(1, (double)s->n_steps - s->n_warmup);
	return s->rate * (s->final_share + (1 - s->final_share) * (1 + cos(M_PI * done)) / 2);
}

/* What all gradients are multiplied with. */
static float shortening(const struct distil *d)
{
	double squares = 0;

	for (size_t i = 0; i < d->target->n_groups; i++)
		for (size_t k = 0; k < d->target->groups[i].n; k++)
			squares +=
				(double)d->group_gradients[i][k] * (double)d->group_gradients[i][k];
	if (d->settings->max_norm <= 0 || sqrt(squares) <= d->settings->max_norm)
		return 1;
	return (float)(d->settings->max_norm / sqrt(squares));
}

static void move_groups(struct distil *d, uint32_t step)
{
	double rate = distil_rate(d->settings, step);
	float factor = shortening(d);

	for (size_t i = 0; i < d->target->n_groups; i++) {
		struct distil_group *g = &d->target->groups[i];

		for (size_t k = 0; factor != 1 && k < g->n; k++)
			d->group_gradients[i][k] *= factor;
		adam_step(d->adams[i], &d->settings->adam, rate * g->rate, d->group_gradients[i],
			g->values);
	}
}

static int train_step(struct distil *d, uint32_t step, struct reason *reason)
{
	const struct distil_target *t = d->target;
	struct batch batch = next_batch(d);
	struct loss loss = loss_of(d, &batch);
	struct loss_sums sums;
	int r;

	r = t->materialise(t->user, d->settings->weights, reason);
	if (r < 0)
		return r;
	dense_model_zero(d->gradients);
	r = backward_gradient(
		d->backward, d->settings->weights, &batch, &loss, d->gradients, &sums, reason);
	if (r < 0)
		return r;
	for (size_t i = 0; i < t->n_groups; i++)
		memset(d->group_gradients[i], 0, t->groups[i].n * sizeof(float));
	r = t->pull_back(t->user, d->gradients, d->group_gradients, reason);
	if (r < 0)
		return r;
	move_groups(d, step);
	d->report.n_tokens += batch_read(&batch);
	return 0;
}

/* Keeps what training made if it is better. */
static int finish(struct distil *d, struct reason *reason)
{
	const struct distil_target *t = d->target;
	int r = measure(d, &d->report.kl_after, reason);

	if (r < 0 || d->report.kl_after < d->report.kl_before)
		return r;
	for (size_t i = 0; i < t->n_groups; i++)
		memcpy(t->groups[i].values, d->beginnings[i], t->groups[i].n * sizeof(float));
	d->report.kl_after = d->report.kl_before;
	return t->materialise(t->user, d->settings->weights, reason);
}

static int prepare(struct distil *d, struct reason *reason)
{
	const struct distil_settings *s = d->settings;
	const struct model_config *config = &s->weights->config;
	int r;

	if (s->sequences->n == 0 || s->batch_tokens == 0)
		return reason_set(reason, -EINVAL, "there is nothing to train on");
	if (s->teacher->config.vocab != config->vocab ||
		s->teacher->config.hidden != config->hidden)
		return reason_set(
			reason, -EMEDIUMTYPE, "the teacher has another shape than what it teaches");
	r = backward_new(config, s->pool, sequences_longest(s->sequences), &d->backward, reason);
	if (r == 0)
		r = dense_model_new(config, &d->gradients);
	if (r == 0)
		r = dense_model_fill(d->gradients, d->target->roles);
	if (r == 0)
		r = make_groups(d);
	if (r == 0)
		r = make_order(d);
	if (r == 0)
		r = for_all(d, ask_teacher, NULL, reason);
	return r;
}

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int distil_run(const struct distil_settings *settings, const struct distil_target *target,
	struct distil_report *ret, struct reason *reason)
{
	_cleanup_(distil_done) struct distil d = {.settings = settings, .target = target};
	double began = seconds_now();
	int r = prepare(&d, reason);

	if (r == 0)
		r = measure(&d, &d.report.kl_before, reason);
	for (uint32_t step = 0; r == 0 && step < settings->n_steps; step++) {
		progress_update(settings->progress, "distilling", step, settings->n_steps);
		r = train_step(&d, step, reason);
	}
	if (r == 0)
		r = finish(&d, reason);
	if (r < 0)
		return r;
	progress_update(settings->progress, "distilling", settings->n_steps, settings->n_steps);
	d.report.seconds = seconds_now() - began;
	*ret = d.report;
	return 0;
}
