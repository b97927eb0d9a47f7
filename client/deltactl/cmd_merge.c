/*
 * deltactl merge: base and delta back to a Hugging Face folder.
 */
#include "client/deltactl/commands.h"
#include "client/deltactl/json_line.h"

#include "client/deltactl/new_folder.h"
#include "compress/merge.h"
#include "foreign/sandbox.h"
#include "kernels/blas.h"

#include <getopt.h>
#include <inttypes.h>

/* Address space of the writer: the delta and a few tensors of the largest models that exist. */
#define MEMORY_LIMIT (UINT64_C(64) << 30)

struct merge_arguments {
	const char *base;
	const char *delta;
	const char *output;
	bool json;
	bool quiet;
};

/* What the sandboxed child gets, and the memory through which it answers. */
struct merge_call {
	const struct merge_arguments *arguments;
	struct merge_job job;
	struct merge_report *report;
};

static const char options_text[] =
	"      --base DIR     the model folder that the delta was made for\n"
	"      --delta FILE   the delta file\n"
	"  -o, --output DIR   the folder to make; it must not exist\n"
	"      --json         print the report as one JSON object\n"
	"  -q, --quiet        no progress, no report\n";

enum {
	OPTION_BASE = 256,
	OPTION_DELTA,
	OPTION_JSON,
	OPTION_HELP,
};

static int parse_arguments(int argc, char **argv, struct merge_arguments *ret)
{
	static const struct option options[] = {
		{"base", required_argument, NULL, OPTION_BASE},
		{"delta", required_argument, NULL, OPTION_DELTA},
		{"output", required_argument, NULL, 'o'},
		{"json", no_argument, NULL, OPTION_JSON},
		{"quiet", no_argument, NULL, 'q'},
		{"help", no_argument, NULL, OPTION_HELP},
		{0},
	};
	int option;

	*ret = (struct merge_arguments){0};
	opterr = 0;
	optind = 0;
	while ((option = getopt_long(argc, argv, "o:q", options, NULL)) != -1) {
		switch (option) {
		case OPTION_BASE:
			ret->base = optarg;
			break;
		case OPTION_DELTA:
			ret->delta = optarg;
			break;
		case 'o':
			ret->output = optarg;
			break;
		case OPTION_JSON:
			ret->json = true;
			break;
		case 'q':
			ret->quiet = true;
			break;
		case OPTION_HELP:
			command_help(&command_merge, options_text);
			return -ECANCELED;
		default:
			return command_bad_option(&command_merge, argv);
		}
	}
	if (optind != argc)
		return command_usage(&command_merge, "unexpected argument '%s'", argv[optind]);
	if (!ret->base || !ret->delta || !ret->output)
		return command_usage(&command_merge, "--base, --delta and -o are needed");
	return 0;
}

/* In the sandboxed child. */
static int read_and_write(void *arg, struct reason *reason)
{
	struct merge_call *call = arg;
	struct progress_bar bar;
	int r;

	r = checkpoint_open(call->arguments->base, &call->job.base, reason);
	if (r < 0)
		return r;
	r = merge_folder(&call->job, progress_bar(&bar, "bytes", call->arguments->quiet),
		call->report, reason);
	progress_bar_end(&bar);
	checkpoint_free(call->job.base);
	return r < 0 ? reason_prefix(reason, r, "%s", call->arguments->delta) : r;
}

static int merge_in_sandbox(struct merge_call *call, struct reason *reason)
{
	_cleanup_(new_folder_done) struct new_folder folder = NEW_FOLDER_INIT;
	struct sandbox_limits limits = {.memory_bytes = MEMORY_LIMIT};
	int r;

	r = new_folder_open(&folder, call->arguments->output, reason);
	if (r < 0)
		return r;
	call->job.folder = folder.temporary;
	limits.writable_folder = folder.temporary;
	r = sandbox_call(read_and_write, call, &limits, reason);
	if (r < 0)
		return r;
	sandbox_end_text(call->report->tokenizer.tokens_refused.text);
	sandbox_end_text(call->report->tokenizer.template_refused.text);
	return new_folder_commit(&folder, reason);
}

static int merge(
	const struct merge_arguments *arguments, struct merge_report *report, struct reason *reason)
{
	_cleanup_(imagep) struct image *delta = NULL;
	struct merge_call call = {.arguments = arguments, .report = report};
	struct progress_bar bar;
	int r;

	/* The library is loaded here because the sandbox may not look for it. */
	r = blas_load(1, reason);
	if (r < 0)
		return r;
	r = image_load_path(
		arguments->delta, &delta, progress_bar(&bar, "bytes", arguments->quiet), reason);
	progress_bar_end(&bar);
	if (r < 0)
		return r;
	call.job.delta = delta;
	return merge_in_sandbox(&call, reason);
}

static void print_report(const struct merge_arguments *arguments, const struct merge_report *report)
{
	const struct merge_tokenizer_report *t = &report->tokenizer;
	char size[16];

	printf("%s: %" PRIu64 " tensors, %" PRIu64 " of them changed by the delta, %s\n",
		arguments->output, report->n_tensors, report->n_changed,
		human_bytes(report->file_bytes, size));
	if (t->n_tokens)
		printf("tokenizer.json has the fine-tune's tokens: %" PRIu32 " added or changed.\n",
			t->n_tokens);
	if (t->wrote_template)
		printf("The chat template is written anew from the delta's chat format; branches "
		       "for tools are not in it.\n");
	if (t->tokens_refused.text[0])
		printf("Not written: the fine-tune's tokens. %s\n", t->tokens_refused.text);
	if (t->template_refused.text[0])
		printf("Not written: a chat template. %s\n", t->template_refused.text);
}

static const char *text_or_none(const struct reason *reason)
{
	return reason->text[0] ? reason->text : NULL;
}

static int print_json(const struct merge_arguments *arguments, const struct merge_report *report,
	struct reason *reason)
{
	const struct merge_tokenizer_report *t = &report->tokenizer;
	json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:I, s:b, s:s?, s:s?}", "folder",
		arguments->output, "tensors", (json_int_t)report->n_tensors, "changed",
		(json_int_t)report->n_changed, "file_bytes", (json_int_t)report->file_bytes,
		"tokens", (json_int_t)t->n_tokens, "wrote_template", t->wrote_template,
		"tokens_refused", text_or_none(&t->tokens_refused), "template_refused",
		text_or_none(&t->template_refused));

	return json_line_print(json, 0, reason);
}

static int run(int argc, char **argv)
{
	struct merge_arguments arguments;
	struct merge_report *report;
	struct reason reason = {0};
	int r;

	r = parse_arguments(argc, argv, &arguments);
	if (r != 0)
		return r == -ECANCELED ? EXIT_OK : r;
	report = sandbox_memory_new(sizeof(*report));
	if (!report)
		return command_fail(argv[0], -ENOMEM, &reason);
	r = merge(&arguments, report, &reason);
	if (r == 0 && arguments.json)
		r = print_json(&arguments, report, &reason);
	else if (r == 0 && !arguments.quiet)
		print_report(&arguments, report);
	sandbox_memory_free(report, sizeof(*report));
	return r < 0 ? command_fail(argv[0], r, &reason) : EXIT_OK;
}

const struct command command_merge = {
	.name = "merge",
	.arguments = "--base DIR --delta FILE -o DIR [--json] [--quiet]",
	.summary = "turn base and delta back into a model folder",
	.run = run,
};
