/*
 * deltactl cut: the beginning of a delta file, up to the end of a level.
 */
#include "client/deltactl/command.h"
#include "client/deltactl/commands.h"
#include "client/deltactl/number.h"
#include "common/file.h"
#include "store/delta.h"

#include <getopt.h>
#include <string.h>

static const char options_help[] =
	"      --levels N       how many levels to keep, at least 1\n"
	"  -o, --output FILE    the file to make\n"
	"  -q, --quiet          no progress and no report\n"
	"\n"
	"A delta file holds its levels one after the other, the most useful first; its beginning\n"
	"up to the end of one is a delta as well, smaller and coarser. 'deltactl inspect' shows "
	"the\n"
	"levels. Every byte is checked on the way.\n";

struct cut {
	const char *path, *output;
	uint32_t n_levels;
	bool quiet;
};

/* 0: go on. EXIT_USAGE or, for --help, -1 otherwise. */
static int parse_arguments(int argc, char **argv, struct cut *ret)
{
	static const struct option options[] = {
		{"levels", required_argument, NULL, 'l'},
		{"output", required_argument, NULL, 'o'},
		{"quiet", no_argument, NULL, 'q'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const struct command *self = &command_cut;
	int option;

	opterr = 0;
	optind = 0;
	while ((option = getopt_long(argc, argv, "o:qh", options, NULL)) != -1) {
		switch (option) {
		case 'l':
			if (!number_u32(optarg, &ret->n_levels))
				return command_usage(self, "'%s' is not a number", optarg);
			break;
		case 'o':
			ret->output = optarg;
			break;
		case 'q':
			ret->quiet = true;
			break;
		case 'h':
			return -1;
		default:
			return command_bad_option(self, argv);
		}
	}
	if (optind + 1 != argc || !ret->output || ret->n_levels == 0)
		return command_usage(self, "one file, --levels and -o are needed");
	ret->path = argv[optind];
	return 0;
}

static int open_delta(const struct cut *cut, struct delta **ret, struct reason *reason)
{
	struct progress_bar bar;
	int r;

	r = delta_open(cut->path, NULL, ret, progress_bar(&bar, "bytes", cut->quiet), reason);
	progress_bar_end(&bar);
	if (r < 0)
		return r;
	if (cut->n_levels > (*ret)->image->n_levels)
		return reason_set(reason, -EMEDIUMTYPE, "%s has %u levels, --levels is %u",
			cut->path, (*ret)->image->n_levels, cut->n_levels);
	return 0;
}

static int write_beginning(
	const struct cut *cut, const struct delta *delta, uint64_t n_bytes, struct reason *reason)
{
	_cleanup_(new_file_done) struct new_file file = NEW_FILE_INIT;
	int r;

	r = new_file_open(&file, cut->output, reason);
	if (r < 0)
		return r;
	r = file_write_at(file.fd, delta->image->bytes, n_bytes, 0);
	if (r < 0)
		return reason_set(reason, r, "%s: cannot write: %s", cut->output, strerror(-r));
	return new_file_commit(&file, reason);
}

static void print_report(const struct cut *cut, const struct delta *delta, uint64_t n_bytes)
{
	char kept[16], whole[16];

	printf("%s: %u of %u levels, %s of %s\n", cut->output, cut->n_levels,
		delta->image->header.n_levels, human_bytes(n_bytes, kept),
		human_bytes(delta->image->header.file_bytes, whole));
}

static int run(int argc, char **argv)
{
	_cleanup_(deltap) struct delta *delta = NULL;
	struct reason reason = {0};
	struct cut cut = {0};
	uint64_t n_bytes;
	int r;

	r = parse_arguments(argc, argv, &cut);
	if (r != 0)
		return r < 0 ? command_help(&command_cut, options_help) : r;
	r = open_delta(&cut, &delta, &reason);
	if (r < 0)
		return command_fail(argv[0], r, &reason);
	n_bytes = delta->image->header.level_end[cut.n_levels - 1];
	r = write_beginning(&cut, delta, n_bytes, &reason);
	if (r < 0)
		return command_fail(argv[0], r, &reason);
	if (!cut.quiet)
		print_report(&cut, delta, n_bytes);
	return EXIT_OK;
}

const struct command command_cut = {
	.name = "cut",
	.arguments = "FILE --levels N -o FILE",
	.summary = "make a smaller, coarser delta of the beginning of one",
	.run = run,
};
