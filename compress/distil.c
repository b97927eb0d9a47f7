#include "compress/distil.h"

#include "common/clock.h"
#include "common/random.h"

#include <math.h>
#include <string.h>

const struct distil_settings distil_defaults = {
	.n_checks = 1,
	.n_steps = 100,
	.batch_tokens = 2048,
	.rate = 1e-3,
	.n_warmup = 5,
	.adam = {.beta1 = 0.9, .beta2 = 0.97, .epsilon = 1e-20},
};

/* Sequences with what the teacher thinks of them. */
struct lessons {
	const struct sequences *sequences;
	float *states;       /* of all judged tokens, in order of the sequences */
	size_t *first_state; /* of each sequence, in rows */
	float *batch_states; /* of the batch in work */
	size_t *order;       /* of the sequences, as they are taken */
};

static void lessons_done(struct lessons *l)
{
	free(l->states);
	free(l->first_state);
	free(l->batch_states);
	free(l->order);
}

struct distil {
	const struct distil_settings *settings;
	const struct distil_target *target;
	struct backward *backward;
	struct dense_model *gradients;
	struct adam **adams; /* one a group, as what follows */
	float **group_gradients;
	float **best; /* the values that were judged best */
	struct lessons training, held_out;
	size_t next; /* of the order of training */
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
		if (d->best)
			free(d->best[i]);
	}
	free(d->adams);
	free(d->group_gradients);
	free(d->best);
	lessons_done(&d->training);
	lessons_done(&d->held_out);
	dense_model_free(d->gradients);
	backward_free(d->backward);
}

static int group_new(struct distil *d, size_t i)
{
	const struct distil_group *g = &d->target->groups[i];

	d->group_gradients[i] = calloc(g->n + 1, sizeof(float));
	d->best[i] = calloc(g->n + 1, sizeof(float));
	if (!d->group_gradients[i] || !d->best[i])
		return -ENOMEM;
	memcpy(d->best[i], g->values, g->n * sizeof(float));
	return adam_new(g->n, &d->adams[i]);
}

static int make_groups(struct distil *d)
{
	size_t n = d->target->n_groups;
	int r = 0;

	d->adams = calloc(n, sizeof(*d->adams));
	d->group_gradients = calloc(n, sizeof(*d->group_gradients));
	d->best = calloc(n, sizeof(*d->best));
	if (!d->adams || !d->group_gradients || !d->best)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = group_new(d, i);
	return r;
}

static int lessons_init(struct lessons *l, size_t hidden)
{
	const struct sequences *s = l->sequences;
	size_t rows = 0;

	l->order = calloc(s->n, sizeof(*l->order));
	l->first_state = calloc(s->n, sizeof(*l->first_state));
	l->states = calloc(sequences_judged(s) * hidden, sizeof(*l->states));
	l->batch_states = calloc(sequences_judged(s) * hidden, sizeof(*l->batch_states));
	if (!l->order || !l->first_state || !l->states || !l->batch_states)
		return -ENOMEM;
	for (size_t i = 0; i < s->n; i++) {
		l->order[i] = i;
		l->first_state[i] = rows;
		rows += s->items[i].n - s->items[i].answer;
	}
	return 0;
}

/* By Fisher and Yates; the same for the same seed and epoch. */
static void shuffle(struct distil *d)
{
	uint64_t seed = random_at(d->settings->seed, d->epoch++);
	size_t *order = d->training.order;

	for (size_t i = d->training.sequences->n; i > 1; i--) {
		size_t j = random_at(seed, i) % i, kept = order[i - 1];

		order[i - 1] = order[j];
		order[j] = kept;
	}
	d->next = 0;
}

/* Sequences from number `at` of the order on until they have enough tokens. */
static struct batch batch_from(const struct distil *d, const struct lessons *l, size_t at)
{
	const struct sequences *s = l->sequences;
	struct batch b = {.sequences = s, .picks = l->order + at};
	size_t judged = 0, read = 0, most = d->settings->batch_read;

	while (at + b.n < s->n && judged < d->settings->batch_tokens &&
		(most == 0 || read < most)) {
		const struct sequence *item = &s->items[b.picks[b.n++]];

		judged += item->n - item->answer;
		read += item->n - 1;
	}
	return b;
}

/* The end of an epoch may be a smaller batch. */
static struct batch next_batch(struct distil *d)
{
	struct batch b;

	if (d->next == d->training.sequences->n || d->epoch == 0)
		shuffle(d);
	b = batch_from(d, &d->training, d->next);
	d->next += b.n;
	return b;
}

/* Before the order is shuffled. */
static int ask_teacher(struct distil *d, struct lessons *l, struct reason *reason)
{
	struct dense_model *teacher = d->settings->teacher;
	size_t hidden = teacher->config.hidden;
	int r = lessons_init(l, hidden);

	for (size_t at = 0; r == 0 && at < l->sequences->n;) {
		struct batch b = batch_from(d, l, at);

		r = backward_states(
			d->backward, teacher, &b, l->states + l->first_state[at] * hidden, reason);
		at += b.n;
	}
	return r;
}

static struct loss loss_of(const struct distil *d, struct lessons *l, const struct batch *b)
{
	size_t hidden = d->settings->teacher->config.hidden, rows = 0;

