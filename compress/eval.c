#include "compress/eval.h"

#include "compress/compare.h"
#include "compress/decode.h"
#include "compress/exact.h"
#include "engine/chat.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A task as tokens: prompt, then the reference and its end. */
struct example {
	uint32_t *ids;
	uint32_t n_prompt, n;
	bool too_long;
};

struct eval {
	const struct eval_settings *settings;
	const struct model_config *config; /* of the fine-tune */
	struct tokenizer *tokenizer;
	struct chat_format *format; /* or NULL */
	struct example *examples;
	uint32_t max_tokens;
	struct eval_report report;
};

static void eval_done(struct eval *e)
{
	for (size_t i = 0; e->examples && i < e->settings->tasks->n; i++)
		free(e->examples[i].ids);
	free(e->examples);
	chat_format_free(e->format);
	tokenizer_free(e->tokenizer);
}

static int open_texts(struct eval *e, struct reason *reason)
{
	const struct served *base = e->settings->base;
	const struct image *image = base->base->image;
	const struct image *delta = base->delta ? base->delta->image : NULL;
	int r;

	r = tokenizer_of(image, delta, &e->tokenizer, reason);
	if (r < 0)
		return r;
	r = chat_format_of(image, delta, &e->format, reason);
	if (r == -EOPNOTSUPP)
		return 0;
	if (r == 0)
		snprintf(e->report.chat_format, sizeof(e->report.chat_format), "%s",
			chat_format_name(e->format));
	return r;
}

static int encode_prompt(const struct eval *e, const struct task *task, uint32_t **ret,
	size_t *ret_n, struct reason *reason)
{
	const struct chat_message message = {
		.role = CHAT_ROLE_USER, .text = task->prompt, .n_text = strlen(task->prompt)};
	struct tokenizer_options options = {.add_specials = true};

	if (e->format)
		return chat_render(e->format, e->tokenizer, &message, 1, ret, ret_n, reason);
	return tokenizer_encode(
		e->tokenizer, task->prompt, message.n_text, options, ret, ret_n, reason);
}

static int encode_example(
	const struct eval *e, const struct task *task, struct example *ret, struct reason *reason)
{
	_cleanup_(freep) uint32_t *prompt = NULL;
	_cleanup_(freep) uint32_t *reference = NULL;
	struct tokenizer_options options = {0};
	size_t n_prompt, n_reference, n;
	int r;

	r = encode_prompt(e, task, &prompt, &n_prompt, reason);
	if (r == 0)
		r = tokenizer_encode(e->tokenizer, task->reference, strlen(task->reference),
			options, &reference, &n_reference, reason);
	if (r < 0)
		return r;
	ret->ids = malloc((n_prompt + n_reference + 1) * sizeof(*ret->ids));
	if (!ret->ids)
		return -ENOMEM;
	memcpy(ret->ids, prompt, n_prompt * sizeof(*prompt));
	memcpy(ret->ids + n_prompt, reference, n_reference * sizeof(*reference));
	n = n_prompt + n_reference;
	if (e->config->n_eos > 0)
		ret->ids[n++] = (uint32_t)e->config->eos[0];
	ret->n_prompt = (uint32_t)n_prompt;
	ret->n = (uint32_t)n;
	ret->too_long = n_prompt == 0 || n > e->config->max_positions ||
			n_prompt + e->max_tokens > e->config->max_positions;
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
		int r;

		progress_update(e->settings->progress, "comparing", i, n);
		if (x->too_long)
			continue;
		r = compare_sequence(compare, x->ids, x->n, x->n_prompt - 1, sums, reason);
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

/* Cuts the text where the chat format's stop string begins. */
static void cut_at_stop(const struct eval *e, char *text)
{
	const char *stop = e->format ? chat_format_stop(e->format) : NULL;
	char *at = stop ? strstr(text, stop) : NULL;

	if (at)
		*at = '\0';
}

static int count_solved(const struct eval *e, const struct decode_request *requests,
	const size_t *task_of, size_t n, double *ret_share, struct reason *reason)
{
	const struct tasks *tasks = e->settings->tasks;
	uint64_t n_solved = 0;

	for (size_t i = 0; i < n; i++) {
		_cleanup_(freep) char *text = NULL;
		size_t n_text;
		int r;

		r = tokenizer_decode(
			e->tokenizer, requests[i].ids, requests[i].n, true, &text, &n_text, reason);
		if (r < 0)
			return r;
		cut_at_stop(e, text);
		n_solved += task_solved(&tasks->tasks[task_of[i]], tasks->metric, text);
	}
	*ret_share = (double)n_solved / (double)tasks->n;
	return 0;
}

struct contestant {
	const char *stage;
	const struct model *model;
	const struct variant *variant;
	enum kv_type kv_type;
	double *ret_score;
};

static int solve(struct eval *e, const struct contestant *c, struct reason *reason)
{
	size_t n_tasks = e->settings->tasks->n, n = 0;
	_cleanup_(freep) struct decode_request *requests = calloc(n_tasks, sizeof(*requests));
	_cleanup_(freep) size_t *task_of = calloc(n_tasks, sizeof(*task_of));
	_cleanup_(freep) uint32_t *ids = calloc(n_tasks * e->max_tokens + 1, sizeof(*ids));
	const struct decode_settings settings = {
		.model = c->model,
		.variant = c->variant,
		.pool = e->settings->pool,
		.progress = e->settings->progress,
		.stage = c->stage,
		.stops = e->config->eos,
		.n_stops = e->config->n_eos,
		.max_tokens = e->max_tokens,
		.kv_type = c->kv_type,
	};
	int r;

	if (!requests || !task_of || !ids)
		return -ENOMEM;
	for (size_t i = 0; i < n_tasks; i++) {
		if (e->examples[i].too_long)
			continue;
		requests[n] = (struct decode_request){
			.prompt = e->examples[i].ids,
			.n_prompt = e->examples[i].n_prompt,
			.ids = ids + n * e->max_tokens,
		};
		task_of[n++] = i;
	}
	r = decode_greedy(&settings, requests, n, reason);
	if (r < 0)
		return r;
	return count_solved(e, requests, task_of, n, c->ret_score, reason);
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

	r = open_texts(&e, reason);
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
