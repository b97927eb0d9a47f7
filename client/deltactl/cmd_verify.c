/*
 * deltactl verify: is a base image or a delta file what its writer made, does it fit, and does this
 * machine compute from it what the writer saw?
 */
#include "client/deltactl/commands.h"
#include "client/deltactl/json_line.h"

#include "engine/selftest.h"
#include "store/base.h"
#include "store/delta.h"
#include "store/model_digest.h"

#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

struct verify_arguments {
	const char *base;
	char **files;
	int n_files;
	bool json;
	bool quiet;
};

/* What computes, made for the first self-test; the base of --base, or NULL. */
struct verifier {
	const struct verify_arguments *arguments;
	struct kernels kernels;
	struct pool *pool;
	struct base *base;
	struct progress_bar bar;
	const struct progress *progress;
	bool told_refusal;
};

struct finding {
	enum image_kind kind;
	struct base *base; /* what a base image became; owned */
	bool codes;        /* it has codes in place of its numbers */
	struct format_header header;
	bool fits_base; /* a delta, checked against --base */
	bool has_selftest;
	bool cut;             /* the self-test is of the whole file */
	bool other_values;    /* it is of a base that serves other values */
	float selftest_error; /* NaN where it was not run */
};

static const char options_text[] =
	"      --base FILE  the base image that the delta files must fit; it is verified too, and\n"
	"                   their self-tests are run on it\n"
	"      --json       print one JSON object a line for each file\n"
	"  -q, --quiet      no progress\n";

static void finding_done(struct finding *f)
{
	base_free(f->base);
	f->base = NULL;
}

static void verifier_done(struct verifier *v)
{
	base_free(v->base);
	pool_free(v->pool);
}

static int prepare_computing(struct verifier *v, struct reason *reason)
{
	int r;

	if (v->pool)
		return 0;
	r = kernels_select(&v->kernels, getenv("DELTAD_ISA"), reason);
	return r < 0 ? r : pool_new(0, &v->pool, reason);
}

/* The header says what the weights are; here they say it themselves: those that are served. What
 * codes were made of cannot be told from them. */
static int digest_tensor(struct model_digest *m, const struct base *base,
	const struct tensor_record *t, struct reason *reason)
{
	enum tensor_role role = (enum tensor_role)t->role;
	const struct base_matrix *matrix = base_matrix(base, role, t->layer);
	bool codes = t->codec == CODEC_MAT_INT;
	size_t n = (size_t)t->rows * t->cols, size = codes ? sizeof(float) : sizeof(uint16_t);
	_cleanup_(freep) uint8_t *values = NULL;

	if (tensor_role_is_vector(role)) {
		model_digest_add(m, role, t->layer, t->rows, t->cols,
			base->image->bytes + t->offset, n * sizeof(float));
		return 0;
	}
	values = malloc(n * size);
	if (!values)
		return reason_set(reason, -ENOMEM,
			"no memory for the digest of a %" PRIu32 " x %" PRIu32 " matrix", t->rows,
			t->cols);
	for (uint32_t r = 0; r < t->rows; r++) {
		void *row = values + (size_t)r * t->cols * size;

		if (codes)
			base_matrix_row(row, matrix, r);
		else
			base_matrix_row_bf16(row, matrix, r);
	}
	model_digest_add(m, role, t->layer, t->rows, t->cols, values, n * size);
	return 0;
}

static int check_model_digest(
	const struct verifier *v, const struct base *base, struct reason *reason)
{
	_cleanup_(model_digestp) struct model_digest *m = model_digest_new(&base->config);
	char found_hex[DIGEST_HEX_SIZE], expected_hex[DIGEST_HEX_SIZE];
	const struct tensor_record *records;
	struct digest found;
	uint64_t n_bytes;
	size_t n;

	records = (const void *)image_section(base->image, SECTION_TENSORS, &n_bytes);
	n = n_bytes / sizeof(*records);
	if (!m)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		int r = digest_tensor(m, base, &records[i], reason);

		if (r < 0)
			return r;
		progress_update(v->progress, "digesting", i + 1, n);
	}
	found = model_digest_finish(take_ptr(m));
	if (digest_equal(&found, base_served_digest(base)))
		return 0;
	digest_hex(&found, found_hex);
	digest_hex(base_served_digest(base), expected_hex);
	return reason_set(reason, -EMEDIUMTYPE,
		"the weights that are served have the digest %s, the header says %s", found_hex,
		expected_hex);
}

