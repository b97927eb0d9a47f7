/*
 * deltactl eval: a delta, or a base alone, on tasks, beside the uncompressed model.
 */
#include "client/deltactl/command.h"
#include "client/deltactl/commands.h"
#include "client/deltactl/json_line.h"
#include "client/deltactl/number.h"
#include "client/deltactl/word.h"
#include "compress/eval.h"
#include "engine/kv.h"
#include "foreign/sandbox.h"

#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char options_help[] =
	"      --base FILE      the base image\n"
	"      --delta FILE     the delta file (default: none, the base is measured)\n"
	"      --tuned DIR      the fine-tune itself; without a delta, what the base was\n"
	"                       imported from, or another model of its shape\n"
	"      --tasks FILE     one JSON object a line: prompt, reference, answer, metric\n"
	"                       (final-number, exact, perplexity)\n"
	"      --rows A:B       tasks A up to but not B of the file, from 0 (default: all)\n"
	"      --limit N        the first N tasks only: --rows 0:N\n"
	"      --kv TYPE        how base and delta keep keys and values: f32 (default), bf16\n"
	"                       or int8, as engine.kv_type of the daemon's configuration\n"
	"      --no-score       generate nothing: KL, agreement and perplexity only\n"
	"      --max-tokens N   of a generated answer (64 for final-number, 192 for exact)\n"
	"      --threads N      default: as many as the process may use\n"
	"      --json           the result as a JSON object\n"
	"  -q, --quiet          no progress\n"
	"\n"
	"KL(fine-tune || base + delta) and agreement are over the tokens of the reference\n"
	"answers and their ends, both models reading the reference (teacher forcing).\n"
	"Answers are generated greedily.\n";

struct eval_arguments {
	const char *base, *delta, *tuned, *tasks;
	uint64_t first_row, end_row;
	uint32_t max_tokens, n_threads;
	enum kv_type kv_type;
	bool no_score, json, quiet;
};

/* What the sandboxed child gets, and the memory through which it answers. Base and delta are
 * formats of our own and open already; the fine-tune's folder and the tasks are foreign. */
struct eval_call {
	const struct eval_arguments *arguments;
	struct base *base;
	struct delta *delta;
	struct eval_report *report;
};

enum option_value {
	OPTION_BASE = 256,
	OPTION_DELTA,
	OPTION_TUNED,
	OPTION_TASKS,
	OPTION_ROWS,
	OPTION_LIMIT,
	OPTION_KV,
	OPTION_NO_SCORE,
	OPTION_MAX_TOKENS,
	OPTION_THREADS,
	OPTION_JSON,
	OPTION_HELP,
};

static const struct option long_options[] = {
	{"base", required_argument, NULL, OPTION_BASE},
	{"delta", required_argument, NULL, OPTION_DELTA},
	{"tuned", required_argument, NULL, OPTION_TUNED},
	{"tasks", required_argument, NULL, OPTION_TASKS},
	{"rows", required_argument, NULL, OPTION_ROWS},
	{"limit", required_argument, NULL, OPTION_LIMIT},
	{"kv", required_argument, NULL, OPTION_KV},
	{"no-score", no_argument, NULL, OPTION_NO_SCORE},
	{"max-tokens", required_argument, NULL, OPTION_MAX_TOKENS},
	{"threads", required_argument, NULL, OPTION_THREADS},
	{"json", no_argument, NULL, OPTION_JSON},
	{"quiet", no_argument, NULL, 'q'},
	{"help", no_argument, NULL, OPTION_HELP},
	{0},
};

static bool set_limit(struct eval_arguments *a)
{
	uint32_t limit;

	if (!number_u32(optarg, &limit))
		return false;
	a->first_row = 0;
	a->end_row = limit ? limit : SIZE_MAX;
	return true;
}

/* True if the value is understood. */
static bool set_option(struct eval_arguments *a, int option)
{
	switch (option) {
	case OPTION_BASE:
		a->base = optarg;
		return true;
	case OPTION_DELTA:
		a->delta = optarg;
		return true;
	case OPTION_TUNED:
		a->tuned = optarg;
		return true;
	case OPTION_TASKS:
		a->tasks = optarg;
		return true;
	case OPTION_ROWS:
		return number_range(optarg, &a->first_row, &a->end_row);
	case OPTION_LIMIT:
		return set_limit(a);
	case OPTION_KV:
		return word_kv_type(optarg, &a->kv_type);
	case OPTION_NO_SCORE:
		a->no_score = true;
		return true;
	case OPTION_MAX_TOKENS:
		return number_u32(optarg, &a->max_tokens);
	case OPTION_THREADS:
		return number_u32(optarg, &a->n_threads);
	case OPTION_JSON:
		a->json = true;
		return true;
	case 'q':
		a->quiet = true;
		return true;
	default:
		return false;
	}
}

