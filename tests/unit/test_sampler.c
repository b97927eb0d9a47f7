/*
 * The sampler against what its settings mean: a full sort in double for the limits, frequencies of
 * many draws for the rest.
 */
#include "engine/sampler.h"
#include "tests/random_delta.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define VOCAB 500u
#define N_DRAWS 20000

static void random_logits(float *ret, uint32_t seed)
{
	for (uint32_t i = 0; i < VOCAB; i++)
		ret[i] = 4 * random_float(&seed);
}

static struct sampler *make(const struct sampler_settings *settings)
{
	struct sampler *s;

	assert_int_equal(sampler_settings_check(settings, NULL), 0);
	assert_int_equal(sampler_new(settings, VOCAB, NULL, 0, &s), 0);
	return s;
}

static uint32_t pick(struct sampler *s, const float *logits)
{
	struct sampled sampled;

	sampler_pick(s, logits, &sampled);
	return sampled.token;
}

static int falling(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x < y) - (x > y);
}

/* The least probability that the limits keep, and the sum of what they keep. */
static void limits_of(
	const struct sampler_settings *set, const float *logits, double *ret_least, double *ret_sum)
{
	double p[VOCAB], total = 0, sum = 0;
	size_t n = set->top_k ? set->top_k : VOCAB, kept = 0;

	for (uint32_t i = 0; i < VOCAB; i++)
		p[i] = exp((double)logits[i] / set->temperature);
	qsort(p, VOCAB, sizeof(*p), falling);
	for (size_t i = 0; i < n; i++)
		total += p[i];
	while (kept < n &&
		(kept == 0 || (sum < set->top_p * total && p[kept] >= set->min_p * p[0])))
		sum += p[kept++];
	*ret_least = p[kept - 1];
	*ret_sum = sum;
}

/* Draws only what the limits keep, and each as often as it should. */
static void check_draws(const struct sampler_settings *set, uint32_t seed)
{
	float logits[VOCAB];
	uint32_t counts[VOCAB] = {0};
	struct sampler *s = make(set);
	double least, sum;

	random_logits(logits, seed);
	limits_of(set, logits, &least, &sum);
	for (int i = 0; i < N_DRAWS; i++)
		counts[pick(s, logits)]++;
	for (uint32_t i = 0; i < VOCAB; i++) {
		double p = exp((double)logits[i] / set->temperature), share = p / sum;
		double deviation = sqrt(N_DRAWS * share * (1 - share));

		if (p < least * (1 - 1e-6))
			assert_int_equal(counts[i], 0);
		else if (fabs(counts[i] - N_DRAWS * share) > 6 * deviation + 1)
			fail_msg("token %u drawn %u times, expected %g", i, counts[i],
				N_DRAWS * share);
	}
	sampler_free(s);
}

static void test_draws(void **state)
{
	struct sampler_settings set = sampler_defaults;

	(void)state;
	set.temperature = 1;
	check_draws(&set, 1);
	set.temperature = 0.5f;
	check_draws(&set, 2);
	set.top_k = 7;
	check_draws(&set, 3);
	set.top_p = 0.8f;
	check_draws(&set, 4);
	set.top_k = 0;
	check_draws(&set, 5);
	set.min_p = 0.1f;
	check_draws(&set, 6);
	set.top_p = 1;
	check_draws(&set, 7);
	set.top_k = 20;
	set.top_p = 0.99f;
	set.min_p = 0.02f;
	set.temperature = 2;
	check_draws(&set, 8);
	set.top_k = 1;
	check_draws(&set, 9);
	set.top_k = 0;
	set.top_p = 0;
	check_draws(&set, 10);
}