static int run_selftest(struct verifier *v, const struct base *base, const struct delta *delta,
	struct finding *f, struct reason *reason)
{
	const struct image *image = delta ? delta->image : base->image;
	_cleanup_(modelp) struct model *model = NULL;
	_cleanup_(variantp) struct variant *variant = NULL;
	uint64_t n_bytes;
	const uint8_t *bytes = image_section(image, SECTION_SELFTEST, &n_bytes);
	int r;

	f->has_selftest = bytes;
	f->cut = image->n_levels < image->header.n_levels;
	f->other_values =
		base && delta && !digest_equal(&image->header.model, base_served_digest(base));
	if (!bytes || !base || f->cut || f->other_values)
		return 0;
	r = prepare_computing(v, reason);
	if (r == 0)
		r = model_new(base, &v->kernels, &model, reason);
	if (r == 0)
		r = variant_new(model, delta, &variant, reason);
	if (r < 0)
		return r;
	return selftest_run(variant, v->pool, bytes, n_bytes, &f->selftest_error, reason);
}

static int verify_base(
	struct verifier *v, const struct base *base, struct finding *f, struct reason *reason)
{
	int r = check_model_digest(v, base, reason);

	f->codes = base_served_digest(base) != base_model_digest(base);
	return r < 0 ? r : run_selftest(v, base, NULL, f, reason);
}

static int verify_image(
	struct verifier *v, struct image **image, struct finding *f, struct reason *reason)
{
	_cleanup_(deltap) struct delta *delta = NULL;
	int r;

	if (f->kind == IMAGE_KIND_BASE) {
		r = base_bind(*image, &f->base, reason);
		if (r < 0)
			return r;
		take_ptr(*image);
		return verify_base(v, f->base, f, reason);
	}
	r = delta_bind(*image, v->base, &delta, reason);
	if (r < 0)
		return r;
	take_ptr(*image);
	f->fits_base = v->base;
	return run_selftest(v, v->base, delta, f, reason);
}

static void tell_refusal(struct verifier *v, const struct image *image)
{
	if (!image->io_uring_refused || v->told_refusal)
		return;
	fprintf(stderr, "deltactl verify: io_uring is refused (%s), files are read without it\n",
		strerror(image->io_uring_refused));
	v->told_refusal = true;
}

static int verify_file(
	struct verifier *v, const char *path, struct finding *f, struct reason *reason)
{
	_cleanup_(imagep) struct image *image = NULL;
	int r = image_load_path(path, &image, v->progress, reason);

	if (r < 0)
		return r;
	tell_refusal(v, image);
	f->kind = image->kind;
	f->header = image->header;
	r = verify_image(v, &image, f, reason);
	return r < 0 ? reason_prefix(reason, r, "%s", path) : 0;
}

static const char *kind_name(enum image_kind kind)
{
	return kind == IMAGE_KIND_BASE ? "base image" : "delta file";
}

static void print_finding(const char *path, const struct finding *f)
{
	char root[DIGEST_HEX_SIZE], size[16];

	digest_hex(&f->header.root, root);
	printf("%s: ok, %s of %s, root %.16s, %" PRIu64 " chunks", path, kind_name(f->kind),
		human_bytes(f->header.file_bytes, size), root, f->header.n_chunks);
	if (f->kind == IMAGE_KIND_BASE)
		printf(", digest of the weights%s recomputed", f->codes ? " as served" : "");
	else
		printf("%s", f->fits_base ? ", fits the base" : ", base not checked (no --base)");
	if (!f->has_selftest)
		printf(", has no self-test\n");
	else if (f->cut)
		printf(", cut; the self-test is of the whole file\n");
	else if (f->other_values)
		printf(", the self-test is of the base's own numbers, this base has codes\n");
	else if (isnan(f->selftest_error))
		printf(", self-test not run (no --base)\n");
	else
		printf(", self-test off by %.2g\n", (double)f->selftest_error);
}