/* 0: go on. An exit code, or -1 for --help, otherwise. */
static int parse_arguments(int argc, char **argv, struct eval_arguments *ret)
{
	int option;

	optind = 0;
	opterr = 0;
	while ((option = getopt_long(argc, argv, "q", long_options, NULL)) != -1) {
		if (option == OPTION_HELP)
			return -1;
		if (option == '?')
			return command_bad_option(&command_eval, argv);
		if (set_option(ret, option))
			continue;
		return command_usage(&command_eval,
			option == OPTION_KV ? "--kv '%s': expected f32, bf16 or int8"
					    : "'%s' is not a number or range",
			optarg);
	}
	if (optind < argc)
		return command_usage(&command_eval, "unexpected argument '%s'", argv[optind]);
	if (!ret->base || !ret->tuned || !ret->tasks)
		return command_usage(&command_eval, "--base, --tuned and --tasks are needed");
	return 0;
}

/* Takes base and delta out of the call. */
static int open_served(struct eval_call *call, const struct kernels *kernels, struct served *ret,
	struct reason *reason)
{
	int r;

	r = served_of_base(take_ptr(call->base), kernels, ret, reason);
	if (r < 0 || !call->delta)
		return r;
	return served_add_delta(ret, take_ptr(call->delta), reason);
}

/* The model that a delta was made from; without one, any that reads the same tokens. */
static int check_tuned(const struct eval_arguments *a, const struct served *base,
	const struct base *tuned, struct reason *reason)
{
	const struct model_config *config = &base->base->config;

	if (!base->delta && tuned->config.vocab != config->vocab)
		return reason_set(reason, -EMEDIUMTYPE, "%s has a vocabulary of %u, %s one of %u",
			a->tuned, tuned->config.vocab, a->base, config->vocab);
	if (!base->delta)
		return model_config_fits(&tuned->config, config, reason);
	if (!digest_equal(&base->delta->image->header.tuned, base_model_digest(tuned)))
		return reason_set(
			reason, -EMEDIUMTYPE, "%s was not made from %s", a->delta, a->tuned);
	return 0;
}

static int open_tuned(const struct eval_arguments *a, const struct kernels *kernels,
	const struct served *base, struct served *ret, struct reason *reason)
{
	_cleanup_(checkpointp) struct checkpoint *checkpoint = NULL;
	int r;

	r = checkpoint_open(a->tuned, &checkpoint, reason);
	if (r == 0)
		r = served_of_checkpoint(checkpoint, WEIGHTS_BF16, kernels, NULL, ret, reason);
	return r < 0 ? r : check_tuned(a, base, ret->base, reason);
}

/* In the sandboxed child. */
static int eval_in_sandbox(void *arg, struct reason *reason)
{
	struct eval_call *call = arg;
	const struct eval_arguments *a = call->arguments;
	_cleanup_(served_done) struct served base = {0};
	_cleanup_(served_done) struct served tuned = {0};
	_cleanup_(tasks_done) struct tasks tasks = {0};
	_cleanup_(poolp) struct pool *pool = NULL;
	struct eval_settings settings = {
		.base = &base,
		.tuned = &tuned,
		.tasks = &tasks,
		.max_tokens = a->max_tokens,
		.kv_type = a->kv_type,
		.no_score = a->no_score,
	};
	struct progress_bar bar;
	struct kernels kernels;
	int r;

	r = kernels_select(&kernels, getenv("DELTAD_ISA"), reason);
	if (r == 0)
		r = pool_new(a->n_threads, &pool, reason);
	if (r == 0)
		r = tasks_load_rows(a->tasks, a->first_row, a->end_row, &tasks, reason);
	if (r == 0)
		r = open_served(call, &kernels, &base, reason);
	if (r == 0)
		r = open_tuned(a, &kernels, &base, &tuned, reason);
	if (r < 0)
		return r;
	settings.pool = pool;
	settings.progress = progress_bar(&bar, "tasks", a->quiet);
	r = eval_run(&settings, call->report, reason);
	progress_bar_end(&bar);
	return r;
}

