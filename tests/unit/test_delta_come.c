/*
 * The whole way from two checkpoints to a bound delta, on the tiny models: bytes, determinism,
 * errors that fall with the ratio, and logits against the fine-tune's reference values.
 */
#include "compress/compress.h"
#include "compress/served.h"
#include "engine/score.h"
#include "engine/selftest.h"
#include "kernels/blas.h"
#include "store/delta.h"
#include "tests/golden_file.h"
#include "tests/grown_checkpoint.h"
#include "tests/scratch.h"
#include "tests/tiny_pair.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

struct made {
	int fd;
	struct compress_report report;
};

static int try_compress(const struct tiny_pair *f, double ratio, uint32_t n_threads,
	struct made *ret, struct reason *reason)
{
	const struct compress_settings settings = {
		.method = "delta-come",
		.options.ratio = ratio,
		.calibration_tokens = 1024,
		.window = 64,
		.n_threads = n_threads,
	};

	ret->fd = memfd_create("made", MFD_CLOEXEC);
	assert_true(ret->fd >= 0);
	return compress_delta(f->base, f->tuned, &settings, ret->fd, NULL, &ret->report, reason);
}

static struct made compressed(const struct tiny_pair *f, double ratio, uint32_t n_threads)
{
	struct reason reason = {0};
	struct made made;

	if (try_compress(f, ratio, n_threads, &made, &reason) < 0)
		fail_msg("%s", reason.text);
	return made;
}

static struct kernels any_kernels(void)
{
	struct kernels kernels;
	struct reason reason = {0};

	assert_int_equal(kernels_select(&kernels, NULL, &reason), 0);
	return kernels;
}

static struct served served_with(
	const struct tiny_pair *f, const struct kernels *kernels, const struct made *made)
{
	struct served served;
	struct image *image;
	struct delta *delta;
	struct reason reason = {0};

	assert_int_equal(
		served_of_checkpoint(f->base, WEIGHTS_BF16, kernels, NULL, &served, &reason), 0);
	assert_int_equal(image_load(made->fd, &image, NULL, &reason), 0);
	if (delta_bind(image, served.base, &delta, &reason) < 0)
		fail_msg("%s", reason.text);
	assert_int_equal(served_add_delta(&served, delta, &reason), 0);
	return served;
}

static uint64_t size_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_size;
}

/* Every byte of the file is in one of the report's three sums; a record counts with its payload. */
static void check_accounting(const struct made *made, const struct delta *delta)
{
	const struct compress_report *r = &made->report;
	uint64_t projections = 0, outer = 0;

	assert_int_equal(size_of(made->fd), r->file_bytes);
	assert_int_equal(r->projection_bytes + r->embedding_bytes + r->other_bytes, r->file_bytes);
	for (size_t i = 0; i < delta->n_records; i++) {
		enum tensor_role role = (enum tensor_role)delta->records[i].role;

		if (tensor_role_is_projection(role))
			projections += delta->records[i].bytes + sizeof(delta->records[i]);
		else if (!tensor_role_is_vector(role))
			outer += delta->records[i].bytes + sizeof(delta->records[i]);
	}
	assert_int_equal(projections, r->projection_bytes);
	assert_int_equal(outer, r->embedding_bytes);
	assert_true(delta->certificate->projection_bytes == projections);
}

static void check_selftest(const struct served *served)
{
	uint64_t n;
	const uint8_t *bytes = image_section(served->delta->image, SECTION_SELFTEST, &n);
	struct reason reason = {0};
	struct pool *pool;
	float error;

	assert_non_null(bytes);
	assert_int_equal(pool_new(1, &pool, &reason), 0);
	assert_int_equal(selftest_run(served->with_delta, pool, bytes, n, &error, &reason), 0);
	pool_free(pool);
}

static void test_every_architecture(void **state)
{
	struct kernels kernels = any_kernels();

	(void)state;
	for (size_t i = 0; tiny_name(i); i++) {
		struct tiny_pair f = tiny_pair(tiny_name(i));
		struct made made = compressed(&f, 4, 2);
		struct served served = served_with(&f, &kernels, &made);

		assert_true((double)made.report.projection_bytes * 4 <=
			    (double)made.report.projection_original_bytes);
		assert_true(made.report.n_projections > 0);
		assert_true(made.report.kl >= 0 && made.report.kl < 10);
		assert_int_equal(made.report.tasks.text, CERTIFICATE_RANDOM);
		check_accounting(&made, served.delta);
		check_selftest(&served);
		served_done(&served);
		close(made.fd);
		tiny_pair_done(&f);
	}
}

