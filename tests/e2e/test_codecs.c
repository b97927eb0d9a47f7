/*
 * Every method, from two folders to answers, through the programs: deltactl makes the delta, the
 * daemon serves it, alone and with all others in one batch, and what it answers is what the merged
 * folder says, imported as a base of its own.
 */
#include "compress/method.h"
#include "foreign/json.h"
#include "foreign/safetensors.h"
#include "tests/delta_bytes.h"
#include "tests/live_daemon.h"
#include "tests/program.h"
#include "tests/scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define TINY "tests/golden/data/tiny/"
#define N_PROMPT 24u
#define N_ANSWER 40u
#define N_IDS (N_PROMPT + N_ANSWER)
#define VOCAB 320u
#define MAX_SAMPLES 40u
#define MAX_OPTIONS 4u

/*
 * Merging rounds each weight to bf16, 8 bits: it is off by at most 2^-9 of itself. Spread over the
 * weights as noise, that is 2^-9 / sqrt(3) = 0.11 % of the matrix's norm. The change of a
 * projection, as these methods keep it, has 2.5 % or more of that norm, so that the noise is below
 * 5 % of the change, and its effect on log-probabilities below as large a share of the change's.
 * Everything but projections is exact in both; where a method leaves all projections alone, nothing
 * may be off at all.
 */
#define TOLERANCE 0.05

struct sample {
	const char *method;
	const char *options[MAX_OPTIONS];
};

/* Beside each method as it is when nothing is asked of it: widths, and other ways through it. */
static const struct sample more_samples[] = {
	{"k-bit", {"--bits", "1"}},
	{"k-bit", {"--bits", "2"}},
	{"k-bit", {"--bits", "3"}},
	{"k-bit", {"--bits", "4"}},
	{"k-bit", {"--bits", "5"}},
	{"k-bit", {"--bits", "6"}},
	{"k-bit", {"--bits", "7"}},
	{"k-bit", {"--bits", "8"}},
	{"k-bit", {"--ratio", "6"}},
	{"delta-come", {"--ratio", "8", "--embedding", "4"}},
	{"delta-come", {"--ratio", "12", "--embedding", "auto"}},
	{"deltadq", {"--ratio", "8"}},
	{"low-rank", {"--ratio", "4"}},
	{"low-rank+k-bit", {"--ratio", "6"}},
	{"sparse", {"--ratio", "24"}},
	{"auto", {"--ratio", "8"}},
};

struct variant_of {
	struct sample sample;
	char name[64];
	char *path;    /* of the delta */
	double effect; /* of its projections on log-probabilities */
};

/* One family: its store and everything in it. */
struct zoo {
	const char *family;
	char *tuned; /* folder of the fine-tune, in the tree */
	char *base;
	struct live_store store;
	char *base_image;
	struct variant_of variants[MAX_SAMPLES];
	size_t n;
};

static char *join(const char *a, const char *b)
{
	char *text;

	assert_true(asprintf(&text, "%s%s", a, b) >= 0);
	return text;
}

static bool is_method(const struct variant_of *v, const char *method)
{
	return strcmp(v->sample.method, method) == 0;
}

/* Do the programs have the fine-tune's own numbers? */
static bool is_verbatim(const struct variant_of *v)
{
	return is_method(v, "lossless") || is_method(v, "dense");
}

/* A name that a store may have. */
static void name_variant(const struct zoo *z, struct variant_of *v)
{
	snprintf(v->name, sizeof(v->name), "%zu-%s", z->n, v->sample.method);
	for (char *c = v->name; *c; c++)
		if (*c == '+')
			*c = '_';
}

static void compress(const struct zoo *z, const struct variant_of *v)
{
	const char *arguments[16 + MAX_OPTIONS] = {"compress", "--base", z->base, "--tuned",
		z->tuned, "-o", v->path, "--method", v->sample.method, "--calibration-tokens",
		"1024", "--threads", "1", "--quiet"};

	for (size_t i = 0; i < MAX_OPTIONS; i++)
		arguments[14 + i] = v->sample.options[i];
	free(program_deltactl(arguments));
}

