/*
 * deltactl compress: a base folder and a fine-tune's folder to a delta file.
 */
#include "client/deltactl/command.h"
#include "client/deltactl/commands.h"
#include "client/deltactl/compress_options.h"
#include "client/deltactl/compress_report.h"
#include "client/deltactl/default_calibration.h"
#include "client/deltactl/partial_file.h"
#include "common/file.h"
#include "compress/compress.h"
#include "compress/auto_stream.h"
#include "compress/walk.h"
#include "foreign/sandbox.h"
#include "kernels/blas.h"

#include <string.h>

#define MAX_CALIBRATION_BYTES (UINT64_C(256) << 20)
#define MAX_PROGRAM_BYTES (UINT64_C(1) << 30)

/* What the child tells, in memory that it shares. */
struct result {
	struct compress_report report;
	uint32_t blocks_done; /* that are safe in the partial file */
};

struct call {
	struct compress_options *options;
	int fd; /* of the new file */
	struct result *result;
};

static int list_methods(void)
{
	const struct method *m;

	for (size_t i = 0; (m = method_at(i)); i++)
		printf("%-16s %s\n", m->name, m->summary);
	return EXIT_OK;
}

/* What the bar counts in a stage. */
static const struct stage {
	const char *name, *unit;
	uint32_t steps; /* in one of them */
} stages[] = {
	{"reading", "bytes", 1},
	{"importing", "bytes", 1},
	{"digesting", "blocks", 1},
	{WALK_STAGE, "blocks", WALK_GROUPS},
	{STREAM_FORWARD, "blocks", 1},
	{STREAM_CODING, "blocks", STREAM_CODING_STEPS},
	{"sensing", "blocks", 1},
	{"sensing the embedding", "sizes", 1},
	{"choosing widths", "blocks", 1},
	{"searching the group", "groups", 1},
	{"allocating", "trials", 1},
	{"inventing prompts", "prompts", 1},
	{"inventing answers", "answers", 1},
	{"answering", "answers", 1},
	{"distilling", "steps", 1},
	{"measuring", "windows", 1},
};

static void update_bar(void *user, const char *stage, uint64_t done, uint64_t total)
{
	struct progress_bar *bar = user;

	bar->unit = "parts";
	bar->steps = 1;
	for (size_t i = 0; i < array_len(stages); i++)
		if (strcmp(stage, stages[i].name) == 0) {
			bar->unit = stages[i].unit;
			bar->steps = stages[i].steps;
		}
	progress_update(&bar->progress, stage, done, total);
}

static int open_tuned(
	const struct compress_options *o, struct checkpoint **ret, struct reason *reason)
{
	if (o->adapter)
		return checkpoint_open_adapted(o->base, o->adapter, ret, reason);
	return checkpoint_open(o->tuned, ret, reason);
}

/* In the sandbox. */
static int compress_in_sandbox(void *arg, struct reason *reason)
{
	struct call *call = arg;
	const struct compress_options *o = call->options;
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
	struct compress_options *o = call->options;
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
	struct compress_options *o, const char *path, uint64_t max_bytes, struct reason *reason)
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
static int digest_command(struct compress_options *o, struct digest *ret, struct reason *reason)
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

static int compress(struct compress_options *o, struct result *result, struct reason *reason)
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

static int compress_and_print(struct compress_options *o, const char *name)
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
	struct compress_options o = {
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
	r = compress_options_parse(argc, argv, &o);
	if (r < 0)
		r = command_help(&command_compress, compress_options_help);
	else if (r == 0 && compress_options_list(&o))
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
