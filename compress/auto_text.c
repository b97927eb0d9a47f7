#include "compress/auto_text.h"

#include "common/random.h"

#include "compress/served.h"
#include "compress/task_calibration.h"
#include "compress/task_text.h"
#include "kernels/kernels.h"

#define KEPT_BACK_SHARE 5u      /* every fifth prompt, or less often */
#define KEPT_BACK_TOKENS 16384u /* judge well enough */
#define OWN_WORDS_TOKENS 8192u
#define MAX_ANSWER 256u
#define ENOUGH_TOKENS 49152u /* of references: no more answers are drawn */

static const char *const names[] = {
	[AUTO_TEXT_NONE] = "none",
	[AUTO_TEXT_GENERIC] = "generic",
	[AUTO_TEXT_OWN_WORDS] = "own-words",
	[AUTO_TEXT_TASKS] = "tasks",
};

const char *auto_text_name(enum auto_text_kind kind)
{
	return names[kind];
}

struct method_tokens auto_text_told(const struct sequences *learn, const struct sequences *general)
{
	struct digest_state *state = digest_new();
	struct method_tokens told = {.n = learn->n_ids + general->n_ids};

	if (!state)
		return told;
	sequences_digest(learn, state);
	sequences_digest(general, state);
	told.ids = digest_finish(state);
	return told;
}

void auto_text_done(struct auto_text *t)
{
	sequences_done(&t->learn);
	sequences_done(&t->kept_back);
	sequences_done(&t->general);
}

/* Prompts in the order in which they came, as hashes. */
struct dealer {
	uint64_t *prompts;
	size_t n;
	size_t every; /* this prompt of so many is kept back */
};

static void dealer_done(struct dealer *d)
{
	free(d->prompts);
}

static uint64_t hash_of(const uint32_t *ids, size_t n)
{
	uint64_t hash = n;

	for (size_t i = 0; i < n; i++)
		hash = mix64_at(hash, ids[i]);
	return hash;
}

/* The number of a prompt, which may be new. */
static int number_of(struct dealer *d, uint64_t prompt, size_t *ret)
{
	uint64_t *more;

	for (*ret = 0; *ret < d->n; ++*ret)
		if (d->prompts[*ret] == prompt)
			return 0;
	more = reallocarray(d->prompts, d->n + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	d->prompts = more;
	d->prompts[d->n++] = prompt;
	return 0;
}

/* All sequences of a prompt go the same way. */
static int deal(const struct sequences *all, struct dealer *d, struct auto_text *t)
{
	for (size_t i = 0; i < all->n; i++) {
		const struct sequence *s = &all->items[i];
		size_t number;
		bool kept;
		int r = number_of(d, hash_of(sequence_ids(all, i), s->answer), &number);

		if (r < 0)
			return r;
		kept = number % d->every == d->every - 1;
		r = sequences_add(
			kept ? &t->kept_back : &t->learn, sequence_ids(all, i), s->n, s->answer);
		if (r < 0)
			return r;
	}
	return 0;
}

static int add_windows(
	const uint32_t *ids, uint32_t n_windows, uint32_t window, struct sequences *ret)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < n_windows; i++)
		r = sequences_add(ret, ids + (size_t)i * window, window, 1);
	return r;
}

/* Half, where a score decides on the size: it needs many. */
static size_t share_of(const struct method_model *m, const struct sequences *all)
{
	if (m->options->keep > 0)
		return 2;
	return max_u64(KEPT_BACK_SHARE, sequences_read(all) / KEPT_BACK_TOKENS);
}

/* The calibration text has its held-out part already. */
static int add_generic(const struct method_model *m, uint32_t share, struct auto_text *t)
{
	const struct calibration *c = m->calibration;
	int r = add_windows(
		c->ids, (uint32_t)max_u64(1, c->n_windows / share), c->window, &t->learn);

	return r == 0 ? add_windows(c->held_out, c->n_held_out, c->window, &t->kept_back) : r;
}

static int add_general(const struct method_model *m, struct auto_text *t)
{
	const struct calibration *c = m->calibration;

	return add_windows(c->ids, c->n_windows, c->window, &t->general);
}

/* Both kinds of answers. */
static int add_tasks(const struct method_model *m, struct task_text *text, struct auto_text *t,
	struct reason *reason)
{
	struct sequences *const all[] = {&(struct sequences){0}, &(struct sequences){0}};
	_cleanup_(dealer_done) struct dealer dealer = {0};
	int r = task_text_references(text, m->options->tasks, all[0], reason);

	dealer.every = share_of(m, all[0]);

	if (r == 0 && sequences_read(all[0]) < ENOUGH_TOKENS)
		r = task_text_answers(text, m->options->tasks, all[1], reason);
	for (size_t i = 0; i < array_len(all); i++) {
		if (r == 0)
			r = deal(all[i], &dealer, t);
		sequences_done(all[i]);
	}
	if (r == 0 && (t->kept_back.n == 0 || t->learn.n == 0))
		return reason_set(reason, -EINVAL,
			"%zu tasks, expected at least %u that fit into the model",
			m->options->tasks->n, KEPT_BACK_SHARE);
	t->kind = AUTO_TEXT_TASKS;
	return r < 0 ? r : add_general(m, t);
}

static int add_own_words(const struct method_model *m, struct task_text *text, struct auto_text *t,
	struct reason *reason)
{
	_cleanup_(dealer_done) struct dealer dealer = {0};
	struct sequences all = {0};
	int r = task_text_invent(text, OWN_WORDS_TOKENS, &all, reason);

	dealer.every = share_of(m, &all);

