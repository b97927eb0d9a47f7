/*
 * Tasks of a fine-tune whose chat format is made of tokens that it has added: the base cannot read
 * them, and must not be asked to.
 */
#include "compress/auto_memory.h"
#include "compress/compress.h"
#include "store/image.h"
#include "tests/compute.h"
#include "tests/worded_pair.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

static int set_up(void **state)
{
	*state = worded_pair_new(true);
	return 0;
}

static int tear_down(void **state)
{
	*state = worded_pair_free(*state);
	return 0;
}

struct trial {
	const char *method;
	double ratio;
	bool by_blocks;
	enum compress_measure measure;
};

static void read_certificate(int fd, struct certificate *ret)
{
	struct reason reason = {0};
	struct image *image;
	uint64_t n;

	assert_int_equal(image_load(fd, &image, NULL, &reason), 0);
	memcpy(ret, image_section(image, SECTION_CERTIFICATE, &n), sizeof(*ret));
	image_free(image);
}

static struct compress_report made(
	const struct worded_pair *f, const struct trial *t, struct certificate *ret_certificate)
{
	static const char text[] = "ab ab abab\n\nab a b ab\n\nabab abab ab\n\nb a ab ab abab\n";
	const struct compress_settings settings = {
		.method = t->method,
		.options = {.ratio = t->ratio, .tasks = &f->tasks},
		.calibration_text = text,
		.n_calibration_text = strlen(text),
		.calibration_tokens = 512,
		.window = 16,
		.n_threads = 2,
		.memory = t->by_blocks ? auto_stream_memory(checkpoint_config(f->tuned), 2) : 0,
		.measure = t->measure,
	};
	_cleanup_(closep) int fd = memfd_create("made", MFD_CLOEXEC);
	struct compress_report report;
	struct reason reason = {0};

	assert_true(fd >= 0);
	if (compress_delta(f->base, f->tuned, &settings, fd, NULL, &report, &reason) < 0)
		fail_msg("%s: %s", t->method, reason.text);
	read_certificate(fd, ret_certificate);
	return report;
}

/* Their certificate is of tasks too. */
static void test_methods_that_calibrate_on_tasks(void **state)
{
	static const struct trial trials[] = {
		{"delta-come", 8, false, COMPRESS_MEASURE_ENGINE},
		{"delta-come", 8, false, COMPRESS_MEASURE_BLOCKS},
		{"k-bit", 8, false, COMPRESS_MEASURE_ENGINE},
		{"deltadq", 8, false, COMPRESS_MEASURE_ENGINE},
	};

	for (size_t i = 0; i < array_len(trials); i++) {
		struct certificate c;
		struct compress_report r = made(*state, &trials[i], &c);

		assert_true(c.n_calibration_tokens > 100);
		assert_int_equal(r.tasks.text, CERTIFICATE_TASKS);
		assert_true(r.kl >= 0 && r.kl < 1);
		assert_true(isnan(r.perplexity_base));
		assert_true(r.perplexity_tuned > 1 && r.perplexity_delta > 1);
	}
}

/* The general text is of tokens that the base has, the tasks that are kept back are not. */
static void test_auto_learns_from_tasks(void **state)
{
	const struct trial t = {"auto", 8, false, COMPRESS_MEASURE_ENGINE};
	struct certificate c;
	struct compress_report r = made(*state, &t, &c);

	assert_true(r.tasks.n_tasks > 0);
	assert_true(r.tasks.kl >= 0 && r.tasks.kl < 1);
	assert_true(isnan(r.tasks.perplexity_base));
	assert_true(r.tasks.perplexity_delta > 1);
	assert_true(r.perplexity_base > 1);
}

static void test_auto_by_blocks(void **state)
{
	const struct trial t = {"auto", 8, true, COMPRESS_MEASURE_BLOCKS};
	struct certificate c;
	struct compress_report r = made(*state, &t, &c);

	assert_true(r.kl >= 0 && r.kl < 1);
	assert_true(r.perplexity_base > 1);
}

/* The digest is of what was learnt from: nothing, the calibration text, or tasks. */
static void test_the_text_is_told(void **state)
{
	static const struct trial trials[] = {
		{"sign", 0, false, COMPRESS_MEASURE_NEVER},
		{"k-bit", 8, false, COMPRESS_MEASURE_NEVER},
		{"auto", 8, true, COMPRESS_MEASURE_NEVER},
	};
	const struct digest none = {0};
	struct certificate c[array_len(trials)];

	for (size_t i = 0; i < array_len(trials); i++)
		(void)made(*state, &trials[i], &c[i]);
	assert_int_equal(c[0].n_calibration_tokens, 0);
	assert_true(digest_equal(&c[0].calibration, &none));
	assert_true(c[1].n_calibration_tokens > 0);
	assert_true(c[2].n_calibration_tokens > 0);
	assert_false(digest_equal(&c[1].calibration, &c[2].calibration));
	assert_false(digest_equal(&c[2].calibration, &none));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_methods_that_calibrate_on_tasks, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_auto_learns_from_tasks, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_auto_by_blocks, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_the_text_is_told, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