static json_t *finding_json(const char *path, const struct finding *f)
{
	char root[DIGEST_HEX_SIZE], model[DIGEST_HEX_SIZE], tuned[DIGEST_HEX_SIZE];
	char served[DIGEST_HEX_SIZE];
	bool is_base = f->kind == IMAGE_KIND_BASE;

	digest_hex(&f->header.root, root);
	digest_hex(&f->header.model, model);
	digest_hex(&f->header.tuned, tuned);
	digest_hex(image_served_digest(&f->header), served);
	return json_pack("{s:s, s:b, s:s, s:I, s:I, s:s, s:s, s:s?, s:s?, s:o, s:b, s:o}", "file",
		path, "ok", 1, "kind", is_base ? "base" : "delta", "file_bytes",
		(json_int_t)f->header.file_bytes, "chunks", (json_int_t)f->header.n_chunks, "root",
		root, "model", model, "served", is_base ? served : NULL, "tuned",
		is_base ? NULL : tuned, "fits_base", f->fits_base ? json_true() : json_null(),
		"has_selftest", f->has_selftest, "selftest_error",
		isnan(f->selftest_error) ? json_null() : json_real((double)f->selftest_error));
}

static int report_failure(
	const struct verifier *v, const char *path, int error, const struct reason *reason)
{
	int code = command_fail("verify", error, reason);
	struct reason unwritten = {0};
	int r = 0;

	if (v->arguments->json)
		r = json_line_print(json_pack("{s:s, s:b, s:s, s:i}", "file", path, "ok", 0,
					    "error", reason->text, "exit_code", code),
			0, &unwritten);
	if (r < 0)
		command_fail("verify", r, &unwritten);
	return code;
}

/* One file from its name to its line of output. Returns an exit code; the base of a base image is
 * the caller's if it asks for it. */
static int report_file(struct verifier *v, const char *path, struct base **ret_base)
{
	_cleanup_(finding_done) struct finding f = {.selftest_error = NAN};
	struct reason reason = {0};
	int r = verify_file(v, path, &f, &reason);

	if (r == 0 && ret_base && !f.base)
		r = reason_set(
			&reason, -EMEDIUMTYPE, "%s: is a delta file, expected a base image", path);
	progress_bar_end(&v->bar);
	if (r < 0)
		return report_failure(v, path, r, &reason);
	if (ret_base)
		*ret_base = take_ptr(f.base);
	if (!v->arguments->json) {
		print_finding(path, &f);
		return EXIT_OK;
	}
	r = json_line_print(finding_json(path, &f), 0, &reason);
	return r < 0 ? command_fail("verify", r, &reason) : EXIT_OK;
}

static int parse_arguments(int argc, char **argv, struct verify_arguments *ret)
{
	static const struct option options[] = {
		{"base", required_argument, NULL, 'b'},
		{"json", no_argument, NULL, 'j'},
		{"quiet", no_argument, NULL, 'q'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int option;

	*ret = (struct verify_arguments){0};
	opterr = 0;
	optind = 0;
	while ((option = getopt_long(argc, argv, "qh", options, NULL)) != -1) {
		switch (option) {
		case 'b':
			ret->base = optarg;
			break;
		case 'j':
			ret->json = true;
			break;
		case 'q':
			ret->quiet = true;
			break;
		case 'h':
			command_help(&command_verify, options_text);
			return -ECANCELED;
		default:
			return command_bad_option(&command_verify, argv);
		}
	}
	ret->files = argv + optind;
	ret->n_files = argc - optind;
	if (ret->n_files == 0 && !ret->base)
		return command_usage(&command_verify, "expected files");
	return 0;
}

static int run(int argc, char **argv)
{
	struct verify_arguments arguments;
	_cleanup_(verifier_done) struct verifier v = {.arguments = &arguments};
	int first = EXIT_OK;
	int r = parse_arguments(argc, argv, &arguments);

	if (r != 0)
		return r == -ECANCELED ? EXIT_OK : r;
	v.progress = progress_bar(&v.bar, "bytes", arguments.quiet);
	if (arguments.base)
		first = report_file(&v, arguments.base, &v.base);
	/* Without their partner nothing can be said of the others. */
	if (first != EXIT_OK)
		return first;
	for (int i = 0; i < arguments.n_files; i++) {
		r = report_file(&v, arguments.files[i], NULL);
		if (first == EXIT_OK)
			first = r;
	}
	return first;
}

const struct command command_verify = {
	.name = "verify",
	.arguments = "FILE... [--base FILE] [--json] [--quiet]",
	.summary = "check every checksum, the base binding and the self-test",
	.run = run,
};