	if (r == 0)
		r = deal(&all, &dealer, t);
	sequences_done(&all);
	if (r < 0)
		return r;
	t->kind = AUTO_TEXT_OWN_WORDS;
	return add_generic(m, 4, t);
}

/* -EOPNOTSUPP where the fine-tune's folder has no tokenizer or it makes nothing up. */
static int ask_fine_tune(const struct method_model *m, struct auto_text *t, struct reason *reason)
{
	_cleanup_(served_done) struct served tuned = {0};
	_cleanup_(imagep) struct image *words = NULL;
	_cleanup_(task_textp) struct task_text *text = NULL;
	struct task_text_settings settings = {
		.config = &m->pair->tuned_config,
		.pool = m->pool,
		.max_answer = MAX_ANSWER,
		.sampling = sampler_defaults,
		.progress = m->progress,
	};
	struct kernels kernels;
	int r;

	r = kernels_select(&kernels, NULL, reason);
	if (r == 0)
		r = served_of_checkpoint(
			m->pair->tuned, WEIGHTS_BF16, &kernels, m->progress, &tuned, reason);
	if (r == 0)
		r = words_of_pair(m->pair, &words, reason);
	if (r < 0)
		return r;
	settings.base = words;
	settings.model = tuned.model;
	settings.variant = tuned.variant;
	settings.sampling.temperature = 1;
	settings.sampling.seed = 1;
	r = task_text_new(&settings, &text, reason);
	if (r < 0)
		return r;
	if (m->options->tasks)
		return add_tasks(m, text, t, reason);
	return add_own_words(m, text, t, reason);
}

int auto_text_mix(const struct auto_text *t, size_t n_tokens, struct sequences *ret)
{
	size_t share = t->general.n > 0 ? n_tokens / 2 : n_tokens;
	int r = sequences_add_some(ret, &t->learn, share);

	return r < 0 ? r : sequences_add_some(ret, &t->general, share);
}

int auto_text_sample(const struct auto_text *t, struct sequences *ret)
{
	return sequences_add_some(ret, &t->learn, AUTO_TEXT_SENSED_TOKENS);
}

/* Are all ids words of the model? */
static int check_ids(const struct auto_text *t, uint32_t vocab, struct reason *reason)
{
	const struct sequences *const all[] = {&t->learn, &t->kept_back, &t->general};
	int r = 0;

	for (size_t i = 0; r == 0 && i < array_len(all); i++)
		r = sequences_check(all[i], vocab, reason);
	return r;
}

/* What the calibration text is: --text none makes it one of random tokens. */
static enum auto_text_kind calibration_kind(const struct method_options *o)
{
	return o->text == METHOD_TEXT_NONE ? AUTO_TEXT_NONE : AUTO_TEXT_GENERIC;
}

int auto_text_read(const struct method_model *m, struct auto_text *ret, struct reason *reason)
{
	_cleanup_(auto_text_done) struct auto_text t = {.kind = calibration_kind(m->options)};
	int r;

	if (m->options->text == METHOD_TEXT_OWN_WORDS)
		return reason_set(reason, -EOPNOTSUPP,
			"own words take the fine-tune in memory, which --memory does not allow");
	if (m->options->tasks) {
		t.kind = AUTO_TEXT_TASKS;
		r = sequences_of_tasks(m->pair, m->options->tasks, &t.learn, reason);
		if (r == 0)
			r = add_general(m, &t);
	} else {
		r = add_generic(m, 1, &t);
	}
	if (r == 0 && t.learn.n == 0)
		r = reason_set(reason, -EINVAL, "there is no text that fits into the model");
	if (r == 0)
		r = check_ids(&t, m->pair->tuned_config.vocab, reason);
	if (r < 0)
		return r;
	*ret = t;
	t = (struct auto_text){0};
	return 0;
}

int auto_text_kept_back(const struct method_model *m, struct sequences *ret, struct reason *reason)
{
	_cleanup_(auto_text_done) struct auto_text t = {0};
	_cleanup_(sequences_done) struct sequences all = {0};
	_cleanup_(dealer_done) struct dealer dealer = {0};
	int r = sequences_of_tasks(m->pair, m->options->tasks, &all, reason);

	dealer.every = share_of(m, &all);
	if (r == 0)
		r = deal(&all, &dealer, &t);
	for (size_t i = 0; r == 0 && i < t.kept_back.n; i++)
		r = sequences_add(ret, sequence_ids(&t.kept_back, i), t.kept_back.items[i].n,
			t.kept_back.items[i].answer);
	return r;
}

static bool wants_own_words(const struct method_options *o)
{
	return o->tasks || o->text == METHOD_TEXT_BEST || o->text == METHOD_TEXT_OWN_WORDS;
}

static bool may_be_generic(const struct method_options *o)
{
	return !o->tasks && o->text != METHOD_TEXT_OWN_WORDS;
}

int auto_text_make(const struct method_model *model, struct auto_text *ret, struct reason *reason)
{
	_cleanup_(auto_text_done) struct auto_text t = {.kind = calibration_kind(model->options)};
	struct reason refusal = {0};
	int r = -EOPNOTSUPP;

	if (wants_own_words(model->options))
		r = ask_fine_tune(model, &t, &refusal);
	if (r == -EOPNOTSUPP && may_be_generic(model->options))
		r = add_generic(model, 1, &t);
	else if (r < 0)
		*reason = refusal;
	if (r == 0)
		r = check_ids(&t, model->pair->tuned_config.vocab, reason);
	if (r < 0)
		return r;
	*ret = t;
	t = (struct auto_text){0};
	return 0;
}
