/*
 * deltactl compress: a base folder and a fine-tune's folder to a delta file.
 */
#include "client/deltactl/command.h"
#include "client/deltactl/commands.h"
#include "client/deltactl/compress_auto.h"
#include "client/deltactl/compress_deltadq.h"
#include "client/deltactl/compress_report.h"
#include "client/deltactl/default_calibration.h"
#include "client/deltactl/number.h"
#include "client/deltactl/partial_file.h"
#include "common/file.h"
#include "compress/compress.h"
#include "compress/walk.h"
#include "foreign/sandbox.h"
#include "kernels/blas.h"

#include <getopt.h>
#include <string.h>

#define METHOD_LIST "list" /* in the place of a name */
#define METHOD_LORA "lora"
#define MAX_CALIBRATION_BYTES (UINT64_C(256) << 20)
#define MAX_PROGRAM_BYTES (UINT64_C(1) << 30)

static const char options_help[] =
	"  --base DIR               the model that the fine-tune started from\n"
	"  --tuned DIR              the fine-tune\n"
	"  --adapter DIR            instead of --tuned: a LoRA adapter as PEFT writes it, whose\n"
	"                           factors are stored as they are\n"
	"  -o, --output FILE        the delta file to make\n"
	"  --ratio N                16-bit size of the projections over their size in the file,\n"
	"                           everything counted (default 16)\n"
	"  --bits B                 --ratio 16/B; methods of whole codes: their width\n"
	"  --method NAME            how the change becomes bytes (default auto); --method list\n"
	"                           shows them all\n"
	"  --embedding HOW          embedding and head: exact (the default but for --file-ratio),\n"
	"                           8, 4, 3, 2 or 1 bits a weight, or auto: what the rows of\n"
	"                           tokens that are used are worth\n"
	"  --base-weights KIND      weights of the base that will serve: bf16 (the default), "
	"int8,\n"
	"                           int4, as for import\n"
	"  --against WHAT           make the delta against what that base serves, which it then "
	"fits\n"
	"                           alone (served), or so that it fits every packing (original);\n"
	"                           default: as the method does best\n"
	"  --calibrate FILE         text to calibrate on, documents separated by blank lines\n"
	"                           (default: a general text that deltactl carries)\n"
	"  --calibration-tokens N   most tokens of it to use (default 32768)\n"
	"  --threads N              default: as many as the process may use\n"
	"  --measure always|never   KL, agreement and self-test of the whole file; without it, of\n"
	"                           models that fit into memory beside each other (2 GiB each)\n"
	"  --no-resume              begin anew. Otherwise a command that was interrupted, given "
	"again,\n"
	"                           goes on at the block it was in: FILE.partial, which is "
	"removed\n"
	"                           in the end, holds what is done and the texts inside the model\n"
	"  --json                   the report as a JSON object\n"
	"  -q, --quiet              no progress\n" COMPRESS_AUTO_HELP COMPRESS_DELTADQ_HELP;

struct options {
	const char *base, *tuned, *adapter, *output, *calibrate;
	const char *method; /* NULL: not said */
	struct compress_settings settings;
	struct auto_arguments automatic;
	struct digest_state *said; /* the options that the parts depend on, while they are read */
	bool json, quiet, no_resume;
};

/* What the child tells, in memory that it shares. */
struct result {
	struct compress_report report;
	uint32_t blocks_done; /* that are safe in the partial file */
};

struct call {
	struct options *options;
	int fd; /* of the new file */
	struct result *result;
};

enum option_value {
	OPTION_BASE = 256,
	OPTION_TUNED,
	OPTION_ADAPTER,
	OPTION_RATIO,
	OPTION_BITS,
	OPTION_METHOD,
	OPTION_BASE_WEIGHTS,
	OPTION_AGAINST,
	OPTION_EMBEDDING,
	OPTION_CALIBRATE,
	OPTION_TOKENS,
	OPTION_THREADS,
	OPTION_MEASURE,
	OPTION_NO_RESUME,
	OPTION_JSON,
	OPTION_HELP,
};