static void assert_same_bytes(int a, int b)
{
	uint64_t n = size_of(a);
	const void *left = mmap(NULL, n, PROT_READ, MAP_SHARED, a, 0);
	const void *right = mmap(NULL, n, PROT_READ, MAP_SHARED, b, 0);

	assert_int_equal(n, size_of(b));
	assert_true(left != MAP_FAILED && right != MAP_FAILED);
	assert_memory_equal(left, right, n);
	munmap((void *)(uintptr_t)left, n);
	munmap((void *)(uintptr_t)right, n);
}

static void test_same_input_same_bytes(void **state)
{
	struct tiny_pair f = tiny_pair("llama-gqa");
	struct made once = compressed(&f, 6, 1);
	struct made again = compressed(&f, 6, 1);
	struct made threads = compressed(&f, 6, 3);

	(void)state;
	assert_same_bytes(once.fd, again.fd);
	assert_same_bytes(once.fd, threads.fd);
	close(once.fd);
	close(again.fd);
	close(threads.fd);
	tiny_pair_done(&f);
}

static void test_errors_fall_with_the_ratio(void **state)
{
	static const double ratios[] = {8, 4, 2, 1};
	struct tiny_pair f = tiny_pair("llama-gqa");
	double activations = 1, weights = 1, kl = INFINITY;

	(void)state;
	for (size_t i = 0; i < array_len(ratios); i++) {
		struct made made = compressed(&f, ratios[i], 2);

		assert_true(made.report.mean_activation_error < activations);
		assert_true(made.report.mean_weight_error < weights);
		assert_true(made.report.kl < kl);
		activations = made.report.mean_activation_error;
		weights = made.report.mean_weight_error;
		kl = made.report.kl;
		close(made.fd);
	}
	tiny_pair_done(&f);
}

struct last {
	float *logits;
	size_t position, n;
};

static void keep_last(void *user, size_t position, const float *logits)
{
	struct last *last = user;

	if (position == last->position)
		memcpy(last->logits, logits, last->n * sizeof(*logits));
}

/* How far a variant's last logits are from the reference's. */
static double distance(const struct served *s, const struct variant *v, const char *golden_name)
{
	struct golden_values golden;
	struct reason reason = {0};
	struct scorer *scorer;
	struct pool *pool;
	struct last last;
	double result;

	golden_values_read(golden_name, 2, &golden);
	last = (struct last){.logits = malloc(golden.n_logits * sizeof(float)),
		.position = golden.n_ids - 1,
		.n = golden.n_logits};
	assert_non_null(last.logits);
	assert_int_equal(pool_new(1, &pool, &reason), 0);
	assert_int_equal(scorer_new(s->model, pool, (uint32_t)golden.n_ids, &scorer, &reason), 0);
	assert_int_equal(
		score_sequence(scorer, v, golden.ids, golden.n_ids, keep_last, &last, &reason), 0);
	result = largest_difference(last.logits, golden.last_logits, golden.n_logits);
	scorer_free(scorer);
	pool_free(pool);
	free(last.logits);
	golden_values_done(&golden);
	return result;
}

static void test_low_ratio_approaches_the_reference_of_the_fine_tune(void **state)
{
	static const char *const names[] = {"llama-gqa", "qwen2", "qwen3"};
	struct kernels kernels = any_kernels();

	(void)state;
	for (size_t i = 0; i < array_len(names); i++) {
		struct tiny_pair f = tiny_pair(names[i]);
		struct made made = compressed(&f, 1, 2);
		struct served served = served_with(&f, &kernels, &made);
		char tuned[64];
		double base, delta;

		snprintf(tuned, sizeof(tuned), "%s-ft", names[i]);
		base = distance(&served, served.variant, tuned);
		delta = distance(&served, served.with_delta, tuned);
		if (!(delta < 0.35 * base))
			fail_msg("%s: base + delta differs by %g, the base by %g", names[i], delta,
				base);
		served_done(&served);
		close(made.fd);
		tiny_pair_done(&f);
	}
}

static void test_nothing_changed(void **state)
{
	struct kernels kernels = any_kernels();
	struct tiny_pair f = {.base = tiny_open("qwen3"), .tuned = tiny_open("qwen3")};
	struct made made = compressed(&f, 16, 2);
	struct served served = served_with(&f, &kernels, &made);

	(void)state;
	assert_int_equal(served.delta->n_records, 0);
	assert_int_equal(made.report.projection_bytes, 0);
	assert_int_equal(made.report.embedding_bytes, 0);
	assert_true(made.report.kl == 0);
	assert_true(made.report.agreement == 1);
	check_selftest(&served);
	served_done(&served);
	close(made.fd);
	tiny_pair_done(&f);
}

/* Logits of an added token are those of the row that it copies: in the fine-tune, so in the delta.
 */