/* Adapters are another input: tests/e2e/test_adapter.sh. */
static bool takes_fine_tunes(const struct method *m)
{
	return !(m->takes & METHOD_TAKES_ADAPTERS);
}

static void add_variant(struct zoo *z, const struct sample *sample)
{
	struct variant_of *v = &z->variants[z->n];
	_cleanup_(freep) char *file = NULL;

	assert_true(z->n < MAX_SAMPLES);
	v->sample = *sample;
	name_variant(z, v);
	file = join(v->name, ".delta");
	v->path = scratch_path(z->store.folder, file);
	compress(z, v);
	z->n++;
}

static void make_zoo(struct zoo *z, const char *family)
{
	const struct method *m;

	*z = (struct zoo){.family = family, .store.folder = scratch_folder()};
	z->base = join(TINY, family);
	z->tuned = join(z->base, "-ft");
	z->base_image = scratch_path(z->store.folder, "base.base");
	free(program_deltactl(
		(const char *[]){"import", z->base, "-o", z->base_image, "--quiet", NULL}));
	for (size_t i = 0; (m = method_at(i)); i++)
		if (takes_fine_tunes(m))
			add_variant(z, &(struct sample){.method = m->name});
	for (size_t i = 0; i < array_len(more_samples); i++)
		add_variant(z, &more_samples[i]);
}

static void remove_zoo(struct zoo *z)
{
	for (size_t i = 0; i < z->n; i++)
		free(z->variants[i].path);
	live_store_remove(&z->store);
	free(z->base_image);
	free(z->tuned);
	free(z->base);
}

/* verify accepts each, and inspect accounts for every byte. */
static void check_files(const struct zoo *z)
{
	for (size_t i = 0; i < z->n; i++) {
		const char *path = z->variants[i].path;
		char *inspected = program_deltactl(
			(const char *[]){"inspect", path, "--json", "--quiet", NULL});

		delta_bytes_check(path, inspected);
		free(inspected);
		free(program_deltactl((const char *[]){
			"verify", "--base", z->base_image, path, "--quiet", NULL}));
	}
}

/* What the prompt of a variant is. */
static void prompt_of(size_t variant, uint32_t ret[static N_PROMPT])
{
	for (uint32_t i = 0; i < N_PROMPT; i++)
		ret[i] = 3 + (uint32_t)(variant * 31 + i * 37 + i * i * 11) % (VOCAB - 3);
}

static uint64_t ask(struct connection *c, const struct zoo *z, size_t variant)
{
	struct proto_message m = live_complete(z->variants[variant].name, "", N_ANSWER);
	uint32_t ids[N_PROMPT];

	prompt_of(variant, ids);
	m.complete.prompt = PROTO_PROMPT_IDS;
	m.complete.ids = ids;
	m.complete.n_ids = N_PROMPT;
	return live_send(c, &m);
}

static void collect(
	struct connection *c, const struct zoo *z, size_t i, uint64_t request, struct answer *ret)
{
	live_collect(c, request, ret);
	if (ret->status != PROTO_STATUS_OK || ret->n_tokens != N_ANSWER)
		fail_msg("%s: %u tokens, %s", z->variants[i].name, ret->n_tokens, ret->words);
}

