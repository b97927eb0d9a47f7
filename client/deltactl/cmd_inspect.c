/*
 * deltactl inspect: what is inside a base image, a delta file, a safetensors file or a model
 * folder.
 */
#include "client/deltactl/commands.h"

#include "client/deltactl/document.h"
#include "client/deltactl/inspect.h"
#include "client/deltactl/inspect_html.h"
#include "common/file.h"
#include "foreign/sandbox.h"
#include "store/format.h"

#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <sys/stat.h>

/* Address space of the reader: the largest header that is accepted, many times over. */
#define MEMORY_LIMIT (UINT64_C(4) << 30)

enum kind {
	KIND_BASE,
	KIND_DELTA,
	KIND_SAFETENSORS,
	KIND_FOLDER,
};

struct inspection {
	const char *path;
	const char *html; /* the page to make, or NULL */
	enum kind kind;
	bool json;
	bool quiet;
};

static const char options_text[] =
	"      --json        print one JSON object\n"
	"      --html FILE   of a delta file: make a page of tables and pictures instead\n"
	"  -q, --quiet       no progress\n"
	"\n"
	"Every byte of a base image or delta file is checked on the way; of a safetensors file\n"
	"every rule of its format, of a model folder also that the model is one we can serve.\n";

static int parse_arguments(int argc, char **argv, struct inspection *ret)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'},
		{"html", required_argument, NULL, 'p'},
		{"quiet", no_argument, NULL, 'q'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int option;

	*ret = (struct inspection){0};
	opterr = 0;
	optind = 0;
	while ((option = getopt_long(argc, argv, "qh", options, NULL)) != -1) {
		switch (option) {
		case 'j':
			ret->json = true;
			break;
		case 'p':
			ret->html = optarg;
			break;
		case 'q':
			ret->quiet = true;
			break;
		case 'h':
			command_help(&command_inspect, options_text);
			return -ECANCELED;
		default:
			return command_bad_option(&command_inspect, argv);
		}
	}
	if (optind + 1 != argc)
		return command_usage(&command_inspect, "expected one file or folder");
	ret->path = argv[optind];
	return 0;
}

/* A file that begins with neither of our magics is taken for safetensors, which has none. */
static int find_kind(const char *path, enum kind *ret, struct reason *reason)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	uint8_t magic[8] = {0};
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return reason_set(reason, -errno, "%s: cannot open: %s", path, strerror(errno));
	if (S_ISDIR(st.st_mode)) {
		*ret = KIND_FOLDER;
		return 0;
	}
	if (!S_ISREG(st.st_mode))
		return reason_set(reason, -EBADMSG, "%s: neither a file nor a folder", path);
	r = file_read_at(fd, magic, sizeof(magic), 0);
	if (r < 0 && r != -ENODATA)
		return reason_set(reason, r, "%s: cannot read: %s", path, strerror(-r));
	if (memcmp(magic, FORMAT_MAGIC_BASE, sizeof(magic)) == 0)
		*ret = KIND_BASE;
	else if (memcmp(magic, FORMAT_MAGIC_DELTA, sizeof(magic)) == 0)
		*ret = KIND_DELTA;
	else
		*ret = KIND_SAFETENSORS;
	return 0;
}

static int describe(const struct inspection *inspection, json_t **ret, struct reason *reason)
{
	struct progress_bar bar;
	const struct progress *progress = progress_bar(&bar, "bytes", inspection->quiet);
	int r = 0;

	switch (inspection->kind) {
	case KIND_BASE:
		r = inspect_base(inspection->path, progress, ret, reason);
		break;
	case KIND_DELTA:
		r = inspect_delta(inspection->path, progress, ret, reason);
		break;
	case KIND_SAFETENSORS:
		r = inspect_safetensors(inspection->path, ret, reason);
		break;
	case KIND_FOLDER:
		r = inspect_folder(inspection->path, ret, reason);
		break;
	}
	progress_bar_end(&bar);
	if (r < 0 && inspection->kind == KIND_SAFETENSORS)
		return reason_prefix(
			reason, r, "neither a base image nor a delta file; as safetensors");
	return r;
}

/* One of the two ways to show it. */
static int show(const struct inspection *inspection, const json_t *document, struct reason *reason)
{
	int r;

	if (inspection->html) {
		r = inspect_html(document, inspection->path, inspection->html, reason);
		if (r < 0 || !inspection->json)
			return r;
	}
	r = document_print(document, inspection->json);
	if (r < 0)
		return reason_set(
			reason, r, "%s: cannot print: %s", inspection->path, strerror(-r));
	return 0;
}

static int describe_and_print(void *arg, struct reason *reason)
{
	const struct inspection *inspection = arg;
	json_t *document = NULL;
	int r;

	r = describe(inspection, &document, reason);
	if (r < 0)
		return r;
	r = show(inspection, document, reason);
	json_decref(document);
	return r;
}

static int run(int argc, char **argv)
{
	static const struct sandbox_limits limits = {.memory_bytes = MEMORY_LIMIT};
	struct inspection inspection;
	struct reason reason = {0};
	int r;

	r = parse_arguments(argc, argv, &inspection);
	if (r != 0)
		return r == -ECANCELED ? EXIT_OK : r;
	r = find_kind(inspection.path, &inspection.kind, &reason);
	if (r == 0 && inspection.html && inspection.kind != KIND_DELTA)
		return command_usage(
			&command_inspect, "--html is for delta files, %s is none", inspection.path);
	if (r == 0 && (inspection.kind == KIND_BASE || inspection.kind == KIND_DELTA))
		r = describe_and_print(&inspection, &reason);
	else if (r == 0)
		r = sandbox_call(describe_and_print, &inspection, &limits, &reason);
	return r < 0 ? command_fail(argv[0], r, &reason) : EXIT_OK;
}

const struct command command_inspect = {
	.name = "inspect",
	.arguments = "PATH [--json] [--html FILE]",
	.summary = "show what is inside a base image, delta, safetensors file or model folder",
	.run = run,
};
