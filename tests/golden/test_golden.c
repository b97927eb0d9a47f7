/*
 * The forward pass against what Hugging Face transformers computed in f32 on the same bf16 weights,
 * in every kernel set that this CPU has. All sets compute in f32, so one tolerance serves them all:
 * logits within 1e-3 of the largest |logit|, log-probabilities within 2e-3, greedy tokens
 * identical.
 */
#include "engine/score.h"
#include "foreign/safetensors.h"
#include "tests/imported_base.h"
#include "tests/emulated/select.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LOGITS_TOLERANCE 1e-3
#define LOGPROB_TOLERANCE 2e-3
#define MAX_IDS 512

/* A sanitizer makes `ref` so slow that one case of a trained model must do; every case of the tiny
 * ones is checked in any build. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MAX_TRAINED_CASES 1
#else
#define MAX_TRAINED_CASES SIZE_MAX
#endif

#define EMULATED_CASES 1 /* with a set in software */

static const char *const sets[] = {"ref", "avx2", "avx512", "amx"};

struct golden {
	const char *name;
	const char *folder;
	const char *file;
	size_t max_cases;
	bool ignore_eos; /* how the greedy tokens were made */
};

struct golden_case {
	uint32_t ids[MAX_IDS], greedy[MAX_IDS];
	size_t n_ids, n_greedy;
	float *last_logits, *logprobs;
	size_t n_logits, n_logprobs;
};

/* A tensor of case i, malloc'ed; NULL if there is no such case. */
static void *read_tensor(const struct safetensors *s, size_t i, const char *what, size_t *ret_n)
{
	const struct safetensors_tensor *t;
	struct reason reason = {0};
	char name[64];
	void *bytes;

	snprintf(name, sizeof(name), "%zu.%s", i, what);
	t = safetensors_find(s, name);
	if (!t)
		return NULL;
	bytes = malloc(t->bytes + 1);
	assert_non_null(bytes);
	if (safetensors_read(s, t, 0, bytes, t->bytes, &reason) < 0)
		fail_msg("%s: %s", name, reason.text);
	*ret_n = t->bytes / 4;
	return bytes;
}

static bool read_ids(
	const struct safetensors *s, size_t i, const char *what, uint32_t *ret, size_t *ret_n)
{
	void *ids = read_tensor(s, i, what, ret_n);

	if (!ids)
		return false;
	assert_in_range(*ret_n, 1, MAX_IDS);
	memcpy(ret, ids, *ret_n * 4);
	free(ids);
	return true;
}

static bool read_case(const struct safetensors *s, size_t i, struct golden_case *ret)
{
	if (!read_ids(s, i, "ids", ret->ids, &ret->n_ids))
		return false;
	assert_true(read_ids(s, i, "greedy", ret->greedy, &ret->n_greedy));
	ret->last_logits = read_tensor(s, i, "last_logits", &ret->n_logits);
	ret->logprobs = read_tensor(s, i, "token_logprobs", &ret->n_logprobs);
	assert_non_null(ret->last_logits);
	assert_non_null(ret->logprobs);
	return true;
}

/* What one run shows. */
struct seen {
	const struct golden_case *c;
	float *last_logits;
	double worst_logprob;
};

static void visit(void *user, size_t position, const float *logits)
{
	struct seen *seen = user;
	uint32_t vocab = (uint32_t)seen->c->n_logits;

	if (position + 1 < seen->c->n_ids) {
		double got = logits_logprob(logits, vocab, seen->c->ids[position + 1]);
		double error = fabs(got - seen->c->logprobs[position]);

		if (!(error <= seen->worst_logprob))
			seen->worst_logprob = error;
	}
	memcpy(seen->last_logits, logits, vocab * sizeof(*logits));
}

static double logits_error(const float *got, const float *expected, size_t n)
{
	double worst = 0, largest = 0;

	for (size_t i = 0; i < n; i++) {
		double error = fabs((double)got[i] - expected[i]);

		if (!(error <= worst))
			worst = error;
		largest = fmax(largest, fabs(expected[i]));
	}
	return worst / largest;
}

static void check_case(struct scorer *s, const struct variant *v, const struct golden *g,
	const char *set, size_t index, const struct golden_case *c)
{
	float *last = malloc(c->n_logits * sizeof(*last));
	uint32_t greedy[MAX_IDS];
	struct seen seen = {.c = c, .last_logits = last};
	struct reason reason = {0};
	size_t n_greedy;
	double error;

	assert_non_null(last);
	assert_int_equal(c->n_logits, variant_config(v)->vocab);
	if (score_sequence(s, v, c->ids, c->n_ids, visit, &seen, &reason) < 0)
		fail_msg("%s case %zu: %s", g->name, index, reason.text);
	error = logits_error(last, c->last_logits, c->n_logits);
	if (!(error <= LOGITS_TOLERANCE))
		fail_msg("%s case %zu in %s: logits differ by %g of the largest", g->name, index,
			set, error);
	if (!(seen.worst_logprob <= LOGPROB_TOLERANCE))
		fail_msg("%s case %zu in %s: a log-probability differs by %g", g->name, index, set,
			seen.worst_logprob);
	assert_int_equal(
		score_greedy(s, c->n_greedy, g->ignore_eos, greedy, &n_greedy, &reason), 0);
	for (size_t i = 0; i < n_greedy; i++)
		if (greedy[i] != c->greedy[i])
			fail_msg("%s case %zu in %s: greedy token %zu is %u, expected %u", g->name,
				index, set, i, greedy[i], c->greedy[i]);
	assert_int_equal(n_greedy, c->n_greedy);
	free(last);
}

