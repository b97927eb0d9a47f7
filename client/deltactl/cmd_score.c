/*
 * deltactl score: what a model thinks of given token ids.
 */
#include "client/deltactl/command.h"
#include "client/deltactl/commands.h"
#include "client/deltactl/id_lines.h"
#include "client/deltactl/json_line.h"
#include "client/deltactl/number.h"
#include "client/deltactl/offline_model.h"
#include "engine/score.h"

#include <getopt.h>
#include <math.h>
#include <string.h>

static const char options_help[] =
	"  --base FILE       the base image\n"
	"  --delta FILE      a delta of it\n"
	"  --ids FILE        one JSON array of token ids a line; '-' is standard input\n"
	"  --greedy N        also continue each line with the N most probable tokens, one after "
	"the\n"
	"                    other; stops after an end-of-text id\n"
	"  --ignore-eos      go on after it\n"
	"  --last-logits     also give the logits after the last id (with --json)\n"
	"  --json            one object a line: logprobs, greedy, last_logits\n"
	"  --threads N       default: as many as the process may use\n"
	"\n"
	"Log-probabilities are natural, one for each token from the second. Keys and values are "
	"kept\n"
	"in f32. DELTAD_ISA=ref|avx2|avx512|amx chooses the kernels.\n";

struct options {
	const char *base, *delta, *ids;
	uint32_t n_greedy, n_threads;
	bool greedy, ignore_eos, last_logits, json;
};

enum option_value {
	OPTION_BASE = 256,
	OPTION_DELTA,
	OPTION_IDS,
	OPTION_GREEDY,
	OPTION_IGNORE_EOS,
	OPTION_LAST_LOGITS,
	OPTION_JSON,
	OPTION_THREADS,
	OPTION_HELP,
};

static const struct option long_options[] = {
	{"base", required_argument, NULL, OPTION_BASE},
	{"delta", required_argument, NULL, OPTION_DELTA},
	{"ids", required_argument, NULL, OPTION_IDS},
	{"greedy", required_argument, NULL, OPTION_GREEDY},
	{"ignore-eos", no_argument, NULL, OPTION_IGNORE_EOS},
	{"last-logits", no_argument, NULL, OPTION_LAST_LOGITS},
	{"json", no_argument, NULL, OPTION_JSON},
	{"threads", required_argument, NULL, OPTION_THREADS},
	{"help", no_argument, NULL, OPTION_HELP},
	{0},
};

/* One line's results. */
struct scores {
	const struct id_line *line;
	uint32_t vocab;
	double *logprobs;   /* line->n - 1 */
	float *last_logits; /* vocab */
	uint32_t *greedy;
	size_t n_greedy;
};

/* True if the value is understood. */
static bool set_option(struct options *o, int option)
{
	switch (option) {
	case OPTION_BASE:
		o->base = optarg;
		return true;
	case OPTION_DELTA:
		o->delta = optarg;
		return true;
	case OPTION_IDS:
		o->ids = optarg;
		return true;
	case OPTION_GREEDY:
		o->greedy = true;
		return number_u32(optarg, &o->n_greedy);
	case OPTION_IGNORE_EOS:
		o->ignore_eos = true;
		return true;
	case OPTION_LAST_LOGITS:
		o->last_logits = true;
		return true;
	case OPTION_JSON:
		o->json = true;
		return true;
	case OPTION_THREADS:
		return number_u32(optarg, &o->n_threads);
	default:
		return false;
	}
}

/* 0: go on. EXIT_USAGE or, for --help, -1 otherwise. */
static int parse_options(int argc, char **argv, struct options *o)
{
	const struct command *self = &command_score;
	int option;

	optind = 0;
	opterr = 0;
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (option == OPTION_HELP)
			return -1;
		if (option == '?')
			return command_bad_option(self, argv);
		if (!set_option(o, option))
			return command_usage(self, "'%s' is not a number", optarg);
	}
	if (optind < argc)
		return command_usage(self, "unexpected argument '%s'", argv[optind]);
	if (!o->base || !o->ids)
		return command_usage(self, "--base and --ids are needed");
	if (o->last_logits && !o->json)
		return command_usage(self, "--last-logits needs --json");
	return 0;
}

static void visit(void *user, size_t position, const float *logits)
{
	struct scores *s = user;

	if (position + 1 < s->line->n)
		s->logprobs[position] =
			logits_logprob(logits, s->vocab, s->line->ids[position + 1]);
	else
		memcpy(s->last_logits, logits, s->vocab * sizeof(*logits));
}

/* null stands for what JSON cannot write. */
static json_t *real(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

static json_t *logprobs_json(const struct scores *s)
{
	json_t *array = json_array();

	for (size_t i = 0; i + 1 < s->line->n; i++)
		json_array_append_new(array, real(s->logprobs[i]));
	return array;
}

static json_t *logits_json(const struct scores *s)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < s->vocab; i++)
		json_array_append_new(array, real((double)s->last_logits[i]));
	return array;
}

