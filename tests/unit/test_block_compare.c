/*
 * The certificate of a model that does not fit into memory: the same figures as the engine's, but
 * for rounding, whatever the architecture, the method and the embedding; and the same whatever the
 * number of threads.
 */
#include "compress/compress.h"
#include "tests/compute.h"
#include "tests/golden_file.h"
#include "tests/tiny_pair.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

struct trial {
	const char *method;
	struct method_options options;
	struct embedding_choice embedding;
	enum weights base_weights;
	enum compress_measure measure;
	uint32_t n_threads;
};

static struct compress_report measured(const char *name, const struct trial *t)
{
	const struct compress_settings settings = {
		.method = t->method,
		.options = t->options,
		.embedding = t->embedding,
		.base_weights = t->base_weights,
		.calibration_tokens = 512,
		.window = 48,
		.n_threads = t->n_threads,
		.measure = t->measure,
	};
	struct tiny_pair pair = tiny_pair(name);
	struct compress_report report;
	struct reason reason = {0};
	int fd = memfd_create("delta", MFD_CLOEXEC);

	assert_true(fd >= 0);
	if (compress_delta(pair.base, pair.tuned, &settings, fd, NULL, &report, &reason) < 0)
		fail_msg("%s: %s", name, reason.text);
	tiny_pair_done(&pair);
	close(fd);
	assert_true(report.measured);
	return report;
}

static void expect_near(const char *what, double engine, double blocks, double share, double floor)
{
	if (!(fabs(engine - blocks) <= share * fabs(engine) + floor))
		fail_msg("%s: %g by the engine, %g by blocks", what, engine, blocks);
}

static void check(const char *name, const struct trial *of)
{
	struct trial t = *of;
	struct compress_report engine, blocks, other;
	/* The engine rounds what enters a base of integers, the blocks do not; models of random
	 * weights make much of that. */
	double slack = of->base_weights == WEIGHTS_BF16 ? 1 : 4;

	t.n_threads = 1;
	t.measure = COMPRESS_MEASURE_ENGINE;
	engine = measured(name, &t);
	t.measure = COMPRESS_MEASURE_BLOCKS;
	blocks = measured(name, &t);
	t.n_threads = 3;
	other = measured(name, &t);
	assert_true(engine.self_tested);
	assert_false(blocks.self_tested);
	assert_int_equal(engine.n_eval_tokens, blocks.n_eval_tokens);
	expect_near("KL", engine.kl, blocks.kl, slack * 0.05, 1e-4);
	expect_near("agreement", engine.agreement, blocks.agreement, 0, slack * 0.02);
	expect_near("base", engine.perplexity_base, blocks.perplexity_base, slack * 0.01, 0);
	expect_near("fine-tune", engine.perplexity_tuned, blocks.perplexity_tuned, 0.01, 0);
	expect_near("delta", engine.perplexity_delta, blocks.perplexity_delta, slack * 0.01, 0);
	assert_true(blocks.kl == other.kl && blocks.agreement == other.agreement);
	assert_true(blocks.perplexity_base == other.perplexity_base);
}

static void test_every_architecture(void **state)
{
	const struct trial t = {.method = "k-bit", .options = {.bits = 2}};
	const char *name;

	(void)state;
	for (size_t i = 0; (name = tiny_name(i)); i++)
		check(name, &t);
}

static void test_every_kind_of_part(void **state)
{
	static const struct trial trials[] = {
		{.method = "low-rank", .options = {.ratio = 5}},
		{.method = "deltadq", .options = {.ratio = 8}},
		{.method = "sparse", .options = {.ratio = 16}},
		{.method = "delta-come", .options = {.ratio = 5}, .embedding = {EMBEDDING_BITS, 4}},
		{.method = "zero"},
		{.method = "k-bit", .options = {.bits = 2}, .base_weights = WEIGHTS_INT8},
		{.method = "low-rank", .options = {.ratio = 5}, .base_weights = WEIGHTS_INT4},
	};

	(void)state;
	for (size_t i = 0; i < array_len(trials); i++)
		check("llama-gqa", &trials[i]);
}

/* What the engine and the blocks leave of a fine-tune that is there to the bit. */
static void test_nothing_is_lost(void **state)
{
	const struct trial t = {
		.method = "lossless", .measure = COMPRESS_MEASURE_BLOCKS, .n_threads = 2};
	struct compress_report r = measured("llama-gqa", &t);

	(void)state;
	assert_true(r.kl < 1e-9);
	assert_true(r.agreement == 1);
	assert_true(fabs(r.perplexity_delta / r.perplexity_tuned - 1) < 1e-6);
	assert_true(r.perplexity_base != r.perplexity_tuned);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_architecture),
		cmocka_unit_test(test_every_kind_of_part),
		cmocka_unit_test(test_nothing_is_lost),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