/* As greedy as the limit, though a logit over such a temperature is infinite. */
static void test_tiny_temperatures(void **state)
{
	struct sampler_settings set = sampler_defaults;
	float logits[VOCAB] = {0};

	(void)state;
	logits[17] = 3;
	logits[40] = 2.5f;
	for (int limits = 0; limits < 2; limits++) {
		set.top_p = limits ? 0.9f : 1;
		for (set.temperature = 1e-3f; set.temperature > 0; set.temperature /= 1024) {
			struct sampler *s = make(&set);

			assert_int_equal(pick(s, logits), 17);
			sampler_free(s);
		}
	}
}

static void test_greedy_takes_the_first(void **state)
{
	float logits[VOCAB] = {0};
	struct sampler *s = make(&sampler_defaults);

	(void)state;
	logits[17] = logits[40] = 3;
	assert_int_equal(pick(s, logits), 17);
	sampler_free(s);
}

static void test_same_seed_same_tokens(void **state)
{
	struct sampler_settings set = sampler_defaults;
	struct sampler *a, *b, *c;
	float logits[VOCAB];
	size_t n_equal = 0;

	(void)state;
	set.temperature = 1;
	a = make(&set);
	b = make(&set);
	set.seed = 1;
	c = make(&set);
	for (uint32_t i = 0; i < 200; i++) {
		uint32_t token;

		random_logits(logits, i);
		token = pick(a, logits);
		assert_int_equal(pick(b, logits), token);
		n_equal += pick(c, logits) == token;
	}
	assert_true(n_equal < 50);
	sampler_free(a);
	sampler_free(b);
	sampler_free(c);
}

static void test_logprobs(void **state)
{
	struct sampler_settings set = sampler_defaults;
	struct sampled got;
	float logits[VOCAB];
	double sum = 0;
	struct sampler *s;

	(void)state;
	set.n_logprobs = SAMPLER_MAX_LOGPROBS;
	/* What is reported is the model's own distribution, whatever else is set. */
	set.temperature = 3;
	set.n_logit_bias = 1;
	set.logit_bias[0] = (struct logit_bias){5, -INFINITY};
	s = make(&set);
	random_logits(logits, 3);
	logits[5] = 9;
	for (uint32_t i = 0; i < VOCAB; i++)
		sum += exp(logits[i]);
	sampler_pick(s, logits, &got);
	assert_true(got.token != 5);
	assert_true(fabs(got.logprob - (logits[got.token] - log(sum))) < 1e-5);
	assert_int_equal(got.n_top, SAMPLER_MAX_LOGPROBS);
	assert_int_equal(got.top[0].token, 5);
	for (uint32_t i = 0; i < got.n_top; i++) {
		uint32_t n_larger = 0;

		for (uint32_t j = 0; j < VOCAB; j++)
			n_larger += logits[j] > logits[got.top[i].token];
		assert_int_equal(n_larger, i);
		assert_true(
			fabs(got.top[i].logprob - (logits[got.top[i].token] - log(sum))) < 1e-5);
	}
	sampler_free(s);
}

/* Two tokens, and what each penalty does to the larger. */
static void test_penalties(void **state)
{
	const uint32_t prompt[] = {10, 11, 10};
	struct sampler_settings set = sampler_defaults;
	float logits[VOCAB];
	struct sampler *s;

	(void)state;
	for (uint32_t i = 0; i < VOCAB; i++)
		logits[i] = -100;
	logits[10] = 4;
	logits[20] = 3;

	set.repetition_penalty = 1.5f;
	assert_int_equal(sampler_new(&set, VOCAB, prompt, array_len(prompt), &s), 0);
	assert_int_equal(pick(s, logits), 20); /* 4 / 1.5 < 3 */
	assert_int_equal(pick(s, logits), 10); /* both are seen now */
	sampler_free(s);

	/* Presence and frequency do not count the prompt. */
	set = sampler_defaults;
	set.presence_penalty = 1.5f;
	assert_int_equal(sampler_new(&set, VOCAB, prompt, array_len(prompt), &s), 0);
	assert_int_equal(pick(s, logits), 10);
	assert_int_equal(pick(s, logits), 20);
	assert_int_equal(pick(s, logits), 10);
	assert_int_equal(pick(s, logits), 10); /* once is as bad as often */
	sampler_free(s);

	set = sampler_defaults;
	set.frequency_penalty = 0.6f;
	assert_int_equal(sampler_new(&set, VOCAB, prompt, array_len(prompt), &s), 0);
	assert_int_equal(pick(s, logits), 10);
	assert_int_equal(pick(s, logits), 10); /* 3.4 */
	assert_int_equal(pick(s, logits), 20); /* 2.8 < 3 */
	assert_int_equal(pick(s, logits), 10); /* 2.8 > 2.4 */
	sampler_free(s);
}