static const struct option long_options[] = {
	{"base", required_argument, NULL, OPTION_BASE},
	{"tuned", required_argument, NULL, OPTION_TUNED},
	{"adapter", required_argument, NULL, OPTION_ADAPTER},
	{"output", required_argument, NULL, 'o'},
	{"ratio", required_argument, NULL, OPTION_RATIO},
	{"bits", required_argument, NULL, OPTION_BITS},
	{"method", required_argument, NULL, OPTION_METHOD},
	{"embedding", required_argument, NULL, OPTION_EMBEDDING},
	{"base-weights", required_argument, NULL, OPTION_BASE_WEIGHTS},
	{"against", required_argument, NULL, OPTION_AGAINST},
	{"calibrate", required_argument, NULL, OPTION_CALIBRATE},
	{"calibration-tokens", required_argument, NULL, OPTION_TOKENS},
	{"threads", required_argument, NULL, OPTION_THREADS},
	COMPRESS_AUTO_OPTIONS,
	COMPRESS_DELTADQ_OPTIONS,
	{"measure", required_argument, NULL, OPTION_MEASURE},
	{"no-resume", no_argument, NULL, OPTION_NO_RESUME},
	{"json", no_argument, NULL, OPTION_JSON},
	{"quiet", no_argument, NULL, 'q'},
	{"help", no_argument, NULL, OPTION_HELP},
	{0},
};

/* 0 stands for what was not said. */
static bool set_positive(double *ret)
{
	float value;

	if (!number_f32(optarg, &value) || !(value > 0))
		return false;
	*ret = (double)value;
	return true;
}

static bool set_measure(enum compress_measure *ret)
{
	bool always = strcmp(optarg, "always") == 0;

	*ret = always ? COMPRESS_MEASURE_ALWAYS : COMPRESS_MEASURE_NEVER;
	return always || strcmp(optarg, "never") == 0;
}

static bool set_against(enum compress_against *ret)
{
	if (strcmp(optarg, "served") == 0)
		*ret = AGAINST_SERVED;
	else if (strcmp(optarg, "original") == 0)
		*ret = AGAINST_ORIGINAL;
	else
		return false;
	return true;
}

/* True if the value is understood. */
static bool set_option(struct options *o, int option)
{
	if (option >= OPTION_DELTADQ_FIRST && option < OPTION_DELTADQ_END)
		return compress_deltadq_option(option, optarg, &o->settings.options.deltadq);
	if (option >= OPTION_AUTO_FIRST && option < OPTION_AUTO_END)
		return compress_auto_option(option, optarg, &o->automatic, &o->settings.options);
	switch (option) {
	case OPTION_BASE:
		o->base = optarg;
		return true;
	case OPTION_TUNED:
		o->tuned = optarg;
		return true;
	case OPTION_ADAPTER:
		o->adapter = optarg;
		return true;
	case 'o':
		o->output = optarg;
		return true;
	case OPTION_RATIO:
		return set_positive(&o->settings.options.ratio);
	case OPTION_BITS:
		return set_positive(&o->settings.options.bits);
	case OPTION_METHOD:
		o->method = optarg;
		return true;
	case OPTION_EMBEDDING:
		return embedding_choice_parse(optarg, &o->settings.embedding);
	case OPTION_BASE_WEIGHTS:
		return weights_parse(optarg, &o->settings.base_weights);
	case OPTION_AGAINST:
		return set_against(&o->settings.against);
	case OPTION_CALIBRATE:
		o->calibrate = optarg;
		return true;
	case OPTION_TOKENS:
		return number_u32(optarg, &o->settings.calibration_tokens);
	case OPTION_THREADS:
		return number_u32(optarg, &o->settings.n_threads);
	case OPTION_MEASURE:
		return set_measure(&o->settings.measure);
	case OPTION_NO_RESUME:
		o->no_resume = true;
		return true;
	case OPTION_JSON:
		o->json = true;
		return true;
	case 'q':
		o->quiet = true;
		return true;
	default:
		return false;
	}
}

/* Folders and texts are known by what is in them; the others change no part. */
static bool is_remembered(int option)
{
	switch (option) {
	case OPTION_BASE:
	case OPTION_TUNED:
	case OPTION_ADAPTER:
	case OPTION_CALIBRATE:
	case OPTION_THREADS:
	case OPTION_MEASURE:
	case OPTION_NO_RESUME:
	case OPTION_JSON:
	case 'o':
	case 'q':
		return false;
	default:
		return true;
	}
}

static void remember(struct options *o, int option)
{
	if (!is_remembered(option))
		return;
	digest_add(o->said, &option, sizeof(option));
	if (optarg)
		digest_add(o->said, optarg, strlen(optarg) + 1);
}

static bool wants_list(const struct options *o)
{
	return o->method && strcmp(o->method, METHOD_LIST) == 0;
}

