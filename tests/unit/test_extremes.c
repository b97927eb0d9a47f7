/*
 * Models of extreme numbers: changes that f32 does not hold, adapters that make numbers of no size.
 */
#include "compress/compress.h"
#include "compress/merge.h"
#include "tests/adapter_folder.h"
#include "tests/compute.h"
#include "tests/scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

#define BASE "tests/golden/data/tiny/llama-gqa"
#define Q "model.layers.1.self_attn.q_proj"
#define LARGE 0x1.8p127f /* which bf16 holds, but nothing holds its double */

struct fixture {
	char *scratch, *base_folder, *tuned_folder, *merged_folder;
	struct checkpoint *base, *tuned;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->scratch = scratch_folder();
	f->base_folder = scratch_path(f->scratch, "base");
	f->tuned_folder = scratch_path(f->scratch, "tuned");
	f->merged_folder = scratch_path(f->scratch, "merged");
	*state = f;
	return mkdir(f->merged_folder, 0700);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	checkpoint_free(f->base);
	checkpoint_free(f->tuned);
	scratch_remove(f->scratch);
	free(f->scratch);
	free(f->base_folder);
	free(f->tuned_folder);
	free(f->merged_folder);
	free(f);
	return 0;
}

static void expect_ok(int r, const struct reason *reason)
{
	if (r < 0)
		fail_msg("%d: %s", r, reason->text);
}

static int compressed(const struct fixture *f, const char *method, int *ret_fd,
	struct compress_report *ret, struct reason *reason)
{
	const struct compress_settings settings = {
		.method = method,
		.calibration_tokens = 256,
		.window = 32,
		.n_threads = 2,
	};

	*ret_fd = memfd_create("delta", MFD_CLOEXEC);
	assert_true(*ret_fd >= 0);
	return compress_delta(f->base, f->tuned, &settings, *ret_fd, NULL, ret, reason);
}

static struct checkpoint *write_large(const char *source, const char *folder, float value)
{
	struct model_folder model;
	struct checkpoint *c;
	struct reason reason = {0};

	model_folder_read(&model, source);
	model_folder_find(&model, Q ".weight")->values[7] = value;
	model_folder_write(&model, folder, 1);
	model_folder_done(&model);
	expect_ok(checkpoint_open(folder, &c, &reason), &reason);
	return c;
}

static void open_far_pair(struct fixture *f)
{
	f->base = write_large(BASE, f->base_folder, LARGE);
	f->tuned = write_large(BASE "-ft", f->tuned_folder, -LARGE);
}

static void check_kept(struct fixture *f, const char *method)
{
	struct merge_job job = {.folder = f->merged_folder};
	struct compress_report report;
	struct merge_report merge;
	struct checkpoint *merged;
	struct digest expected, found;
	struct reason reason = {0};
	struct image *image;
	int fd;

	open_far_pair(f);
	expect_ok(compressed(f, method, &fd, &report, &reason), &reason);
	assert_true(isnan(report.mean_weight_error));
	assert_true(isnan(report.kl));
	expect_ok(image_load(fd, &image, NULL, &reason), &reason);
	job.base = f->base;
	job.delta = image;
	expect_ok(merge_folder(&job, NULL, &merge, &reason), &reason);
	expect_ok(checkpoint_open(f->merged_folder, &merged, &reason), &reason);
	expect_ok(checkpoint_digest(merged, NULL, &found, &reason), &reason);
	expect_ok(checkpoint_digest(f->tuned, NULL, &expected, &reason), &reason);
	assert_true(digest_equal(&found, &expected));
	checkpoint_free(merged);
	image_free(image);
	close(fd);
}

static void test_dense_keeps_words_that_are_far_apart(void **state)
{
	check_kept(*state, "dense");
}

static void test_lossless_keeps_words_that_are_far_apart(void **state)
{
	check_kept(*state, "lossless");
}

static void test_what_cannot_be_coded_is_said(void **state)
{
	static const char *const methods[] = {
		"sign", "sparse", "k-bit", "low-rank", "delta-come", "deltadq"};
	struct fixture *f = *state;

	open_far_pair(f);
	for (size_t i = 0; i < array_len(methods); i++) {
		struct compress_report report;
		struct reason reason = {0};
		int fd;

		assert_int_equal(compressed(f, methods[i], &fd, &report, &reason), -EDOM);
		if (!strstr(reason.text, "layer 1") || !strstr(reason.text, "q: number 7"))
			fail_msg("%s: %s", methods[i], reason.text);
		close(fd);
	}
}

static void test_factors_of_no_size(void **state)
{
	const struct adapter_module q = {Q, 4, 64, 64};
	struct fixture *f = *state;
	struct model_folder adapter;
	struct reason reason = {0};
	uint16_t words[64 * 64];
	struct folder_tensor *t;

	adapter_folder_begin(&adapter, 4, 1e9);
	adapter_folder_adapt(&adapter, &q, SAFETENSORS_F32);
	t = model_folder_find(&adapter, ADAPTER_PREFIX Q ".lora_B.weight");
	for (uint64_t i = 0; i < folder_tensor_count(t); i++)
		t->values[i] = 1e38f;
	adapter_folder_write(&adapter, f->tuned_folder);
	expect_ok(checkpoint_open_adapted(BASE, f->tuned_folder, &f->tuned, &reason), &reason);
	expect_ok(checkpoint_read_bf16(f->tuned, ROLE_Q, 0, words, NULL, &reason), &reason);
	assert_int_equal(checkpoint_read_bf16(f->tuned, ROLE_Q, 1, words, NULL, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "number 0 of q of layer 1 is"));
	model_folder_done(&adapter);
}

/* A model that makes nothing of its text: what is made for inputs of zeros is nothing, and takes no
 * room. */
static void test_inputs_of_zeros(void **state)
{
	static const char *const methods[] = {"k-bit", "delta-come"};
	struct fixture *f = *state;
	struct model_folder model;
	struct folder_tensor *t;
	struct reason reason = {0};

	model_folder_read(&model, BASE "-ft");
	t = model_folder_find(&model, "model.embed_tokens.weight");
	memset(t->values, 0, folder_tensor_count(t) * sizeof(*t->values));
	model_folder_write(&model, f->tuned_folder, 1);
	model_folder_done(&model);
	expect_ok(checkpoint_open(BASE, &f->base, &reason), &reason);
	expect_ok(checkpoint_open(f->tuned_folder, &f->tuned, &reason), &reason);
	for (size_t i = 0; i < array_len(methods); i++) {
		struct compress_report report;
		int fd;

		expect_ok(compressed(f, methods[i], &fd, &report, &reason), &reason);
		assert_int_equal(report.n_projections, 0);
		assert_true(report.n_left_out > 0);
		assert_int_equal(report.projection_bytes, 0);
		close(fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_dense_keeps_words_that_are_far_apart, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			test_lossless_keeps_words_that_are_far_apart, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			test_what_cannot_be_coded_is_said, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_inputs_of_zeros, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_factors_of_no_size, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
