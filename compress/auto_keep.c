#include "compress/auto_keep.h"

#include "compress/compare.h"
#include "compress/delta_file.h"
#include "compress/exact.h"
#include "compress/questions.h"
#include "compress/served.h"
#include "compress/task_calibration.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

struct auto_keep {
	struct auto_run *run;
	struct kernels kernels;
	struct served base, tuned;
	struct image *words; /* which the text borrows */
	struct task_text *text;
	struct sequences references; /* of tasks */
	struct question *questions;  /* the tasks that were kept back */
	bool *tuned_solves;          /* which of them */
	size_t n, n_tuned_solves;
};

struct auto_keep *auto_keep_free(struct auto_keep *k)
{
	if (!k)
		return NULL;
	free(k->questions);
	free(k->tuned_solves);
	sequences_done(&k->references);
	task_text_free(k->text);
	image_free(k->words);
	served_done(&k->tuned);
	served_done(&k->base);
	free(k);
	return NULL;
}

static const struct tasks *tasks_of(const struct auto_keep *k)
{
	return k->run->model->options->tasks;
}

static bool is_scored(const struct auto_keep *k)
{
	return tasks_of(k) && tasks_of(k)->metric != TASK_METRIC_PERPLEXITY;
}

static bool same_prompt(const struct sequences *a, size_t i, const struct sequences *b, size_t j)
{
	const struct sequence *x = &a->items[i], *y = &b->items[j];

	return x->answer == y->answer &&
	       memcmp(sequence_ids(a, i), sequence_ids(b, j), x->answer * sizeof(uint32_t)) == 0;
}

static uint32_t most_tokens(const struct auto_keep *k)
{
	return task_metric_tokens(tasks_of(k)->metric);
}

/* The task that a reference belongs to: one at a time, because some do not fit the model, and what
 * does not fit its longest answer is no question. */
static int add_question(struct auto_keep *k, const struct task *task, struct reason *reason)
{
	_cleanup_(sequences_done) struct sequences reference = {0};
	int r = task_text_reference(k->text, task, &reference, reason);

	if (r < 0 || reference.n == 0 ||
		reference.items[0].answer + most_tokens(k) > k->run->tuned->config.max_positions)
		return r;
	for (size_t i = 0; i < k->references.n; i++)
		if (same_prompt(&k->references, i, &reference, 0)) {
			k->questions[k->n++] = (struct question){
				.task = task,
				.prompt = sequence_ids(&k->references, i),
				.n_prompt = k->references.items[i].answer,
			};
			break;
		}
	return 0;
}

static int list_questions(struct auto_keep *k, struct reason *reason)
{
	const struct tasks *tasks = tasks_of(k);
	int r = auto_text_kept_back(k->run->model, &k->references, reason);

	k->questions = calloc(tasks->n + 1, sizeof(*k->questions));
	k->tuned_solves = calloc(tasks->n + 1, sizeof(*k->tuned_solves));
	if (!k->questions || !k->tuned_solves)
		return -ENOMEM;
	if (r == 0)
		r = task_text_of_pair(k->run->model->pair, &k->words, &k->text, reason);
	for (size_t i = 0; r == 0 && i < tasks->n; i++)
		r = add_question(k, &tasks->tasks[i], reason);
	return r;
}

/* Each question to a model. */
static int ask(struct auto_keep *k, const struct served *served, struct reason *reason)
{
	const struct questions_settings settings = {
		.text = k->text,
		.model = served->model,
		.variant = served_variant(served),
		.pool = k->run->model->pool,
		.progress = k->run->model->progress,
		.stage = "answering",
		.metric = tasks_of(k)->metric,
		.max_tokens = most_tokens(k),
	};

	return questions_ask(&settings, k->questions, k->n, reason);
}

static int open_questions(struct auto_keep *k, struct reason *reason)
{
	int r = list_questions(k, reason);

	if (r < 0)
		return r;
	r = ask(k, &k->tuned, reason);
	if (r < 0)
		return r;
	for (size_t i = 0; i < k->n; i++) {
		k->tuned_solves[i] = k->questions[i].solved;
		k->n_tuned_solves += k->tuned_solves[i];
	}
	if (k->n_tuned_solves == 0)
		return reason_set(reason, -EINVAL,
			"the fine-tune solves none of %zu tasks that were kept back: there is "
			"nothing to keep",
			k->n);
	return 0;
}