static int list_methods(void)
{
	const struct method *m;

	for (size_t i = 0; (m = method_at(i)); i++)
		printf("%-16s %s\n", m->name, m->summary);
	return EXIT_OK;
}

/* What is said together must make sense together; EXIT_USAGE if not. */
static int check_options(struct options *o)
{
	const struct command *self = &command_compress;
	struct reason reason = {0};

	if (o->adapter && o->tuned)
		return command_usage(self, "--adapter and --tuned exclude each other");
	if (o->adapter && o->method)
		return command_usage(self, "--adapter and --method exclude each other");
	if (o->adapter && (o->settings.options.ratio != 0 || o->settings.options.bits != 0))
		return command_usage(self, "--adapter has a size of its own, there is no ratio");
	if (!o->base || !(o->tuned || o->adapter) || !o->output)
		return command_usage(self, "--base, --tuned or --adapter, and -o are needed");
	if (o->method && !o->adapter && strcmp(o->method, METHOD_LORA) == 0)
		return command_usage(self, "--method " METHOD_LORA " is what --adapter does");
	if (o->method)
		o->settings.method = o->method;
	if (o->adapter)
		o->settings.method = METHOD_LORA;
	if (compress_settings_check(&o->settings, &reason) < 0)
		return command_usage(self, "%s", reason.text);
	return 0;
}

/* 0: go on. EXIT_USAGE or, for --help, -1 otherwise. */
static int parse_options(int argc, char **argv, struct options *o)
{
	const struct command *self = &command_compress;
	int option;

	optind = 0;
	opterr = 0;
	while ((option = getopt_long(argc, argv, "o:q", long_options, NULL)) != -1) {
		if (option == OPTION_HELP)
			return -1;
		if (option == '?')
			return command_bad_option(self, argv);
		if (!set_option(o, option))
			return command_usage(self, "'%s' is not what the option takes", optarg);
		remember(o, option);
	}
	if (optind < argc)
		return command_usage(self, "unexpected argument '%s'", argv[optind]);
	return wants_list(o) ? 0 : check_options(o);
}

/* The bar's numbers are bytes while files are read, then blocks, then windows of text. */
static void update_bar(void *user, const char *stage, uint64_t done, uint64_t total)
{
	struct progress_bar *bar = user;

	bar->unit = "bytes";
	bar->steps = 1;
	if (strcmp(stage, WALK_STAGE) == 0) {
		bar->unit = "blocks";
		bar->steps = WALK_GROUPS;
	}
	if (strcmp(stage, "measuring") == 0)
		bar->unit = "windows";
	progress_update(&bar->progress, stage, done, total);
}

static int open_tuned(const struct options *o, struct checkpoint **ret, struct reason *reason)
{
	if (o->adapter)
		return checkpoint_open_adapted(o->base, o->adapter, ret, reason);
	return checkpoint_open(o->tuned, ret, reason);
}

/* In the sandbox. */
static int compress_in_sandbox(void *arg, struct reason *reason)
{
	struct call *call = arg;
	const struct options *o = call->options;
	_cleanup_(checkpointp) struct checkpoint *base = NULL;
	_cleanup_(checkpointp) struct checkpoint *tuned = NULL;
	_cleanup_(tasks_done) struct tasks tasks = {0};
	struct compress_settings settings = o->settings;
	struct progress_bar bar;
	const struct progress progress = {.update = update_bar, .user = &bar};
	int r;

	progress_bar(&bar, "bytes", o->quiet);
	r = checkpoint_open(o->base, &base, reason);
	if (r == 0)
		r = open_tuned(o, &tuned, reason);
	if (r == 0)
		r = compress_auto_load(&o->automatic, &tasks, &settings.options, reason);
	if (r == 0)
		r = compress_delta(
			base, tuned, &settings, call->fd, &progress, &call->result->report, reason);
	progress_bar_end(&bar);
	return r;
}

/* In the parent: the file appears when the child has succeeded, or not at all. */
static int compress_to_file(struct call *call, struct reason *reason)
{
	_cleanup_(new_file_done) struct new_file file = NEW_FILE_INIT;
	int r;

	r = new_file_open(&file, call->options->output, reason);
	if (r < 0)
		return r;
	call->fd = file.fd;
	r = sandbox_call(compress_in_sandbox, call, &(struct sandbox_limits){0}, reason);
	if (r < 0)
		return r;
	return new_file_commit(&file, reason);
}

