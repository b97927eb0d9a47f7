/*
 * deltactl tokenize and detokenize: text to token ids and back, a line at a time, by the tokenizer
 * of a base image or of a model folder. Lines are JSON in and out, so that any text fits in one. A
 * folder holds foreign bytes; with one, all of the work happens in the sandbox.
 */
#include "client/deltactl/command.h"
#include "client/deltactl/commands.h"
#include "client/deltactl/json_line.h"
#include "engine/tokenizer.h"
#include "foreign/json.h"
#include "foreign/sandbox.h"
#include "foreign/tokenizer_json.h"

#include <getopt.h>
#include <string.h>

#define MEMORY_LIMIT (UINT64_C(4) << 30)
#define MAX_LINE_BYTES (64u << 20)

static const char tokenize_help[] =
	"  --base FILE        a base image\n"
	"  --delta FILE       a delta of it, which may add tokens\n"
	"  --tokenizer DIR    a model folder with tokenizer.json, instead of --base\n"
	"  --text TEXT        this text; else standard input has a JSON string a line\n"
	"\n"
	"Prints an object a line: ids, and ids_with_special as the model gets them, with what the\n"
	"tokenizer puts around a text. Special tokens that are spelled in the text count.\n";

static const char detokenize_help[] =
	"  --base FILE        a base image\n"
	"  --delta FILE       a delta of it, which may add tokens\n"
	"  --tokenizer DIR    a model folder with tokenizer.json, instead of --base\n"
	"  --skip-special     leave special tokens out of the text\n"
	"\n"
	"Standard input has a JSON array of ids a line; prints a JSON string a line.\n";

enum option_value {
	OPTION_BASE = 256,
	OPTION_DELTA,
	OPTION_TOKENIZER,
	OPTION_TEXT,
	OPTION_SKIP_SPECIAL,
	OPTION_HELP,
};

static const struct option tokenize_options[] = {
	{"base", required_argument, NULL, OPTION_BASE},
	{"delta", required_argument, NULL, OPTION_DELTA},
	{"tokenizer", required_argument, NULL, OPTION_TOKENIZER},
	{"text", required_argument, NULL, OPTION_TEXT},
	{"help", no_argument, NULL, OPTION_HELP},
	{0},
};

static const struct option detokenize_options[] = {
	{"base", required_argument, NULL, OPTION_BASE},
	{"delta", required_argument, NULL, OPTION_DELTA},
	{"tokenizer", required_argument, NULL, OPTION_TOKENIZER},
	{"skip-special", no_argument, NULL, OPTION_SKIP_SPECIAL},
	{"help", no_argument, NULL, OPTION_HELP},
	{0},
};

struct options {
	const char *base, *delta, *tokenizer, *text;
	bool skip_special, help;
};

/* One run of either command. */
struct job {
	const struct options *options;
	const struct tokenizer *tokenizer;
	/* Turns a line's value into what is printed; the caller's reference. */
	int (*convert)(
		const struct job *job, const json_t *line, json_t **ret, struct reason *reason);
};

static int set_option(const struct command *self, struct options *o, int option, char **argv)
{
	switch (option) {
	case OPTION_BASE:
		o->base = optarg;
		return 0;
	case OPTION_DELTA:
		o->delta = optarg;
		return 0;
	case OPTION_TOKENIZER:
		o->tokenizer = optarg;
		return 0;
	case OPTION_TEXT:
		o->text = optarg;
		return 0;
	case OPTION_SKIP_SPECIAL:
		o->skip_special = true;
		return 0;
	case OPTION_HELP:
		o->help = true;
		return 0;
	default:
		return command_bad_option(self, argv);
	}
}

static int parse_options(const struct command *self, const struct option *known, int argc,
	char **argv, struct options *o)
{
	int option, code = 0;

	optind = 0;
	opterr = 0;
	while (!code && (option = getopt_long(argc, argv, "", known, NULL)) != -1)
		code = set_option(self, o, option, argv);
	if (code || o->help)
		return code;
	if (optind < argc)
		return command_usage(self, "unexpected argument '%s'", argv[optind]);
	if (!o->base == !o->tokenizer)
		return command_usage(self, "either --base or --tokenizer is needed");
	if (o->delta && !o->base)
		return command_usage(self, "--delta needs --base");
	return 0;
}

static int append_ids(json_t *object, const char *key, const uint32_t *ids, size_t n)
{
	json_t *array = json_array();
	int failed = 0;

	for (size_t i = 0; i < n; i++)
		failed |= json_array_append_new(array, json_integer(ids[i]));
	return json_object_set_new(object, key, array) || failed ? -ENOMEM : 0;
}

static int encode_line(
	const struct job *job, const json_t *line, json_t **ret, struct reason *reason)
{
	static const char *const keys[] = {"ids", "ids_with_special"};
	_cleanup_(json_freep) json_t *object = json_object();

	if (!json_is_string(line))
		return reason_set(reason, -EBADMSG, "not a JSON string");
	for (size_t i = 0; i < array_len(keys); i++) {
		struct tokenizer_options options = {.add_specials = i, .parse_specials = true};
		_cleanup_(freep) uint32_t *ids = NULL;
		size_t n;
		int r = tokenizer_encode(job->tokenizer, json_string_value(line),
			json_string_length(line), options, &ids, &n, reason);

		if (r == 0)
			r = append_ids(object, keys[i], ids, n);
		if (r < 0)
			return r;
	}
	*ret = take_ptr(object);
	return 0;
}