static void check_set(const struct golden *g, const struct base *base,
	const struct safetensors *golden, const char *set)
{
	struct kernels kernels;
	struct reason reason = {0};
	struct model *model;
	struct variant *variant;
	struct pool *pool;
	struct scorer *scorer;
	struct golden_case c;
	size_t n = 0, max_cases = g->max_cases;
	int r = select_or_emulate(&kernels, set, &reason);

	if (r == -EOPNOTSUPP && strcmp(set, "ref") != 0) {
		printf("skipped: %s in %s: %s\n", g->name, set, reason.text);
		return;
	}
	assert_int_equal(r, 0);
	if (strcmp(kernels.name, set) != 0)
		max_cases = EMULATED_CASES;
	assert_int_equal(model_new(base, &kernels, &model, &reason), 0);
	assert_int_equal(variant_new(model, NULL, &variant, &reason), 0);
	assert_int_equal(pool_new(2, &pool, &reason), 0);
	assert_int_equal(scorer_new(model, pool, MAX_IDS, &scorer, &reason), 0);
	for (; n < max_cases && read_case(golden, n, &c); n++) {
		check_case(scorer, variant, g, set, n, &c);
		free(c.last_logits);
		free(c.logprobs);
	}
	assert_true(n > 0);
	scorer_free(scorer);
	pool_free(pool);
	variant_free(variant);
	model_free(model);
}

static void check_golden(const struct golden *g)
{
	struct safetensors *golden;
	struct reason reason = {0};
	struct base *base = imported_base(g->folder);

	if (safetensors_open(g->file, &golden, &reason) < 0)
		fail_msg("%s: %s", g->file, reason.text);
	for (size_t i = 0; i < array_len(sets); i++)
		check_set(g, base, golden, sets[i]);
	safetensors_free(golden);
	base_free(base);
}

/* A random model with its values beside it; the state is its folder below tests/golden/data. */
static void test_random(void **state)
{
	const char *name = *state;
	char folder[128], file[160];

	snprintf(folder, sizeof(folder), "tests/golden/data/%s", name);
	snprintf(file, sizeof(file), "%s/golden.safetensors", folder);
	check_golden(&(struct golden){
		.name = name,
		.folder = folder,
		.file = file,
		.max_cases = SIZE_MAX,
		.ignore_eos = true,
	});
}

static void test_trained_base(void **state)
{
	(void)state;
	check_golden(&(struct golden){
		.name = "base",
		.folder = "models/Llama-deltad-16M",
		.file = "tests/golden/data/trained/base.safetensors",
		.max_cases = MAX_TRAINED_CASES,
	});
}

static void test_trained_math(void **state)
{
	(void)state;
	check_golden(&(struct golden){
		.name = "math",
		.folder = "models/Llama-deltad-16M-math",
		.file = "tests/golden/data/trained/math.safetensors",
		.max_cases = MAX_TRAINED_CASES,
	});
}

static void test_trained_tools(void **state)
{
	char folder[512];

	(void)state;
	snprintf(folder, sizeof(folder), "%s/models/tools", shared_folder());
	if (!path_exists(folder)) {
		printf("skipped: tools: there is no %s\n", folder);
		skip();
	}
	check_golden(&(struct golden){
		.name = "tools",
		.folder = folder,
		.file = "tests/golden/data/trained/tools.safetensors",
		.max_cases = MAX_TRAINED_CASES,
	});
}

#define RANDOM(name)                                                                               \
	{                                                                                          \
		name, test_random, NULL, NULL, (void *)(uintptr_t)name                             \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RANDOM("tiny/llama-gqa"),
		RANDOM("tiny/llama-gqa-ft"),
		RANDOM("tiny/llama-mha-tied"),
		RANDOM("tiny/llama-mha-tied-ft"),
		RANDOM("tiny/llama3-rope"),
		RANDOM("tiny/llama3-rope-ft"),
		RANDOM("tiny/mistral-window"),
		RANDOM("tiny/mistral-window-ft"),
		RANDOM("tiny/qwen2"),
		RANDOM("tiny/qwen2-ft"),
		RANDOM("tiny/qwen3"),
		RANDOM("tiny/qwen3-ft"),
		RANDOM("families/llama-linear"),
		RANDOM("families/llama-yarn"),
		RANDOM("families/llama-yarn-tuned"),
		RANDOM("families/llama-mqa-bias"),
		RANDOM("families/mistral-full"),
		RANDOM("families/qwen2-window"),
		RANDOM("families/qwen3-tied-yarn"),
		RANDOM("families/phi3"),
		RANDOM("families/phi3-window"),
		RANDOM("families/llama-f16-sharded"),
		RANDOM("families/llama-f32"),
		cmocka_unit_test(test_trained_base),
		cmocka_unit_test(test_trained_math),
		cmocka_unit_test(test_trained_tools),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