static void test_repetition_of_negative_logits(void **state)
{
	const uint32_t prompt[] = {10};
	struct sampler_settings set = sampler_defaults;
	float logits[VOCAB];
	struct sampler *s;

	(void)state;
	for (uint32_t i = 0; i < VOCAB; i++)
		logits[i] = -100;
	logits[10] = -4;
	logits[20] = -5;
	set.repetition_penalty = 1.5f;
	assert_int_equal(sampler_new(&set, VOCAB, prompt, array_len(prompt), &s), 0);
	assert_int_equal(pick(s, logits), 20);
	sampler_free(s);
}

static void test_check(void **state)
{
	static const struct sampler_settings bad[] = {
		{.temperature = -1, .top_p = 1, .repetition_penalty = 1},
		{.temperature = NAN, .top_p = 1, .repetition_penalty = 1},
		{.top_p = 1.5f, .repetition_penalty = 1},
		{.top_p = 1, .min_p = -0.1f, .repetition_penalty = 1},
		{.top_p = 1, .repetition_penalty = 0},
		{.top_p = 1, .repetition_penalty = 1, .presence_penalty = INFINITY},
		{.top_p = 1, .repetition_penalty = 1, .frequency_penalty = NAN},
		{.top_p = 1, .repetition_penalty = 1, .n_logprobs = SAMPLER_MAX_LOGPROBS + 1},
		{.top_p = 1, .repetition_penalty = 1, .n_logit_bias = SAMPLER_MAX_LOGIT_BIAS + 1},
		{.top_p = 1, .repetition_penalty = 1, .n_logit_bias = 1, .logit_bias = {{3, NAN}}},
	};
	struct reason reason;

	(void)state;
	assert_int_equal(sampler_settings_check(&sampler_defaults, &reason), 0);
	for (size_t i = 0; i < array_len(bad); i++)
		if (sampler_settings_check(&bad[i], &reason) != -EBADMSG)
			fail_msg("settings %zu were accepted", i);
}

/* Logits that no distribution can be made of must not lead astray. */
static void test_hostile_logits(void **state)
{
	static const float values[] = {NAN, INFINITY, -INFINITY};
	struct sampler_settings set = sampler_defaults;
	float logits[VOCAB];

	(void)state;
	for (int limits = 0; limits < 3; limits++) {
		set.temperature = limits ? 1 : 0;
		set.top_p = limits == 2 ? 0.5f : 1;
		set.n_logprobs = 3;
		for (size_t v = 0; v < array_len(values); v++) {
			struct sampler *s = make(&set);

			for (uint32_t i = 0; i < VOCAB; i++)
				logits[i] = values[v];
			assert_in_range(pick(s, logits), 0, VOCAB - 1);
			logits[3] = 1;
			assert_in_range(pick(s, logits), 0, VOCAB - 1);
			sampler_free(s);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_draws),
		cmocka_unit_test(test_tiny_temperatures),
		cmocka_unit_test(test_greedy_takes_the_first),
		cmocka_unit_test(test_same_seed_same_tokens),
		cmocka_unit_test(test_logprobs),
		cmocka_unit_test(test_penalties),
		cmocka_unit_test(test_repetition_of_negative_logits),
		cmocka_unit_test(test_check),
		cmocka_unit_test(test_hostile_logits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