static int decode_line(
	const struct job *job, const json_t *line, json_t **ret, struct reason *reason)
{
	size_t n_ids = json_array_size(line), n;
	_cleanup_(freep) uint32_t *ids = calloc(n_ids + 1, sizeof(*ids));
	_cleanup_(freep) char *text = NULL;
	int r;

	if (!ids)
		return -ENOMEM;
	if (!json_is_array(line))
		return reason_set(reason, -EBADMSG, "not a JSON array");
	for (size_t i = 0; i < n_ids; i++) {
		const json_t *id = json_array_get(line, i);
		json_int_t value = json_integer_value(id);

		if (!json_is_integer(id) || value < 0 || value > UINT32_MAX)
			return reason_set(reason, -EBADMSG, "element %zu is not a token id", i);
		ids[i] = (uint32_t)value;
	}
	r = tokenizer_decode(
		job->tokenizer, ids, n_ids, job->options->skip_special, &text, &n, reason);
	if (r < 0)
		return r;
	*ret = json_stringn(text, n);
	return *ret ? 0 : -ENOMEM;
}

static int print_value(const struct job *job, const json_t *line, struct reason *reason)
{
	json_t *value;
	int r = job->convert(job, line, &value, reason);

	return r < 0 ? r : json_line_print(value, JSON_ENCODE_ANY, reason);
}

static int convert_line(const struct job *job, const char *bytes, size_t n, struct reason *reason)
{
	_cleanup_(json_freep) json_t *line = NULL;
	json_error_t error;

	if (n > MAX_LINE_BYTES)
		return reason_set(reason, -E2BIG, "longer than %u bytes", MAX_LINE_BYTES);
	line = json_loadb(bytes, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
	if (!line)
		return reason_set(reason, -EBADMSG, "%s", error.text);
	return print_value(job, line, reason);
}

static int convert_input(const struct job *job, struct reason *reason)
{
	_cleanup_(freep) char *line = NULL;
	size_t room = 0;
	ssize_t n;

	for (size_t number = 1; (n = getline(&line, &room, stdin)) >= 0; number++) {
		int r;

		if (strspn(line, " \t\r\n") == (size_t)n)
			continue;
		r = convert_line(job, line, (size_t)n, reason);
		if (r < 0)
			return reason_prefix(reason, r, "line %zu", number);
	}
	if (ferror(stdin))
		return reason_set(reason, -EIO, "cannot read standard input");
	return 0;
}

static int convert_all(struct job *job, struct reason *reason)
{
	_cleanup_(json_freep) json_t *text = NULL;

	if (!job->options->text)
		return convert_input(job, reason);
	text = json_string(job->options->text);
	return text ? print_value(job, text, reason)
		    : reason_set(reason, -EBADMSG, "--text is not UTF-8");
}

static int run_on_folder(void *arg, struct reason *reason)
{
	struct job *job = arg;
	_cleanup_(freep) uint8_t *tables = NULL;
	struct tokenizer *tokenizer;
	size_t n;
	int r = tokenizer_compile(job->options->tokenizer, &tables, &n, reason);

	if (r == 0)
		r = tokenizer_new(tables, n, NULL, 0, &tokenizer, reason);
	if (r < 0)
		return r;
	job->tokenizer = tokenizer;
	r = convert_all(job, reason);
	tokenizer_free(tokenizer);
	return r;
}

static void image_done(struct image **image)
{
	image_free(*image);
}

static int run_on_base(struct job *job, struct reason *reason)
{
	_cleanup_(image_done) struct image *base = NULL;
	_cleanup_(image_done) struct image *delta = NULL;
	struct tokenizer *tokenizer;
	int r = image_load_path(job->options->base, &base, NULL, reason);

	if (r == 0 && job->options->delta)
		r = image_load_path(job->options->delta, &delta, NULL, reason);
	if (r == 0 && delta && !image_fits(&delta->header, &base->header))
		r = reason_set(reason, -EMEDIUMTYPE, "%s was made for another base than %s",
			job->options->delta, job->options->base);
	if (r == 0)
		r = tokenizer_of(base, delta, &tokenizer, reason);
	if (r < 0)
		return r;
	job->tokenizer = tokenizer;
	r = convert_all(job, reason);
	tokenizer_free(tokenizer);
	return r;
}

static int run_job(struct job *job, const char *name)
{
	static const struct sandbox_limits limits = {.memory_bytes = MEMORY_LIMIT};
	struct reason reason = {0};
	int r = job->options->tokenizer ? sandbox_call(run_on_folder, job, &limits, &reason)
					: run_on_base(job, &reason);

	return r < 0 ? command_fail(name, r, &reason) : EXIT_OK;
}

static int run_tokenize(int argc, char **argv)
{
	struct options options = {0};
	struct job job = {.options = &options, .convert = encode_line};
	int code = parse_options(&command_tokenize, tokenize_options, argc, argv, &options);

	if (code)
		return code;
	if (options.help)
		return command_help(&command_tokenize, tokenize_help);
	return run_job(&job, "tokenize");
}

static int run_detokenize(int argc, char **argv)
{
	struct options options = {0};
	struct job job = {.options = &options, .convert = decode_line};
	int code = parse_options(&command_detokenize, detokenize_options, argc, argv, &options);

	if (code)
		return code;
	if (options.help)
		return command_help(&command_detokenize, detokenize_help);
	return run_job(&job, "detokenize");
}

const struct command command_tokenize = {
	.name = "tokenize",
	.arguments = "(--base FILE [--delta FILE] | --tokenizer DIR) [--text TEXT]",
	.summary = "text to token ids",
	.run = run_tokenize,
};

const struct command command_detokenize = {
	.name = "detokenize",
	.arguments = "(--base FILE [--delta FILE] | --tokenizer DIR) [--skip-special]",
	.summary = "token ids to text",
	.run = run_detokenize,
};
