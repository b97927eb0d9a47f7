/*
 * deltactl import: a Hugging Face folder to a base image.
 */
#include "client/deltactl/commands.h"
#include "client/deltactl/default_calibration.h"
#include "client/deltactl/json_line.h"
#include "client/deltactl/number.h"

#include "common/file.h"
#include "compress/rounding.h"
#include "foreign/config_json.h"
#include "foreign/sandbox.h"
#include "kernels/blas.h"

#include <getopt.h>
#include <inttypes.h>

/* Address space of the reader: two tensors of the largest models that exist. */
#define MEMORY_LIMIT (UINT64_C(16) << 30)
#define MAX_CALIBRATION_BYTES (UINT64_C(256) << 20)

struct import_arguments {
	const char *folder;
	const char *output;
	enum weights weights;
	bool calibrates;
	const char *calibration; /* file; NULL: the text that deltactl carries */
	uint32_t calibration_tokens;
	uint32_t n_threads;
	bool json;
	bool quiet;
};

/* What the sandboxed child gets, and the memory through which it answers. */
struct import_call {
	const struct import_arguments *arguments;
	int fd;
	int rounding_fd, original_fd; /* to work in, where something is calibrated */
	const char *text;             /* to calibrate on */
	size_t n_text;
	struct import_answer {
		struct import_report report;
		struct model_config config;
	} * answer;
};

static const char options_text[] =
	"  -o, --output FILE   the base image to make\n"
	"      --weights KIND  how projections and head are stored: bf16 (the default), which is\n"
	"                      exact for models in bf16; int8, a scale for each 128 neighbours;\n"
	"                      int4, with step and offset for each 16 of them, but int8 for the\n"
	"                      head. A head that is the embedding stays bf16 with that\n"
	"      --calibrate[=FILE]\n"
	"                      round to codes so that the model changes little on a text, by\n"
	"                      default a general one that deltactl carries; documents are\n"
	"                      separated by blank lines. Without it each number is rounded by\n"
	"                      itself, which takes seconds a gigabyte instead of minutes, and\n"
	"                      which deltas made against what codes serve ask for\n"
	"      --calibration-tokens N\n"
	"                      most tokens of it to use (default 32768)\n"
	"      --threads N     of the calibration; default: as many as the process may use\n"
	"      --json          print the report as one JSON object\n"
	"  -q, --quiet         no progress, no report\n";

enum option_value {
	OPTION_CALIBRATE = 256,
	OPTION_TOKENS,
	OPTION_THREADS,
};

/* Those that need a value make sense of it, or say what is wrong. */
static int check_arguments(const struct import_arguments *a)
{
	if (a->calibrates && a->weights == WEIGHTS_BF16)
		return command_usage(&command_import,
			"--calibrate is for codes: --weights int4 or int8 is missing");
	if (a->calibration_tokens == 0)
		return command_usage(&command_import, "--calibration-tokens is 0");
	if (!a->output)
		return command_usage(&command_import, "-o FILE is missing");
	return 0;
}