/* In one batch, in which steps are fewer than tokens, each answer is the one that it is alone. */
static void serve(const struct zoo *z, struct answer *answers)
{
	static const struct live_options options = {
		.yaml = "memory:\n  kv: 32 MiB\nengine:\n  kv_type: f32\n"
			"limits:\n  requests_per_user: 64\n"};
	struct live_daemon daemon;
	struct answer *together = malloc(sizeof(*together));
	uint64_t requests[MAX_SAMPLES], before;
	struct connection *c;

	assert_non_null(together);
	live_daemon_start(&daemon, &z->store, &options);
	c = live_connect_admin(&daemon);
	for (size_t i = 0; i < z->n; i++)
		collect(c, z, i, ask(c, z, i), &answers[i]);
	before = live_stat(c, "engine_steps");
	for (size_t i = 0; i < z->n; i++)
		requests[i] = ask(c, z, i);
	for (size_t i = 0; i < z->n; i++) {
		collect(c, z, i, requests[i], together);
		assert_memory_equal(together->tokens, answers[i].tokens,
			N_ANSWER * sizeof(together->tokens[0]));
		assert_memory_equal(together->logprobs, answers[i].logprobs,
			N_ANSWER * sizeof(together->logprobs[0]));
	}
	assert_true(live_stat(c, "engine_steps") - before < z->n * N_ANSWER / 4);
	connection_free(c);
	live_daemon_stop(&daemon);
	free(together);
}

/* Log-probabilities of the ids, one from each id but the last. */
static void score(const char *base, const char *delta, const char *ids, double *ret)
{
	char *text = program_deltactl((const char *[]){"score", "--base", base, "--ids", ids,
		"--json", delta ? "--delta" : NULL, delta, NULL});
	json_t *object = json_loads(text, 0, NULL);
	const json_t *logprobs = json_object_get(object, "logprobs");

	assert_int_equal(json_array_size(logprobs), N_IDS - 1);
	for (size_t i = 0; i + 1 < N_IDS; i++)
		ret[i] = json_real_value(json_array_get(logprobs, i));
	json_decref(object);
	free(text);
}