static void print_report(const struct eval_arguments *a, const struct eval_report *r)
{
	const char *of = a->delta ? "fine-tune" : "original";
	char file[16], original[16], of_base[16];

	printf("%s: %s, %.2fx smaller than the %s's %s\n", a->delta ? a->delta : a->base,
		human_bytes(r->file_bytes, file), r->ratio, of,
		human_bytes(r->original_bytes, original));
	printf("  %" PRIu64 " tasks, %" PRIu64 " tokens of reference answers, chat format %s\n",
		r->n_tasks, r->n_tokens, r->chat_format[0] ? r->chat_format : "none");
	if (r->n_too_long)
		printf("  %" PRIu64 " tasks do not fit the model's context and count as wrong\n",
			r->n_too_long);
	printf("  KL to the %-9s  %.5f +- %.5f nats, teacher-forced on the references\n", of, r->kl,
		r->kl_error);
	printf("  agreement            %.4f\n", r->agreement);
	printf("  perplexity           %.4f, %s %.4f, base %s\n", r->perplexity, of,
		r->tuned_perplexity, human_figure(r->base_perplexity, 4, of_base));
	if (r->metric != TASK_METRIC_PERPLEXITY && !a->no_score)
		printf("  %-20s %.4f +- %.4f, %s %.4f, base %s\n", task_metric_name(r->metric),
			r->score, r->score_error, of, r->tuned_score,
			human_figure(r->base_score, 4, of_base));
}

static json_t *real(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

static int print_json(
	const struct eval_arguments *a, const struct eval_report *r, struct reason *reason)
{
	json_t *object = json_pack("{ss? ss ss so so so so so so so so so so sI sI so sI sI sI ss}",
		"delta", a->delta, "kv", kv_type_names[a->kv_type], "metric",
		task_metric_name(r->metric), "kl", real(r->kl), "kl_error", real(r->kl_error),
		"agreement", real(r->agreement), "score", real(r->score), "score_error",
		real(r->score_error), "tuned_score", real(r->tuned_score), "base_score",
		real(r->base_score), "perplexity", real(r->perplexity), "tuned_perplexity",
		real(r->tuned_perplexity), "base_perplexity", real(r->base_perplexity),
		"file_bytes", (json_int_t)r->file_bytes, "original_bytes",
		(json_int_t)r->original_bytes, "ratio", real(r->ratio), "tokens",
		(json_int_t)r->n_tokens, "tasks", (json_int_t)r->n_tasks, "tasks_too_long",
		(json_int_t)r->n_too_long, "chat_format", r->chat_format);

	return json_line_print(object, 0, reason);
}

static int eval(struct eval_call *call, struct reason *reason)
{
	static const struct sandbox_limits limits = {0};
	const struct eval_arguments *a = call->arguments;
	int r;

	r = base_open(a->base, &call->base, NULL, reason);
	if (r == 0 && a->delta)
		r = delta_open(a->delta, call->base, &call->delta, NULL, reason);
	if (r == 0)
		r = sandbox_call(eval_in_sandbox, call, &limits, reason);
	delta_free(call->delta);
	base_free(call->base);
	return r;
}

/* What the child left is as little to be trusted as what it read. */
static int check_answer(struct eval_report *report, struct reason *reason)
{
	sandbox_end_text(report->chat_format);
	if ((unsigned int)report->metric <= TASK_METRIC_PERPLEXITY)
		return 0;
	return reason_set(reason, -EBADMSG, "the sandboxed reader answered nonsense");
}

static int run(int argc, char **argv)
{
	struct eval_arguments arguments = {.end_row = SIZE_MAX};
	struct eval_call call = {.arguments = &arguments};
	struct reason reason = {0};
	int r;

	r = parse_arguments(argc, argv, &arguments);
	if (r != 0)
		return r < 0 ? command_help(&command_eval, options_help) : r;
	call.report = sandbox_memory_new(sizeof(*call.report));
	if (!call.report)
		return command_fail(argv[0], -ENOMEM, &reason);
	r = eval(&call, &reason);
	if (r == 0)
		r = check_answer(call.report, &reason);
	if (r == 0 && arguments.json)
		r = print_json(&arguments, call.report, &reason);
	else if (r == 0)
		print_report(&arguments, call.report);
	sandbox_memory_free(call.report, sizeof(*call.report));
	return r < 0 ? command_fail(argv[0], r, &reason) : EXIT_OK;
}

const struct command command_eval = {
	.name = "eval",
	.arguments = "--base FILE [--delta FILE] --tuned DIR --tasks FILE [--rows A:B] [--kv TYPE] "
		     "[--no-score] [--json]",
	.summary = "measure a delta, or a base, on tasks beside the uncompressed model",
	.run = run,
};