	for (size_t i = 0; i < b->n; i++) {
		const struct sequence *s = &b->sequences->items[b->picks[i]];
		size_t n = s->n - s->answer;

		memcpy(l->batch_states + rows * hidden,
			l->states + l->first_state[b->picks[i]] * hidden,
			n * hidden * sizeof(float));
		rows += n;
	}
	return (struct loss){
		.kind = LOSS_TEACHER,
		.weight = 1 / (double)rows,
		.teacher_states = l->batch_states,
		.teacher_head = dense_head(d->settings->teacher),
	};
}

/* Mean KL of the groups as they are. */
static int measure(struct distil *d, double *ret, struct reason *reason)
{
	struct lessons *l = d->settings->held_out ? &d->held_out : &d->training;
	struct loss_sums total = {0};
	int r = d->target->materialise(d->target->user, d->settings->weights, reason);

	for (size_t at = 0; r == 0 && at < l->sequences->n;) {
		struct batch b = batch_from(d, l, at);
		struct loss loss = loss_of(d, l, &b);
		struct loss_sums sums = {0};

		r = backward_loss(d->backward, d->settings->weights, &b, &loss, &sums, reason);
		total.n += sums.n;
		total.sum += sums.sum;
		at += b.n;
	}
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
	struct loss loss = loss_of(d, &d->training, &batch);
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

/* Is a judgement due after so many steps? */
static bool is_check(const struct distil_settings *s, uint32_t n_done)
{
	uint64_t n = s->n_checks;

	return n_done * n / s->n_steps > (n_done - 1) * n / s->n_steps;
}

/* Remembers what training made if it is better. */
static int check(struct distil *d, uint32_t n_done, struct reason *reason)
{
	const struct distil_target *t = d->target;
	double kl;
	int r = measure(d, &kl, reason);

	if (r < 0 || !(kl < d->report.kl_after))
		return r;
	for (size_t i = 0; i < t->n_groups; i++)
		memcpy(d->best[i], t->groups[i].values, t->groups[i].n * sizeof(float));
	d->report.kl_after = kl;
	d->report.best_step = n_done;
	return 0;
}

static int train(struct distil *d, struct reason *reason)
{
	const struct distil_settings *s = d->settings;
	int r = 0;

	for (uint32_t step = 0; r == 0 && step < s->n_steps; step++) {
		progress_update(s->progress, "distilling", step, s->n_steps);
		r = train_step(d, step, reason);
		if (r == 0 && is_check(s, step + 1))
			r = check(d, step + 1, reason);
	}
	return r;
}

static int take_best(struct distil *d, struct reason *reason)
{
	const struct distil_target *t = d->target;

	if (d->settings->n_checks == 0)
		return t->materialise(t->user, d->settings->weights, reason);
	for (size_t i = 0; i < t->n_groups; i++)
		memcpy(t->groups[i].values, d->best[i], t->groups[i].n * sizeof(float));
	return t->materialise(t->user, d->settings->weights, reason);
}

static uint32_t longest_of(const struct distil_settings *s)
{
	uint32_t held_out = s->held_out ? sequences_longest(s->held_out) : 0;

	return (uint32_t)max_u64(sequences_longest(s->sequences), held_out);
}

static int prepare_lessons(struct distil *d, struct reason *reason)
{
	int r;

	d->training.sequences = d->settings->sequences;
	d->held_out.sequences = d->settings->held_out;
	r = ask_teacher(d, &d->training, reason);
	if (r == 0 && d->settings->held_out && d->settings->n_checks > 0)
		r = ask_teacher(d, &d->held_out, reason);
	return r;
}

static int prepare(struct distil *d, struct reason *reason)
{
	const struct distil_settings *s = d->settings;
	const struct model_config *config = &s->weights->config;
	int r;

	if (s->sequences->n == 0 || s->batch_tokens == 0 || (s->held_out && s->held_out->n == 0))
		return reason_set(reason, -EINVAL, "there is nothing to train on");
	if (s->teacher->config.vocab != config->vocab ||
		s->teacher->config.hidden != config->hidden)
		return reason_set(
			reason, -EMEDIUMTYPE, "the teacher has another shape than what it teaches");
	r = backward_new(config, s->pool, longest_of(s), &d->backward, reason);
	if (r == 0)
		r = dense_model_new(config, &d->gradients);
	if (r == 0)
		r = dense_model_fill(d->gradients, d->target->roles);
	if (r == 0)
		r = make_groups(d);
	if (r == 0)
		r = prepare_lessons(d, reason);
	return r;
}

int distil_run(const struct distil_settings *settings, const struct distil_target *target,
	struct distil_report *ret, struct reason *reason)
{
	_cleanup_(distil_done) struct distil d = {.settings = settings, .target = target};
	uint64_t began = clock_ns();
	int r = prepare(&d, reason);

	if (r == 0 && settings->n_checks > 0)
		r = measure(&d, &d.report.kl_before, reason);
	d.report.kl_after = d.report.kl_before;
	if (r == 0)
		r = train(&d, reason);
	if (r == 0)
		r = take_best(&d, reason);
	if (r < 0)
		return r;
	progress_update(settings->progress, "distilling", settings->n_steps, settings->n_steps);
	d.report.seconds = 1e-9 * (double)(clock_ns() - began);
	*ret = d.report;
	return 0;
}