static json_t *greedy_json(const struct scores *s)
{
	json_t *array = json_array();

	for (size_t i = 0; i < s->n_greedy; i++)
		json_array_append_new(array, json_integer(s->greedy[i]));
	return array;
}

static int print_json(const struct options *o, const struct scores *s, struct reason *reason)
{
	json_t *object = json_object();
	int r = json_object_set_new(object, "logprobs", logprobs_json(s));

	if (o->greedy)
		r |= json_object_set_new(object, "greedy", greedy_json(s));
	if (o->last_logits)
		r |= json_object_set_new(object, "last_logits", logits_json(s));
	if (r < 0) {
		json_decref(object);
		return reason_set(reason, -ENOMEM, "no memory for the scores");
	}
	return json_line_print(object, JSON_REAL_PRECISION(9), reason);
}

static void print_plain(const struct options *o, const struct scores *s)
{
	double sum = 0;
	size_t n = s->line->n - 1;

	for (size_t i = 0; i < n; i++)
		sum += s->logprobs[i];
	printf("line %zu: %zu tokens", s->line->number, s->line->n);
	if (n)
		printf(", log-probability %.4f, perplexity %.4f", sum, exp(-sum / (double)n));
	if (o->greedy)
		printf(", greedy");
	for (size_t i = 0; i < s->n_greedy; i++)
		printf(" %u", s->greedy[i]);
	putchar('\n');
}

static int score_line(const struct options *o, struct scorer *scorer, const struct variant *variant,
	struct scores *s, struct reason *reason)
{
	int r = score_sequence(scorer, variant, s->line->ids, s->line->n, visit, s, reason);

	s->n_greedy = 0;
	if (r == 0 && o->greedy)
		r = score_greedy(
			scorer, o->n_greedy, o->ignore_eos, s->greedy, &s->n_greedy, reason);
	if (r < 0)
		return r;
	if (o->json)
		return print_json(o, s, reason);
	print_plain(o, s);
	return 0;
}

static size_t longest_of(const struct id_lines *lines)
{
	size_t longest = 1;

	for (size_t i = 0; i < lines->n; i++)
		longest = max_u64(longest, lines->lines[i].n);
	return longest;
}

static int score_lines(const struct options *o, const struct offline_model *m,
	const struct id_lines *lines, struct reason *reason)
{
	uint32_t vocab = variant_config(m->variant)->vocab;
	size_t longest = longest_of(lines);
	_cleanup_(scorerp) struct scorer *scorer = NULL;
	_cleanup_(freep) double *logprobs = calloc(longest, sizeof(*logprobs));
	_cleanup_(freep) float *last_logits = calloc(vocab, sizeof(*last_logits));
	_cleanup_(freep) uint32_t *greedy = calloc(o->n_greedy + 1ul, sizeof(*greedy));
	int r = 0;

	if (!logprobs || !last_logits || !greedy)
		return reason_set(reason, -ENOMEM, "no memory for the scores");
	r = scorer_new(m->model, m->pool, (uint32_t)(longest + o->n_greedy), &scorer, reason);
	for (size_t i = 0; i < lines->n && r == 0; i++) {
		struct scores s = {
			.line = &lines->lines[i],
			.vocab = vocab,
			.logprobs = logprobs,
			.last_logits = last_logits,
			.greedy = greedy,
		};

		r = score_line(o, scorer, m->variant, &s, reason);
	}
	return r;
}

static int score(const struct options *o, struct reason *reason)
{
	_cleanup_(offline_model_done) struct offline_model m = {0};
	_cleanup_(id_lines_done) struct id_lines lines = {0};
	uint32_t most;
	int r = offline_model_open(o->base, o->delta, o->n_threads, &m, reason);

	if (r < 0)
		return r;
	most = model_config(m.model)->max_positions;
	if (o->n_greedy >= most)
		return reason_set(reason, -EINVAL, "--greedy %u: the model takes %u tokens in all",
			o->n_greedy, most);
	r = id_lines_read(
		o->ids, variant_config(m.variant)->vocab, most - o->n_greedy, &lines, reason);
	return r < 0 ? r : score_lines(o, &m, &lines, reason);
}

static int run(int argc, char **argv)
{
	struct options o = {0};
	struct reason reason = {0};
	int r = parse_options(argc, argv, &o);

	if (r != 0)
		return r < 0 ? command_help(&command_score, options_help) : r;
	r = score(&o, &reason);
	return r < 0 ? command_fail(argv[0], r, &reason) : EXIT_OK;
}

const struct command command_score = {
	.name = "score",
	.arguments = "--base FILE [--delta FILE] --ids FILE [--greedy N] [--ignore-eos] "
		     "[--last-logits] [--json] [--threads N]",
	.summary = "log-probabilities of given token ids",
	.run = run,
};
