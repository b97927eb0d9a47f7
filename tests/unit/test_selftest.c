/*
 * The self-test section: accepts what it made, notices another model, refuses broken bytes.
 */
#include "engine/score.h"
#include "engine/selftest.h"
#include "engine/variant.h"
#include "store/format.h"
#include "tests/imported_base.h"
#include "tests/random_delta.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define N_IDS 70 /* more than a chunk of the scorer */
#define N_LOGITS 64
#define TOLERANCE 1e-3f

static struct base *base;
static struct delta *delta;
static struct kernels kernels;
static struct model *model;
static struct variant *plain, *tuned;
static struct pool *pool;
static uint8_t *section;
static size_t n_section;

static int open_models(void **state)
{
	uint32_t ids[N_IDS];

	(void)state;
	base = imported_base("tests/golden/data/tiny/qwen3");
	delta = random_delta(base, 9, 2);
	assert_int_equal(kernels_select(&kernels, NULL, NULL), 0);
	assert_int_equal(pool_new(2, &pool, NULL), 0);
	assert_int_equal(model_new(base, &kernels, &model, NULL), 0);
	assert_int_equal(variant_new(model, NULL, &plain, NULL), 0);
	assert_int_equal(variant_new(model, delta, &tuned, NULL), 0);
	for (uint32_t i = 0; i < N_IDS; i++)
		ids[i] = i * 5 % variant_config(tuned)->vocab;
	assert_int_equal(
		selftest_make(tuned, pool, ids, N_IDS, TOLERANCE, &section, &n_section, NULL), 0);
	return 0;
}

static int close_models(void **state)
{
	(void)state;
	free(section);
	variant_free(plain);
	variant_free(tuned);
	model_free(model);
	pool_free(pool);
	delta_free(delta);
	base_free(base);
	return 0;
}

static void test_accepts_itself(void **state)
{
	struct reason reason = {0};
	float error = 1;

	(void)state;
	assert_int_equal(n_section, sizeof(struct selftest) + 4 * N_IDS + 8 * N_LOGITS);
	assert_int_equal(selftest_run(tuned, pool, section, n_section, &error, &reason), 0);
	assert_true(error == 0);
}

/* The stored logits against a scorer: the largest are there, in falling order. */
static void test_largest_logits(void **state)
{
	uint32_t vocab = variant_config(tuned)->vocab;
	struct scorer *scorer;
	const float *logits;

	(void)state;
	assert_int_equal(scorer_new(model, pool, N_IDS, &scorer, NULL), 0);
	scorer_begin(scorer, tuned);
	for (uint32_t i = 0; i < N_IDS; i++)
		assert_int_equal(scorer_push(scorer, &(uint32_t){i * 5 % vocab}, 1, NULL), 0);
	logits = scorer_logits(scorer, 0);
	for (uint32_t i = 0; i < N_LOGITS; i++) {
		const uint8_t *at = section + sizeof(struct selftest) + 4 * N_IDS + 8 * i;
		uint32_t id, n_larger = 0;
		float value;

		memcpy(&id, at, 4);
		memcpy(&value, at + 4, 4);
		assert_true(value == logits[id]);
		for (uint32_t j = 0; j < vocab; j++)
			n_larger += logits[j] > value;
		if (i < 16)
			assert_int_equal(n_larger, i);
	}
	scorer_free(scorer);
}

static void test_notices_another_model(void **state)
{
	struct reason reason = {0};
	float error;

	(void)state;
	assert_int_equal(selftest_run(plain, pool, section, n_section, &error, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "vocabulary"));
}

/* A copy of the section with `n` bytes at `at` replaced. */
static uint8_t *changed(size_t at, const void *bytes, size_t n)
{
	uint8_t *copy = malloc(n_section);

	assert_non_null(copy);
	memcpy(copy, section, n_section);
	memcpy(copy + at, bytes, n);
	return copy;
}

static void expect(int r, const char *words, size_t at, const void *bytes, size_t n)
{
	uint8_t *copy = changed(at, bytes, n);
	struct reason reason = {0};
	float error;

	assert_int_equal(selftest_run(tuned, pool, copy, n_section, &error, &reason), r);
	if (!strstr(reason.text, words))
		fail_msg("'%s' does not say '%s'", reason.text, words);
	free(copy);
}

static void test_notices_other_logits(void **state)
{
	size_t at = sizeof(struct selftest) + 4 * N_IDS + 4;
	float largest, value;

	(void)state;
	memcpy(&largest, section + at, 4);
	value = largest * 1.01f;
	expect(-EMEDIUMTYPE, "allowed", at, &value, 4);
	value = NAN;
	expect(-EMEDIUMTYPE, "allowed", at, &value, 4);
	expect(-EMEDIUMTYPE, "allowed", sizeof(struct selftest), &(uint32_t){1}, 4);
}

static void test_broken_bytes(void **state)
{
	struct reason reason = {0};
	float error;

	(void)state;
	for (size_t n = 0; n < n_section; n += n < 20 ? 1 : 37)
		assert_int_equal(selftest_run(tuned, pool, section, n, &error, &reason), -EBADMSG);
	expect(-EBADMSG, "do not hold", 0, &(uint32_t){UINT32_MAX}, 4);
	expect(-EBADMSG, "do not hold", 4, &(uint32_t){0}, 4);
	expect(-EBADMSG, "tolerance", 8, &(float){0}, 4);
	expect(-EBADMSG, "tolerance", 8, &(float){1e9f}, 4);
	expect(-EBADMSG, "tolerance", 8, &(float){NAN}, 4);
	expect(-EBADMSG, "vocabulary", sizeof(struct selftest), &(uint32_t){100000}, 4);
	expect(-EBADMSG, "vocabulary", sizeof(struct selftest) + 4 * N_IDS, &(uint32_t){100000}, 4);
}

/* Infinity is within any share of infinity. */
static void test_infinite_logits(void **state)
{
	size_t hidden = variant_config(tuned)->hidden;
	float *norm = malloc(hidden * sizeof(*norm)), error;
	struct variant infinite = *tuned;
	struct reason reason = {0};

	(void)state;
	assert_non_null(norm);
	memcpy(norm, tuned->final_norm, hidden * sizeof(*norm));
	norm[0] = INFINITY;
	infinite.final_norm = norm;
	assert_int_equal(
		selftest_run(&infinite, pool, section, n_section, &error, &reason), -EMEDIUMTYPE);
	free(norm);
}

static void test_long_prompt(void **state)
{
	const uint32_t n_ids = SELFTEST_MAX_IDS + 1, head[] = {n_ids, 1, 0x3dcccccd, 0};
	size_t n = sizeof(head) + 4 * n_ids + 8;
	uint8_t *bytes = calloc(1, n);
	struct reason reason = {0};
	float error;

	(void)state;
	assert_non_null(bytes);
	memcpy(bytes, head, sizeof(head));
	assert_int_equal(selftest_run(tuned, pool, bytes, n, &error, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "1025 prompt tokens"));
	free(bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepts_itself),
		cmocka_unit_test(test_largest_logits),
		cmocka_unit_test(test_notices_another_model),
		cmocka_unit_test(test_notices_other_logits),
		cmocka_unit_test(test_broken_bytes),
		cmocka_unit_test(test_infinite_logits),
		cmocka_unit_test(test_long_prompt),
	};

	return cmocka_run_group_tests(tests, open_models, close_models);
}
