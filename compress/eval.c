#include "compress/eval.h"

#include "compress/compare.h"
#include "compress/exact.h"
#include "compress/questions.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A task as tokens: prompt, then the reference and its end. */
struct example {
	size_t sequence;
	bool too_long; /* it may have no sequence */
};

struct eval {
	const struct eval_settings *settings;
	const struct model_config *config; /* of the fine-tune */
	struct task_text *text;
	struct sequences sequences;
	struct example *examples;
	uint32_t max_tokens;
	struct eval_report report;
};

static void eval_done(struct eval *e)
{
	free(e->examples);
	sequences_done(&e->sequences);
	task_text_free(e->text);
}

static int open_text(struct eval *e, struct reason *reason)
{
	const struct served *base = e->settings->base;
	const struct task_text_settings settings = {
		.base = base->base->image,
		.delta = base->delta ? base->delta->image : NULL,
		.config = e->config,
	};
	int r = task_text_new(&settings, &e->text, reason);

	if (r == 0 && task_text_format(e->text))
		snprintf(e->report.chat_format, sizeof(e->report.chat_format), "%s",
			task_text_format(e->text));
	return r;
}

static int encode_example(
	struct eval *e, const struct task *task, struct example *ret, struct reason *reason)
{
	size_t i = e->sequences.n;
	int r = task_text_reference(e->text, task, &e->sequences, reason);

	if (r < 0)
		return r;
	*ret = (struct example){
		.sequence = i,
		.too_long = e->sequences.n == i ||
			    e->sequences.items[i].answer + e->max_tokens > e->config->max_positions,
	};
	return 0;
}

static int encode_examples(struct eval *e, struct reason *reason)
{
	const struct tasks *tasks = e->settings->tasks;

	e->examples = calloc(tasks->n, sizeof(*e->examples));
	if (!e->examples)
		return -ENOMEM;
	for (size_t i = 0; i < tasks->n; i++) {
		int r = encode_example(e, &tasks->tasks[i], &e->examples[i], reason);

		if (r < 0)
			return reason_prefix(reason, r, "task %zu", i + 1);
		e->report.n_too_long += e->examples[i].too_long;
	}
	return 0;
}

static int compare_examples(
	struct eval *e, struct compare *compare, struct comparison *sums, struct reason *reason)
{
	size_t n = e->settings->tasks->n;

	for (size_t i = 0; i < n; i++) {
		const struct example *x = &e->examples[i];
		const struct sequence *q;
		int r;

		progress_update(e->settings->progress, "comparing", i, n);
		if (x->too_long)
			continue;
		q = &e->sequences.items[x->sequence];
		r = compare_sequence(compare, sequence_ids(&e->sequences, x->sequence), q->n,
			q->answer - 1, sums, reason);
		if (r < 0)
			return r;
	}
	progress_update(e->settings->progress, "comparing", n, n);
	return 0;
}

/* The base cannot read tokens that the fine-tune added. */
static bool base_reads_all(const struct eval *e)
{
	return variant_config(e->settings->base->variant)->vocab == e->config->vocab;
}

static int measure_closeness(struct eval *e, struct reason *reason)
{
	const struct eval_settings *s = e->settings;
	const struct compare_settings settings = {
		.pool = s->pool,
		.tuned_model = s->tuned->model,
		.model = s->base->model,
		.tuned = s->tuned->variant,
		.delta = served_variant(s->base),
		.base = base_reads_all(e) ? s->base->variant : NULL,
		.kv_type = s->kv_type,
		.max_positions = (uint32_t)min_u64(
			e->config->max_positions, model_config(s->base->model)->max_positions),
	};
	_cleanup_(compare_freep) struct compare *compare = NULL;
	struct comparison sums = {0};
	int r;

	r = compare_new(&settings, &compare, reason);
	if (r == 0)
		r = compare_examples(e, compare, &sums, reason);
	if (r < 0)
		return r;
	e->report.n_tokens = sums.n;
	e->report.kl = comparison_kl(&sums);
	e->report.kl_error = comparison_kl_error(&sums);
	e->report.agreement = comparison_agreement(&sums);
	e->report.perplexity = comparison_perplexity(&sums, sums.sum_nll_delta);
	e->report.tuned_perplexity = comparison_perplexity(&sums, sums.sum_nll_tuned);
	e->report.base_perplexity =
		settings.base ? comparison_perplexity(&sums, sums.sum_nll_base) : (double)NAN;
	return 0;
}

