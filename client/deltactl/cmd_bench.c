/*
 * deltactl bench: how fast a base and its variants read prompts and generate on this machine.
 */
#include "client/deltactl/bench_report.h"
#include "client/deltactl/bench_run.h"
#include "client/deltactl/command.h"
#include "client/deltactl/commands.h"
#include "client/deltactl/number.h"
#include "client/deltactl/word.h"

#include <getopt.h>

#define MAX_ROWS 4096u
#define MAX_REPEATS 1000u

static const char options_help[] =
	"      --base FILE      the base image\n"
	"      --delta FILE     a delta of it; repeatable, also with the same file\n"
	"      --prompt N,...   tokens of a prompt (512); 0: none\n"
	"      --generate N     tokens that each row generates (32); 0: none\n"
	"      --batch N,...    rows that generate side by side (1); with deltas also each row on\n"
	"                       one of them, by turns, and a row alone on each\n"
	"      --depth N,...    positions that one row has behind it, beside 0\n"
	"      --repeats N      of each test (5)\n"
	"      --chunk N        most rows of a prompt in one step (128, as engine.batch_rows)\n"
	"      --kv TYPE        of keys and values: bf16 (default), int8 or f32\n"
	"      --threads N      default: as many as the process may use\n"
	"      --json           the result as a JSON object\n"
	"  -q, --quiet          no progress\n"
	"\n"
	"Tokens a second are the median of the repeats, of all rows together. A token's MB are "
	"what\n"
	"a step must read, shared by its rows: weights and, but for prompts, keys and values. "
	"What\n"
	"memory gives is measured between the repeats, with the same threads; a small model may "
	"come\n"
	"from caches and be above. DELTAD_ISA=ref|avx2|avx512|amx chooses the kernels.\n";

struct bench_arguments {
	const char *base;
	const char **deltas; /* n_deltas; the options' own */
	size_t n_deltas;
	struct number_list prompts, batches, depths;
	uint32_t n_generate, n_repeats, chunk, n_threads;
	enum kv_type kv_type;
	bool json, quiet;
};

enum option_value {
	OPTION_BASE = 256,
	OPTION_DELTA,
	OPTION_PROMPT,
	OPTION_GENERATE,
	OPTION_BATCH,
	OPTION_DEPTH,
	OPTION_REPEATS,
	OPTION_CHUNK,
	OPTION_KV,
	OPTION_THREADS,
	OPTION_JSON,
	OPTION_HELP,
};

static const struct option long_options[] = {
	{"base", required_argument, NULL, OPTION_BASE},
	{"delta", required_argument, NULL, OPTION_DELTA},
	{"prompt", required_argument, NULL, OPTION_PROMPT},
	{"generate", required_argument, NULL, OPTION_GENERATE},
	{"batch", required_argument, NULL, OPTION_BATCH},
	{"depth", required_argument, NULL, OPTION_DEPTH},
	{"repeats", required_argument, NULL, OPTION_REPEATS},
	{"chunk", required_argument, NULL, OPTION_CHUNK},
	{"kv", required_argument, NULL, OPTION_KV},
	{"threads", required_argument, NULL, OPTION_THREADS},
	{"json", no_argument, NULL, OPTION_JSON},
	{"quiet", no_argument, NULL, 'q'},
	{"help", no_argument, NULL, OPTION_HELP},
	{0},
};

static bool set_count(uint32_t least, uint32_t most, uint32_t *ret)
{
	uint32_t n;

	if (!number_u32(optarg, &n) || n < least || n > most)
		return false;
	*ret = n;
	return true;
}

static bool set_batches(struct bench_arguments *a)
{
	if (!number_list(optarg, MAX_ROWS, &a->batches))
		return false;
	for (size_t i = 0; i < a->batches.n; i++)
		if (a->batches.numbers[i] == 0)
			return false;
	return true;
}