static void check_added_tokens(const struct served *served, uint32_t vocab, uint32_t n_added)
{
	static const uint32_t ids[] = {5, 17, 42};
	struct reason reason = {0};
	struct scorer *scorer;
	struct pool *pool;
	const float *logits;

	assert_int_equal(variant_config(served->with_delta)->vocab, vocab + n_added);
	assert_int_equal(pool_new(1, &pool, &reason), 0);
	assert_int_equal(scorer_new(served->model, pool, 8, &scorer, &reason), 0);
	scorer_begin(scorer, served->with_delta);
	assert_int_equal(scorer_push(scorer, ids, array_len(ids), &reason), 0);
	assert_int_equal(scorer_push(scorer, &vocab, 1, &reason), 0);
	logits = scorer_logits(scorer, 0);
	for (uint32_t i = 0; i < n_added; i++)
		assert_true(logits[vocab + i] == logits[i]);
	scorer_free(scorer);
	pool_free(pool);
}

static void test_a_larger_vocabulary(void **state)
{
	enum { VOCABULARY = 320, ADDED = 5 };
	static const char *const names[] = {"llama-gqa", "llama-mha-tied"};
	struct kernels kernels = any_kernels();

	(void)state;
	for (size_t i = 0; i < array_len(names); i++) {
		char tuned[64], source[128];
		char *target = scratch_folder();
		struct tiny_pair f = {.base = tiny_open(names[i])};
		struct reason reason = {0};
		struct served served;
		struct made made;

		snprintf(tuned, sizeof(tuned), "%s-ft", names[i]);
		grown_checkpoint(tiny_folder(tuned, source), target, VOCABULARY, ADDED);
		if (checkpoint_open(target, &f.tuned, &reason) < 0)
			fail_msg("%s", reason.text);
		made = compressed(&f, 4, 2);
		served = served_with(&f, &kernels, &made);
		check_added_tokens(&served, VOCABULARY, ADDED);
		check_selftest(&served);
		check_accounting(&made, served.delta);
		served_done(&served);
		close(made.fd);
		tiny_pair_done(&f);
		scratch_remove(target);
		free(target);
	}
}

static void test_a_smaller_vocabulary_is_refused(void **state)
{
	char source[128];
	char *target = scratch_folder();
	struct tiny_pair f = {.tuned = tiny_open("llama-gqa-ft")};
	struct reason reason = {0};
	struct made made;

	(void)state;
	grown_checkpoint(tiny_folder("llama-gqa", source), target, 320, 2);
	assert_int_equal(checkpoint_open(target, &f.base, &reason), 0);
	assert_int_equal(try_compress(&f, 4, 1, &made, &reason), -EMEDIUMTYPE);
	assert_non_null(strstr(reason.text, "vocabulary"));
	close(made.fd);
	tiny_pair_done(&f);
	scratch_remove(target);
	free(target);
}

static void test_another_architecture_is_refused_by_name(void **state)
{
	struct tiny_pair f = {.base = tiny_open("llama-gqa"), .tuned = tiny_open("qwen3")};
	struct reason reason = {0};
	struct made made;

	(void)state;
	assert_int_equal(try_compress(&f, 16, 1, &made, &reason), -EMEDIUMTYPE);
	assert_non_null(strstr(reason.text, "family"));
	assert_int_equal(size_of(made.fd), 0);
	close(made.fd);
	tiny_pair_done(&f);
}

static void test_impossible_settings_are_refused(void **state)
{
	static const struct compress_settings good = {
		.method = "delta-come",
		.options.ratio = 16,
		.calibration_tokens = 512,
		.window = 64,
	};
	struct compress_settings s;
	struct reason reason;

	(void)state;
	assert_int_equal(compress_settings_check(&good, &reason), 0);
	s = good;
	s.method = "magic";
	assert_int_equal(compress_settings_check(&s, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "magic"));
	s = good;
	s.options.ratio = NAN;
	assert_int_equal(compress_settings_check(&s, &reason), -EINVAL);
	s = good;
	s.window = 1;
	assert_int_equal(compress_settings_check(&s, &reason), -EINVAL);
	s = good;
	s.calibration_tokens = 63;
	assert_int_equal(compress_settings_check(&s, &reason), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_architecture),
		cmocka_unit_test(test_same_input_same_bytes),
		cmocka_unit_test(test_errors_fall_with_the_ratio),
		cmocka_unit_test(test_low_ratio_approaches_the_reference_of_the_fine_tune),
		cmocka_unit_test(test_nothing_changed),
		cmocka_unit_test(test_a_larger_vocabulary),
		cmocka_unit_test(test_a_smaller_vocabulary_is_refused),
		cmocka_unit_test(test_another_architecture_is_refused_by_name),
		cmocka_unit_test(test_impossible_settings_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