/* May the same command succeed another time? */
static bool is_passing(int error)
{
	return error == -ECANCELED || error == -ENOSPC || error == -EDQUOT || error == -EIO ||
	       error == -ENOMEM;
}

static int compress_with_work(
	struct call *call, const struct digest *command, struct reason *reason)
{
	_cleanup_(partial_file_done) struct partial_file partial = PARTIAL_FILE_INIT;
	struct options *o = call->options;
	struct compress_work work = {
		.resume = !o->no_resume,
		.command = *command,
		.blocks_done = &call->result->blocks_done,
	};
	int r;

	r = partial_file_open(&partial, o->output, reason);
	if (r < 0)
		return r;
	work.fd = partial.fd;
	o->settings.work = &work;
	r = compress_to_file(call, reason);
	o->settings.work = NULL;
	if (is_passing(r) && call->result->blocks_done > 0)
		fprintf(stderr, "deltactl: %s holds %u blocks; the same command goes on there\n",
			partial.path, call->result->blocks_done);
	else
		partial_file_remove(&partial);
	return r;
}

static int remember_file(
	struct options *o, const char *path, uint64_t max_bytes, struct reason *reason)
{
	_cleanup_(freep) char *bytes = NULL;
	size_t n;
	int r;

	r = file_load(path, max_bytes, &bytes, &n, reason);
	if (r == 0)
		digest_add(o->said, bytes, n);
	return r;
}

/* Another build may make other parts of the same options. */
static int digest_command(struct options *o, struct digest *ret, struct reason *reason)
{
	int r;

	r = remember_file(o, "/proc/self/exe", MAX_PROGRAM_BYTES, reason);
	if (r == 0 && o->automatic.tasks)
		r = remember_file(o, o->automatic.tasks, MAX_CALIBRATION_BYTES, reason);
	if (r < 0)
		return r;
	*ret = digest_finish(take_ptr(o->said));
	return 0;
}

static int compress(struct options *o, struct result *result, struct reason *reason)
{
	struct call call = {.options = o, .result = result};
	_cleanup_(freep) char *text = NULL;
	struct digest command;
	int r;

	if (o->calibrate) {
		r = file_load(o->calibrate, MAX_CALIBRATION_BYTES, &text,
			&o->settings.n_calibration_text, reason);
		if (r < 0)
			return r;
		o->settings.calibration_text = text;
	}
	r = digest_command(o, &command, reason);
	/* The library is loaded here because the sandbox may not look for it. */
	if (r == 0)
		r = blas_load(1, reason);
	if (r < 0)
		return r;
	return compress_with_work(&call, &command, reason);
}

static int compress_and_print(struct options *o, const char *name)
{
	struct reason reason = {0};
	struct result *result = sandbox_memory_new(sizeof(*result));
	int r;

	if (!result)
		return command_fail(name, -ENOMEM, &reason);
	r = compress(o, result, &reason);
	compress_report_close(&result->report);
	if (r == 0 && o->json)
		r = compress_report_print_json(o->output, &o->settings, &result->report, &reason);
	else if (r == 0)
		compress_report_print(o->output, &o->settings, &result->report);
	sandbox_memory_free(result, sizeof(*result));
	return r < 0 ? command_fail(name, r, &reason) : EXIT_OK;
}

static int run(int argc, char **argv)
{
	struct options o = {
		.settings =
			{
				.method = COMPRESS_DEFAULT_METHOD,
				.calibration_text = default_calibration,
				.n_calibration_text =
					(size_t)(default_calibration_end - default_calibration),
				.calibration_tokens = COMPRESS_DEFAULT_TOKENS,
				.window = COMPRESS_DEFAULT_WINDOW,
				.isa = getenv("DELTAD_ISA"),
			},
		.said = digest_new(),
	};
	int r;

	if (!o.said)
		return command_fail(argv[0], -ENOMEM, &(struct reason){0});
	r = parse_options(argc, argv, &o);
	if (r < 0)
		r = command_help(&command_compress, options_help);
	else if (r == 0 && wants_list(&o))
		r = list_methods();
	else if (r == 0)
		r = compress_and_print(&o, argv[0]);
	digest_free(o.said);
	return r;
}

const struct command command_compress = {
	.name = "compress",
	.arguments = "--base DIR (--tuned DIR | --adapter DIR) -o FILE [--ratio N] [--method NAME]",
	.summary = "make a delta file from a base and a fine-tune of it",
	.run = run,
};