/* True if the value is understood. */
static bool set_option(struct bench_arguments *a, int option)
{
	switch (option) {
	case OPTION_BASE:
		a->base = optarg;
		return true;
	case OPTION_DELTA:
		a->deltas[a->n_deltas++] = optarg;
		return true;
	case OPTION_PROMPT:
		return number_list(optarg, UINT32_MAX, &a->prompts);
	case OPTION_GENERATE:
		return number_u32(optarg, &a->n_generate);
	case OPTION_BATCH:
		return set_batches(a);
	case OPTION_DEPTH:
		return number_list(optarg, UINT32_MAX, &a->depths);
	case OPTION_REPEATS:
		return set_count(1, MAX_REPEATS, &a->n_repeats);
	case OPTION_CHUNK:
		return set_count(1, MAX_ROWS, &a->chunk);
	case OPTION_KV:
		return word_kv_type(optarg, &a->kv_type);
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
static int parse_arguments(int argc, char **argv, struct bench_arguments *ret)
{
	const struct command *self = &command_bench;
	int option, index = 0;

	optind = 0;
	opterr = 0;
	while ((option = getopt_long(argc, argv, "q", long_options, &index)) != -1) {
		if (option == OPTION_HELP)
			return -1;
		if (option == '?')
			return command_bad_option(self, argv);
		if (!set_option(ret, option))
			return command_usage(self, "'%s' is not what --%s takes", optarg,
				long_options[index].name);
	}
	if (optind < argc)
		return command_usage(self, "unexpected argument '%s'", argv[optind]);
	if (!ret->base)
		return command_usage(self, "--base is needed");
	return 0;
}

/* The base, which is the first, and its deltas. */
struct bench_models {
	struct offline_model base;
	struct bench_variant *variants; /* 1 and deltas */
	size_t n;
};

static void bench_models_done(struct bench_models *m)
{
	for (size_t i = 1; i < m->n; i++) {
		variant_free(m->variants[i].variant);
		delta_free(m->variants[i].delta);
	}
	free(m->variants);
	offline_model_done(&m->base);
}

static int open_delta(const struct offline_model *base, const char *path, struct bench_variant *v,
	struct reason *reason)
{
	int r = delta_open(path, base->base, &v->delta, NULL, reason);

	v->path = path;
	if (r < 0)
		return r;
	r = variant_new(base->model, v->delta, &v->variant, reason);
	return r < 0 ? reason_prefix(reason, r, "%s", path) : 0;
}

static int open_models(
	const struct bench_arguments *a, struct bench_models *m, struct reason *reason)
{
	int r = offline_model_open(a->base, NULL, a->n_threads, &m->base, reason);

	if (r < 0)
		return r;
	m->variants = calloc(a->n_deltas + 1, sizeof(*m->variants));
	if (!m->variants)
		return -ENOMEM;
	m->variants[m->n++].variant = m->base.variant;
	for (size_t i = 0; i < a->n_deltas && r == 0; i++)
		r = open_delta(&m->base, a->deltas[i], &m->variants[m->n++], reason);
	return r;
}

struct tests {
	struct bench_test *list;
	size_t n;
};

static void tests_done(struct tests *t)
{
	free(t->list);
}

/* On the base and on each delta. */
static void add_for_each(struct tests *t, const struct bench_models *m, struct bench_test test)
{
	test.n_variants = 1;
	for (size_t i = 0; i < m->n; i++) {
		test.variants = &m->variants[i];
		t->list[t->n++] = test;
	}
}

/* On the base and, if there are deltas, each row on one of them. */
static void add_batch(struct tests *t, const struct bench_models *m, struct bench_test test)
{
	test.variants = m->variants;
	test.n_variants = 1;
	t->list[t->n++] = test;
	if (m->n == 1)
		return;
	test.variants = m->variants + 1;
	test.n_variants = min_u64(m->n - 1, test.n_rows);
	t->list[t->n++] = test;
}

static void add_tests(
	const struct bench_arguments *a, const struct bench_models *m, struct tests *t)
{
	struct bench_test prompt = {.prompt = true, .n_rows = 1};
	struct bench_test decode = {.n_tokens = a->n_generate, .n_rows = 1};

	for (size_t i = 0; i < a->prompts.n; i++) {
		prompt.n_tokens = a->prompts.numbers[i];
		if (prompt.n_tokens)
			add_for_each(t, m, prompt);
	}
	if (!a->n_generate)
		return;
	for (size_t i = 0; i < a->batches.n; i++) {
		decode.n_rows = a->batches.numbers[i];
		if (decode.n_rows == 1)
			add_for_each(t, m, decode);
		else
			add_batch(t, m, decode);
	}
	decode.n_rows = 1;
	for (size_t i = 0; i < a->depths.n; i++) {
		decode.depth = a->depths.numbers[i];
		if (decode.depth)
			add_for_each(t, m, decode);
	}
}

static int plan(const struct bench_arguments *a, const struct bench_models *m, struct tests *ret)
{
	size_t most = (a->prompts.n + a->batches.n + a->depths.n) * max_u64(m->n, 2);

	ret->list = calloc(most, sizeof(*ret->list));
	if (!ret->list)
		return -ENOMEM;
	add_tests(a, m, ret);
	return 0;
}

/* EXIT_OK, or what is wrong with the numbers that were asked for. */
static int check_tests(const struct bench_models *m, const struct tests *tests)
{
	uint32_t most = model_config(m->base.model)->max_positions;

	if (!tests->n)
		return command_usage(&command_bench, "--prompt 0 and --generate 0 measure nothing");
	for (size_t i = 0; i < tests->n; i++) {
		const struct bench_test *t = &tests->list[i];

		if ((uint64_t)t->depth + t->n_tokens > most)
			return command_usage(&command_bench,
				"%s %u%s: the model takes %u tokens in all",
				t->prompt  ? "--prompt"
				: t->depth ? "--depth"
					   : "--generate",
				t->depth ? t->depth : t->n_tokens,
				t->depth ? " and what is generated" : "", most);
	}
	return EXIT_OK;
}

static int measure(const struct bench_arguments *a, const struct bench_models *m,
	const struct tests *tests, struct reason *reason)
{
	_cleanup_(freep) struct bench_figures *figures = calloc(tests->n, sizeof(*figures));
	struct progress_bar bar;
	const struct bench_setup setup = {
		.model = &m->base,
		.kv_type = a->kv_type,
		.chunk = a->chunk,
		.n_repeats = a->n_repeats,
		.progress = progress_bar(&bar, "runs", a->quiet),
	};
	const struct bench_report report = {&setup, a->base, tests->list, figures, tests->n};
	int r;

	if (!figures)
		return -ENOMEM;
	r = bench_run(&setup, tests->list, tests->n, figures, reason);
	progress_bar_end(&bar);
	if (r < 0)
		return r;
	return a->json ? bench_report_print_json(&report, reason)
		       : bench_report_print(&report, reason);
}

/* An exit code. */
static int bench(const struct bench_arguments *a)
{
	_cleanup_(bench_models_done) struct bench_models models = {0};
	_cleanup_(tests_done) struct tests tests = {0};
	struct reason reason = {0};
	int r = open_models(a, &models, &reason);

	if (r == 0)
		r = plan(a, &models, &tests);
	if (r < 0)
		return command_fail(command_bench.name, r, &reason);
	r = check_tests(&models, &tests);
	if (r != EXIT_OK)
		return r;
	r = measure(a, &models, &tests, &reason);
	return r < 0 ? command_fail(command_bench.name, r, &reason) : EXIT_OK;
}

static int run(int argc, char **argv)
{
	_cleanup_(freep) const char **deltas = calloc((size_t)argc, sizeof(*deltas));
	struct bench_arguments arguments = {
		.deltas = deltas,
		.prompts = {.n = 1, .numbers = {512}},
		.batches = {.n = 1, .numbers = {1}},
		.n_generate = 32,
		.n_repeats = 5,
		.chunk = 128,
		.kv_type = KV_TYPE_BF16,
	};
	int r;

	if (!deltas)
		return command_fail(argv[0], -ENOMEM, &(struct reason){0});
	r = parse_arguments(argc, argv, &arguments);
	if (r != 0)
		return r < 0 ? command_help(&command_bench, options_help) : r;
	return bench(&arguments);
}

const struct command command_bench = {
	.name = "bench",
	.arguments =
		"--base FILE [--delta FILE ...] [--prompt N,...] [--generate N] [--batch N,...] "
		"[--depth N,...] [--json]",
	.summary = "measure prompt and decode rates on this machine",
	.run = run,
};