int auto_keep_new(struct auto_run *a, struct auto_keep **ret, struct reason *reason)
{
	_cleanup_(auto_keepp) struct auto_keep *k = calloc(1, sizeof(*k));
	const struct method_model *m = a->model;
	int r;

	if (!k)
		return -ENOMEM;
	k->run = a;
	r = kernels_select(&k->kernels, NULL, reason);
	if (r == 0)
		r = served_of_checkpoint(m->pair->base, m->pair->weights, &k->kernels, m->progress,
			&k->base, reason);
	if (r == 0)
		r = served_of_checkpoint(
			m->pair->tuned, WEIGHTS_BF16, &k->kernels, m->progress, &k->tuned, reason);
	if (r == 0 && is_scored(k))
		r = open_questions(k, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(k);
	return 0;
}

/* Norms and biases of the blocks as they are in the weights; outer_add() has the last. */
static int add_vectors(const struct auto_run *a, struct delta_file *f)
{
	const struct model_config *c = &a->tuned->config;
	int r = 0;

	for (uint32_t layer = 0; layer < c->n_layers; layer++)
		for (uint32_t i = 0; r == 0 && i < N_ROLES; i++) {
			enum tensor_role role = (enum tensor_role)i;
			uint32_t rows, cols;

			if (role == ROLE_FINAL_NORM ||
				!model_config_shape(c, role, layer, &rows, &cols) || cols != 1)
				continue;
			r = exact_vector(f, role, layer, a->weights->layers[layer].at[role], rows);
		}
	return r;
}

static int add_everything(struct auto_run *a, struct delta_file *f, struct reason *reason)
{
	int r = outer_add(a->model->outer, f, reason);

	for (size_t i = 0; r == 0 && i < a->n_trials; i++) {
		struct part part;

		r = trial_part(a->trials[i], &part);
		if (r == 0 && part.payload)
			r = delta_file_add(f, &part);
	}
	return r < 0 ? r : add_vectors(a, f);
}

static void filep(struct delta_file **f)
{
	delta_file_free(*f);
}

/* What stands coded, on its way through a file. */
static int serve(struct auto_keep *k, struct reason *reason)
{
	_cleanup_(closep) int fd = memfd_create("deltad-kept", MFD_CLOEXEC);
	_cleanup_(filep) struct delta_file *f = NULL;
	struct auto_run *a = k->run;
	const struct delta_file_parts parts = {
		.config = &a->model->pair->tuned_config,
		.base = base_model_digest(k->base.base),
		.tuned = base_model_digest(k->tuned.base),
	};
	struct format_header header;
	struct delta *delta;
	int r = fd < 0 ? -errno : delta_file_new(&f);

	if (r == 0)
		r = add_everything(a, f, reason);
	if (r == 0)
		r = delta_file_write(f, &parts, fd, &header, reason);
	served_drop_delta(&k->base);
	if (r == 0)
		r = delta_load(fd, k->base.base, &delta, NULL, reason);
	return r < 0 ? r : served_add_delta(&k->base, delta, reason);
}

/* Both models are asked the same: what counts are the tasks that one of them solves alone. */
static struct kept solved_share(const struct auto_keep *k)
{
	size_t n_solved = 0, n_differ = 0;

	for (size_t i = 0; i < k->n; i++) {
		n_solved += k->questions[i].solved;
		n_differ += k->questions[i].solved != k->tuned_solves[i];
	}
	return (struct kept){
		.share = (double)n_solved / (double)k->n_tuned_solves,
		.error = sqrt((double)max_u64(n_differ, 1)) / (double)k->n_tuned_solves,
		.n = k->n,
		.of_tasks = true,
	};
}

static int compare_all(struct auto_keep *k, struct comparison *sums, struct reason *reason)
{
	const struct sequences *s = &k->run->text.kept_back;
	const struct compare_settings settings = {
		.pool = k->run->model->pool,
		.tuned_model = k->tuned.model,
		.model = k->base.model,
		.tuned = k->tuned.variant,
		.delta = k->base.with_delta,
		.max_positions = sequences_longest(s),
	};
	_cleanup_(compare_freep) struct compare *compare = NULL;
	int r = compare_new(&settings, &compare, reason);

	for (size_t i = 0; r == 0 && i < s->n; i++)
		r = compare_sequence(compare, sequence_ids(s, i), s->items[i].n,
			s->items[i].answer - 1, sums, reason);
	return r;
}

int auto_keep_measure(struct auto_keep *k, struct kept *ret, struct reason *reason)
{
	struct comparison sums = {0};
	int r = serve(k, reason);

	if (r == 0 && is_scored(k)) {
		r = ask(k, &k->base, reason);
		if (r == 0)
			*ret = solved_share(k);
		return r;
	}
	if (r == 0)
		r = compare_all(k, &sums, reason);
	if (r < 0)
		return r;
	*ret = (struct kept){.n = sums.n, .error = (double)NAN};
	if (tasks_of(k)) {
		ret->share = comparison_perplexity(&sums, sums.sum_nll_tuned - sums.sum_nll_delta);
		return 0;
	}
	ret->share = comparison_agreement(&sums);
	ret->error = sqrt(ret->share * (1 - ret->share) / (double)sums.n);
	return 0;
}

int auto_keep_loss(void *user, double *ret, struct reason *reason)
{
	struct kept kept;
	int r = auto_keep_measure(user, &kept, reason);

	if (r == 0)
		*ret = fmax(0, 1 - kept.share);
	return r;
}