/* Prompt and answer of a variant as a file for score. */
static char *write_ids(const struct zoo *z, size_t variant, const struct answer *answer)
{
	uint32_t ids[N_IDS];
	char text[N_IDS * 12 + 4];
	size_t n = 0;

	prompt_of(variant, ids);
	memcpy(ids + N_PROMPT, answer->tokens, N_ANSWER * sizeof(ids[0]));
	for (size_t i = 0; i < N_IDS; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%u", i ? ", " : "[", ids[i]);
	n += (size_t)snprintf(text + n, sizeof(text) - n, "]\n");
	return scratch_write(z->store.folder, "ids", text, n);
}

static double distance(const double *a, const double *b)
{
	double sum = 0;

	for (size_t i = 0; i + 1 < N_IDS; i++)
		sum += (a[i] - b[i]) * (a[i] - b[i]);
	return sqrt(sum / (N_IDS - 1));
}

/* The same tensors with the same bytes, in whatever order. */
static void check_same_tensors(const char *folder, const char *expected)
{
	struct safetensors *a, *b;
	struct reason reason = {""};

	if (safetensors_open_folder(folder, &a, &reason) < 0 ||
		safetensors_open_folder(expected, &b, &reason) < 0)
		fail_msg("%s", reason.text);
	assert_int_equal(safetensors_n_tensors(a), safetensors_n_tensors(b));
	for (size_t i = 0; i < safetensors_n_tensors(b); i++) {
		const struct safetensors_tensor *t = safetensors_at(b, i);
		const struct safetensors_tensor *same = safetensors_find(a, t->name);
		uint8_t *x = malloc(t->bytes), *y = malloc(t->bytes);

		assert_non_null(same);
		assert_int_equal(same->dtype, t->dtype);
		assert_int_equal(same->bytes, t->bytes);
		assert_int_equal(safetensors_read(a, same, 0, x, t->bytes, NULL), 0);
		assert_int_equal(safetensors_read(b, t, 0, y, t->bytes, NULL), 0);
		assert_memory_equal(x, y, t->bytes);
		free(x);
		free(y);
	}
	safetensors_free(a);
	safetensors_free(b);
}

/* The merged folder as a base of its own. */
static char *merge(const struct zoo *z, const struct variant_of *v)
{
	_cleanup_(freep) char *folder = scratch_path(z->store.folder, v->name);
	char *image = scratch_path(z->store.folder, "merged.base");

	free(program_deltactl((const char *[]){
		"merge", "--base", z->base, "--delta", v->path, "-o", folder, "--quiet", NULL}));
	free(program_deltactl((const char *[]){"import", folder, "-o", image, "--quiet", NULL}));
	if (is_verbatim(v))
		check_same_tensors(folder, z->tuned);
	return image;
}

static const struct variant_of *zero_of(const struct zoo *z)
{
	for (size_t i = 0; i < z->n; i++)
		if (is_method(&z->variants[i], "zero"))
			return &z->variants[i];
	fail_msg("there is no method zero");
	return NULL;
}

/* What the daemon said of its tokens is what score says of them. */
static void check_daemon(const struct variant_of *v, const struct answer *answer,
	const double logprobs[static N_IDS])
{
	for (size_t i = 0; i < N_ANSWER; i++)
		if (fabs(logprobs[N_PROMPT - 1 + i] - (double)answer->logprobs[i]) > 1e-6)
			fail_msg("%s: token %zu has %.9g from the daemon, %.9g from score", v->name,
				i, (double)answer->logprobs[i], logprobs[N_PROMPT - 1 + i]);
}

static void check_merged(
	struct zoo *z, size_t i, const struct answer *answer, const char *tuned_image)
{
	struct variant_of *v = &z->variants[i];
	double served[N_IDS], merged[N_IDS], zero[N_IDS], tuned[N_IDS], off;
	char *ids = write_ids(z, i, answer), *image = merge(z, v);

	score(z->base_image, v->path, ids, served);
	score(image, NULL, ids, merged);
	score(z->base_image, zero_of(z)->path, ids, zero);
	score(tuned_image, NULL, ids, tuned);
	off = distance(served, merged);
	v->effect = distance(served, zero);
	check_daemon(v, answer, served);
	print_message("%s %s: %.2e from the merged model, %.2e from no projections, %.2e from "
		      "the fine-tune\n",
		z->family, v->name, off, v->effect, distance(served, tuned));
	if (is_verbatim(v))
		assert_true(off == 0 && distance(served, tuned) == 0);
	if (!(off <= TOLERANCE * v->effect))
		fail_msg("%s: %g from the merged model, at most %g of %g expected", v->name, off,
			TOLERANCE, v->effect);
	free(image);
	free(ids);
}

/* None was tested only with nothing in it. */
static void check_all_had_effect(const struct zoo *z)
{
	const struct method *m;

	for (size_t i = 0; (m = method_at(i)); i++) {
		double most = 0;

		for (size_t k = 0; k < z->n; k++)
			if (is_method(&z->variants[k], m->name))
				most = fmax(most, z->variants[k].effect);
		if (takes_fine_tunes(m) && (most > 0) != (strcmp(m->name, "zero") != 0))
			fail_msg("%s: effect of %g", m->name, most);
	}
}

static void test_family(void **state)
{
	struct zoo *z = calloc(1, sizeof(*z));
	struct answer *answers = calloc(MAX_SAMPLES, sizeof(*answers));
	_cleanup_(freep) char *tuned_image = NULL;

	assert_true(z && answers);
	make_zoo(z, *state);
	check_files(z);
	serve(z, answers);
	tuned_image = scratch_path(z->store.folder, "tuned.base");
	free(program_deltactl(
		(const char *[]){"import", z->tuned, "-o", tuned_image, "--quiet", NULL}));
	for (size_t i = 0; i < z->n; i++)
		check_merged(z, i, &answers[i], tuned_image);
	check_all_had_effect(z);
	remove_zoo(z);
	free(answers);
	free(z);
}

int main(void)
{
	static char grouped[] = "llama-gqa", tied_with_biases[] = "qwen2";
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(test_family, grouped),
		cmocka_unit_test_prestate(test_family, tied_with_biases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