struct contestant {
	const char *stage;
	const struct model *model;
	const struct variant *variant;
	enum kv_type kv_type;
	double *ret_score;
};

static size_t list_questions(const struct eval *e, struct question *ret)
{
	size_t n = 0;

	for (size_t i = 0; i < e->settings->tasks->n; i++)
		if (!e->examples[i].too_long)
			ret[n++] = (struct question){
				.task = &e->settings->tasks->tasks[i],
				.prompt = sequence_ids(&e->sequences, e->examples[i].sequence),
				.n_prompt = e->sequences.items[e->examples[i].sequence].answer,
			};
	return n;
}

static int solve(struct eval *e, const struct contestant *c, struct reason *reason)
{
	const struct tasks *tasks = e->settings->tasks;
	_cleanup_(freep) struct question *questions = calloc(tasks->n, sizeof(*questions));
	const struct questions_settings settings = {
		.text = e->text,
		.model = c->model,
		.variant = c->variant,
		.kv_type = c->kv_type,
		.pool = e->settings->pool,
		.progress = e->settings->progress,
		.stage = c->stage,
		.metric = tasks->metric,
		.max_tokens = e->max_tokens,
	};
	uint64_t n_solved = 0;
	size_t n;
	int r;

	if (!questions)
		return -ENOMEM;
	n = list_questions(e, questions);
	r = questions_ask(&settings, questions, n, reason);
	for (size_t i = 0; r == 0 && i < n; i++)
		n_solved += questions[i].solved;
	if (r == 0)
		*c->ret_score = (double)n_solved / (double)tasks->n;
	return r;
}

static int measure_usefulness(struct eval *e, struct reason *reason)
{
	const struct served *base = e->settings->base, *tuned = e->settings->tuned;
	struct eval_report *report = &e->report;
	enum kv_type kv = e->settings->kv_type;
	const struct contestant contestants[] = {
		{"fine-tune", tuned->model, tuned->variant, KV_TYPE_F32, &report->tuned_score},
		{"base + delta", base->model, served_variant(base), kv, &report->score},
		{"base", base->model, base->variant, kv, &report->base_score},
	};
	size_t n = base_reads_all(e) ? 3 : 2;

	report->base_score = (double)NAN;
	for (size_t i = 0; i < n; i++) {
		int r = solve(e, &contestants[i], reason);

		if (r < 0)
			return r;
	}
	report->score_error =
		sqrt(report->score * (1 - report->score) / (double)e->settings->tasks->n);
	return 0;
}

static int judge(struct eval *e, struct reason *reason)
{
	struct eval_report *report = &e->report;
	int r;

	r = measure_closeness(e, reason);
	if (r < 0)
		return r;
	if (e->settings->no_score) {
		report->score = report->tuned_score = (double)NAN;
		report->base_score = report->score_error = (double)NAN;
		return 0;
	}
	if (e->settings->tasks->metric != TASK_METRIC_PERPLEXITY)
		return measure_usefulness(e, reason);
	report->score = report->perplexity;
	report->tuned_score = report->tuned_perplexity;
	report->base_score = report->base_perplexity;
	report->score_error = (double)NAN;
	return 0;
}

/* The file whose size counts. */
static const struct image *judged_image(const struct served *s)
{
	return s->delta ? s->delta->image : s->base->image;
}

int eval_run(const struct eval_settings *settings, struct eval_report *ret, struct reason *reason)
{
	const struct tasks *tasks = settings->tasks;
	_cleanup_(eval_done) struct eval e = {
		.settings = settings,
		.config = variant_config(served_variant(settings->base)),
		.max_tokens = settings->max_tokens ? settings->max_tokens
						   : task_metric_tokens(tasks->metric),
	};
	int r;

	r = open_text(&e, reason);
	if (r == 0)
		r = encode_examples(&e, reason);
	if (r == 0)
		r = judge(&e, reason);
	if (r < 0)
		return r;
	e.report.metric = tasks->metric;
	e.report.n_tasks = tasks->n;
	e.report.file_bytes = judged_image(settings->base)->header.file_bytes;
	e.report.original_bytes = model_16bit_bytes(e.config);
	e.report.ratio = (double)e.report.original_bytes / (double)e.report.file_bytes;
	*ret = e.report;
	return 0;
}