static int parse_arguments(int argc, char **argv, struct import_arguments *ret)
{
	static const struct option options[] = {
		{"output", required_argument, NULL, 'o'},
		{"weights", required_argument, NULL, 'w'},
		{"calibrate", optional_argument, NULL, OPTION_CALIBRATE},
		{"calibration-tokens", required_argument, NULL, OPTION_TOKENS},
		{"threads", required_argument, NULL, OPTION_THREADS},
		{"json", no_argument, NULL, 'j'},
		{"quiet", no_argument, NULL, 'q'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int option;

	*ret = (struct import_arguments){.calibration_tokens = ROUNDING_DEFAULT_TOKENS};
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
		case OPTION_CALIBRATE:
			ret->calibrates = true;
			ret->calibration = optarg;
			break;
		case OPTION_TOKENS:
			if (!number_u32(optarg, &ret->calibration_tokens))
				return command_usage(&command_import,
					"--calibration-tokens '%s': expected a number", optarg);
			break;
		case OPTION_THREADS:
			if (!number_u32(optarg, &ret->n_threads))
				return command_usage(&command_import,
					"--threads '%s': expected a number", optarg);
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
	ret->folder = argv[optind];
	return check_arguments(ret);
}

/* Rounds every matrix by itself, or with the text in mind. */
static int write_image(struct import_call *call, struct checkpoint *checkpoint,
	const struct progress *progress, struct reason *reason)
{
	const struct import_arguments *a = call->arguments;
	struct rounding_settings settings = {
		.checkpoint = checkpoint,
		.text = call->text,
		.n_text = call->n_text,
		.text_name = a->calibration ? a->calibration : "deltactl's text",
		.max_tokens = a->calibration_tokens,
		.progress = progress,
		.work_fd = call->rounding_fd,
		.original_fd = call->original_fd,
	};
	_cleanup_(roundingp) struct rounding *rounding = NULL;
	_cleanup_(poolp) struct pool *pool = NULL;
	struct import_rounding codes;
	struct import_settings import = {.weights = a->weights, .rounding = &codes};
	int r;

	if (!a->calibrates)
		return import_base(
			checkpoint, a->weights, call->fd, progress, &call->answer->report, reason);
	r = pool_new(a->n_threads, &pool, reason);
	settings.pool = pool;
	if (r == 0)
		r = rounding_new(&settings, &rounding, reason);
	if (r < 0)
		return r;
	codes = rounding_import(rounding);
	return import_image(checkpoint, &import, call->fd, &call->answer->report, reason);
}

/* In the sandboxed child. */
static int read_and_write(void *arg, struct reason *reason)
{
	struct import_call *call = arg;
	const struct import_arguments *a = call->arguments;
	_cleanup_(checkpointp) struct checkpoint *checkpoint = NULL;
	struct progress_bar bar;
	int r;

	r = checkpoint_open(a->folder, &checkpoint, reason);
	if (r < 0)
		return r;
	progress_bar(&bar, a->calibrates ? "blocks" : "bytes", a->quiet);
	bar.steps = a->calibrates ? ROUNDING_STEPS : 1;
	r = write_image(call, checkpoint, &bar.progress, reason);
	progress_bar_end(&bar);
	call->answer->config = *checkpoint_config(checkpoint);
	return r;
}

static int import_file(struct import_call *call, struct reason *reason)
{
	const struct sandbox_limits limits = {
		.memory_bytes = call->arguments->calibrates ? 0 : MEMORY_LIMIT};
	struct import_report *report = &call->answer->report;
	_cleanup_(new_file_done) struct new_file file = NEW_FILE_INIT;
	int r;

	r = new_file_open(&file, call->arguments->output, reason);
	if (r < 0)
		return r;
	call->fd = file.fd;
	r = sandbox_call(read_and_write, call, &limits, reason);
	if (r < 0)
		return r;
	sandbox_end_text(report->chat_format);
	sandbox_end_text(report->chat_refusal);
	return new_file_commit(&file, reason);
}

/* With what the child may not open itself: the text, files to work in, which go away, and the
 * library. */
static int import_calibrated(struct import_call *call, struct reason *reason)
{
	const struct import_arguments *a = call->arguments;
	_cleanup_(new_file_done) struct new_file rounded = NEW_FILE_INIT;
	_cleanup_(new_file_done) struct new_file original = NEW_FILE_INIT;
	_cleanup_(freep) char *text = NULL;
	int r = 0;

	call->text = default_calibration;
	call->n_text = (size_t)(default_calibration_end - default_calibration);
	if (a->calibration) {
		r = file_load(a->calibration, MAX_CALIBRATION_BYTES, &text, &call->n_text, reason);
		call->text = text;
	}
	if (r == 0)
		r = new_file_open(&rounded, a->output, reason);
	if (r == 0)
		r = new_file_open(&original, a->output, reason);
	if (r == 0)
		r = blas_load(1, reason);
	if (r < 0)
		return r;
	call->rounding_fd = rounded.fd;
	call->original_fd = original.fd;
	return import_file(call, reason);
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
	struct import_call call = {.arguments = &arguments, .fd = -1};
	struct import_answer *answer;
	struct reason reason = {0};
	int r;

	r = parse_arguments(argc, argv, &arguments);
	if (r != 0)
		return r == -ECANCELED ? EXIT_OK : r;
	answer = sandbox_memory_new(sizeof(*answer));
	if (!answer)
		return command_fail(argv[0], -ENOMEM, &reason);
	call.answer = answer;
	r = arguments.calibrates ? import_calibrated(&call, &reason) : import_file(&call, &reason);
	if (r == 0 && arguments.json)
		r = print_json(&arguments, answer, &reason);
	else if (r == 0 && !arguments.quiet)
		print_report(&arguments, answer);
	sandbox_memory_free(answer, sizeof(*answer));
	return r < 0 ? command_fail(argv[0], r, &reason) : EXIT_OK;
}

const struct command command_import = {
	.name = "import",
	.arguments =
		"DIR -o FILE [--weights bf16|int8|int4] [--calibrate[=FILE]] [--json] [--quiet]",
	.summary = "turn a model folder into a base image",
	.run = run,
};
