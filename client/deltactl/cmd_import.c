/*
 * deltactl import: a Hugging Face folder to a base image.
 */
#include "client/deltactl/commands.h"
#include "client/deltactl/json_line.h"

#include "common/file.h"
#include "foreign/config_json.h"
#include "foreign/import.h"
#include "foreign/sandbox.h"

#include <getopt.h>
#include <inttypes.h>

/* Address space of the reader: two tensors of the largest models that exist. */
#define MEMORY_LIMIT (UINT64_C(16) << 30)

struct import_arguments {
	const char *folder;
	const char *output;
	enum weights weights;
	bool json;
	bool quiet;
};

/* What the sandboxed child gets, and the memory through which it answers. */
struct import_call {
	const struct import_arguments *arguments;
	int fd;
	struct import_answer {
		struct import_report report;
		struct model_config config;
	} * answer;
};

static const char options_text[] =
	"  -o, --output FILE   the base image to make\n"
	"      --weights KIND  how projections are stored: bf16 (the default), which is exact for\n"
	"                      models in bf16; int8, a scale for each 128 neighbours; int4, the\n"
	"                      same with a multiplier for each 32\n"
	"      --json          print the report as one JSON object\n"
	"  -q, --quiet         no progress, no report\n";

static int parse_arguments(int argc, char **argv, struct import_arguments *ret)
{
	static const struct option options[] = {
		{"output", required_argument, NULL, 'o'},
		{"weights", required_argument, NULL, 'w'},
		{"json", no_argument, NULL, 'j'},
		{"quiet", no_argument, NULL, 'q'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int option;

	*ret = (struct import_arguments){0};
	opterr = 0;
	optind = 0;
	while ((option = getopt_long(argc, argv, "o:qh", options, NULL)) != -1) {
		switch (option) {
		case 'o':
			ret->output = optarg;
			break;
		case 'w':
			if (!weights_parse(optarg, &ret->weights))
				return command_usage(&command_import,
					"--weights '%s': expected bf16, int8 or int4", optarg);
			break;
		case 'j':
			ret->json = true;
			break;
		case 'q':
			ret->quiet = true;
			break;
		case 'h':
			command_help(&command_import, options_text);
			return -ECANCELED;
		default:
			return command_bad_option(&command_import, argv);
		}
	}
	if (optind + 1 != argc)
		return command_usage(&command_import, "expected one model folder");
	if (!ret->output)
		return command_usage(&command_import, "-o FILE is missing");
	ret->folder = argv[optind];
	return 0;
}

/* In the sandboxed child. */
static int read_and_write(void *arg, struct reason *reason)
{
	struct import_call *call = arg;
	struct checkpoint *checkpoint = NULL;
	struct progress_bar bar;
	int r;

	r = checkpoint_open(call->arguments->folder, &checkpoint, reason);
	if (r < 0)
		return r;
	r = import_base(checkpoint, call->arguments->weights, call->fd,
		progress_bar(&bar, "bytes", call->arguments->quiet), &call->answer->report, reason);
	progress_bar_end(&bar);
	call->answer->config = *checkpoint_config(checkpoint);
	checkpoint_free(checkpoint);
	return r;
}

static int import_file(const struct import_arguments *arguments, struct import_answer *answer,
	struct reason *reason)
{
	static const struct sandbox_limits limits = {.memory_bytes = MEMORY_LIMIT};
	struct import_call call = {.arguments = arguments, .answer = answer};
	_cleanup_(new_file_done) struct new_file file = NEW_FILE_INIT;
	int r;

	r = new_file_open(&file, arguments->output, reason);
	if (r < 0)
		return r;
	call.fd = file.fd;
	r = sandbox_call(read_and_write, &call, &limits, reason);
	if (r < 0)
		return r;
	/* The child wrote these; it may not have ended them. */
	answer->report.chat_format[sizeof(answer->report.chat_format) - 1] = '\0';
	answer->report.chat_refusal[sizeof(answer->report.chat_refusal) - 1] = '\0';
	return new_file_commit(&file, reason);
}

static void print_report(
	const struct import_arguments *arguments, const struct import_answer *answer)
{
	const struct import_report *report = &answer->report;
	char model[DIGEST_HEX_SIZE], served[DIGEST_HEX_SIZE], size[16];

	digest_hex(&report->model, model);
	digest_hex(&report->served, served);
	printf("%s\n", arguments->output);
	printf("  model      %s, %" PRIu32 " layers, hidden %" PRIu32 ", vocabulary %" PRIu32
	       ", %.1f M parameters\n",
		model_family_name(answer->config.family), answer->config.n_layers,
		answer->config.hidden, answer->config.vocab, (double)report->n_parameters * 1e-6);
	printf("  digest     %s\n", model);
	if (arguments->weights != WEIGHTS_BF16)
		printf("  serves     %s, as %s\n", served, weights_name(arguments->weights));
	printf("  size       %s\n", human_bytes(report->file_bytes, size));
	printf("  tokenizer  %s\n",
		report->has_tokenizer ? "included" : "none: the image scores ids, not text");
	printf("  chat       %s%s\n", report->chat_format[0] ? "" : "none: ",
		report->chat_format[0] ? report->chat_format : report->chat_refusal);
	if (report->n_inexact)
		printf("  rounded    %" PRIu64 " numbers that bf16 cannot hold\n",
			report->n_inexact);
}

static int print_json(const struct import_arguments *arguments, const struct import_answer *answer,
	struct reason *reason)
{
	const struct import_report *report = &answer->report;
	char model[DIGEST_HEX_SIZE], served[DIGEST_HEX_SIZE], root[DIGEST_HEX_SIZE];
	json_t *json;

	digest_hex(&report->model, model);
	digest_hex(&report->served, served);
	digest_hex(&report->root, root);
	json = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:s?, s:s?}", "file",
		arguments->output, "family", model_family_name(answer->config.family), "model",
		model, "weights", weights_name(arguments->weights), "served", served, "root", root,
		"parameters", (json_int_t)report->n_parameters, "file_bytes",
		(json_int_t)report->file_bytes, "rounded", (json_int_t)report->n_inexact,
		"tokenizer", report->has_tokenizer, "chat_format",
		report->chat_format[0] ? report->chat_format : NULL, "chat_refusal",
		report->chat_refusal[0] ? report->chat_refusal : NULL);
	return json_line_print(json, 0, reason);
}

static int run(int argc, char **argv)
{
	struct import_arguments arguments;
	struct import_answer *answer;
	struct reason reason = {0};
	int r;

	r = parse_arguments(argc, argv, &arguments);
	if (r != 0)
		return r == -ECANCELED ? EXIT_OK : r;
	answer = sandbox_memory_new(sizeof(*answer));
	if (!answer)
		return command_fail(argv[0], -ENOMEM, &reason);
	r = import_file(&arguments, answer, &reason);
	if (r == 0 && arguments.json)
		r = print_json(&arguments, answer, &reason);
	else if (r == 0 && !arguments.quiet)
		print_report(&arguments, answer);
	sandbox_memory_free(answer, sizeof(*answer));
	return r < 0 ? command_fail(argv[0], r, &reason) : EXIT_OK;
}

const struct command command_import = {
	.name = "import",
	.arguments = "DIR -o FILE [--weights bf16|int8|int4] [--json] [--quiet]",
	.summary = "turn a model folder into a base image",
	.run = run,
};
