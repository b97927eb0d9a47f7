/*
 * Every method, from two checkpoints to logits: bytes accounted for and the same each time, the
 * budget kept, and what is served equal to the merged folder. And the parts that methods share,
 * against what they are to be in double.
 */
#include "compress/compress.h"
#include "compress/low_rank.h"
#include "compress/merge.h"
#include "compress/method.h"
#include "compress/row_codes.h"
#include "compress/served.h"
#include "engine/score.h"
#include "kernels/convert.h"
#include "store/delta.h"
#include "tests/compute.h"
#include "tests/golden_file.h"
#include "tests/scratch.h"
#include "tests/told_bytes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

#define MODEL "llama-gqa"

struct pair_of {
	struct checkpoint *base, *tuned;
};

static void expect_ok(int r, const struct reason *reason)
{
	if (r < 0)
		fail_msg("%d: %s", r, reason->text);
}

static struct pair_of open_pair(void)
{
	struct reason reason = {0};
	struct pair_of p;
	char folder[128];

	expect_ok(checkpoint_open(tiny_folder(MODEL, folder), &p.base, &reason), &reason);
	expect_ok(checkpoint_open(tiny_folder(MODEL "-ft", folder), &p.tuned, &reason), &reason);
	return p;
}

static void close_pair(struct pair_of *p)
{
	checkpoint_free(p->base);
	checkpoint_free(p->tuned);
}

static int compress_with(const struct pair_of *p, const char *method,
	const struct method_options *options, uint32_t n_threads, struct compress_report *ret)
{
	const struct compress_settings settings = {
		.method = method,
		.options = *options,
		.calibration_tokens = 512,
		.window = 64,
		.n_threads = n_threads,
	};
	struct reason reason = {0};
	int fd = memfd_create("delta", MFD_CLOEXEC);
	int r;

	assert_true(fd >= 0);
	r = compress_delta(p->base, p->tuned, &settings, fd, NULL, ret, &reason);
	if (r < 0)
		fail_msg("%s: %s", method, reason.text);
	return fd;
}

static uint64_t size_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_size;
}

static void assert_same_bytes(int a, int b)
{
	uint64_t n = size_of(a);
	void *left = mmap(NULL, n, PROT_READ, MAP_SHARED, a, 0);
	void *right = mmap(NULL, n, PROT_READ, MAP_SHARED, b, 0);

	assert_int_equal(n, size_of(b));
	assert_true(left != MAP_FAILED && right != MAP_FAILED);
	assert_memory_equal(left, right, n);
	munmap(left, n);
	munmap(right, n);
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

/* After a fixed prompt; malloc'ed. */
static float *last_logits(const struct model *model, const struct variant *v, size_t n_vocab)
{
	static const uint32_t ids[] = {1, 7, 3, 90, 41, 12, 5, 66, 23, 8};
	struct last last = {
		.logits = malloc(n_vocab * sizeof(float)),
		.position = array_len(ids) - 1,
		.n = n_vocab,
	};
	struct reason reason = {0};
	struct scorer *scorer;
	struct pool *pool;

	assert_non_null(last.logits);
	expect_ok(pool_new(1, &pool, &reason), &reason);
	expect_ok(scorer_new(model, pool, array_len(ids), &scorer, &reason), &reason);
	expect_ok(
		score_sequence(scorer, v, ids, array_len(ids), keep_last, &last, &reason), &reason);
	scorer_free(scorer);
	pool_free(pool);
	return last.logits;
}

static struct served served_pair(
	const struct pair_of *p, const struct kernels *kernels, int fd, struct image **ret_image)
{
	struct reason reason = {0};
	struct served served;
	struct delta *delta;

	expect_ok(served_of_checkpoint(p->base, WEIGHTS_BF16, kernels, NULL, &served, &reason),
		&reason);
	expect_ok(image_load(fd, ret_image, NULL, &reason), &reason);
	expect_ok(delta_bind(*ret_image, served.base, &delta, &reason), &reason);
	expect_ok(served_add_delta(&served, delta, &reason), &reason);
	return served;
}

/* Logits of base and delta side by side, and of both merged into one folder. */
static void check_merged(const char *method, const struct pair_of *p, const struct served *served,
	struct image *image, const struct kernels *kernels)
{
	char *scratch = scratch_folder();
	struct merge_job job = {.base = p->base, .delta = image, .folder = scratch};
	size_t n_vocab = checkpoint_config(p->base)->vocab;
	struct merge_report report;
	struct checkpoint *merged;
	struct served alone;
	struct reason reason = {0};
	float *side_by_side, *in_one, *base;
	double error;

	expect_ok(merge_folder(&job, NULL, &report, &reason), &reason);
	expect_ok(checkpoint_open(scratch, &merged, &reason), &reason);
	expect_ok(served_of_checkpoint(merged, WEIGHTS_BF16, kernels, NULL, &alone, &reason),
		&reason);
	side_by_side = last_logits(served->model, served->with_delta, n_vocab);
	in_one = last_logits(alone.model, alone.variant, n_vocab);
	base = last_logits(served->model, served->variant, n_vocab);
	error = largest_difference(side_by_side, in_one, n_vocab);
	/* The merged weights were rounded to bf16. */
	if (!(error < 0.02))
		fail_msg("%s: served and merged differ by %g", method, error);
	assert_true(largest_difference(base, in_one, n_vocab) > 2 * error);
	free(side_by_side);
	free(in_one);
	free(base);
	served_done(&alone);
	checkpoint_free(merged);
	scratch_remove(scratch);
	free(scratch);
}

static void check_method(const struct method *m, const struct kernels *kernels)
{
	struct method_options options = {.ratio = m->default_ratio > 0 ? 5 : 0};
	struct pair_of p = open_pair();
	struct compress_report report, again;
	struct image *image;
	struct served served;
	int fd = compress_with(&p, m->name, &options, 1, &report);
	int second = compress_with(&p, m->name, &options, 3, &again);

	assert_same_bytes(fd, second);
	served = served_pair(&p, kernels, fd, &image);
	told_bytes_check(fd, &report);
	check_merged(m->name, &p, &served, image, kernels);
	if (options.ratio > 0) {
		assert_true((double)report.projection_bytes * options.ratio <=
			    (double)report.projection_original_bytes);
		assert_true(report.projection_bytes > 0);
	}
	assert_true(report.mean_weight_error <= 1 && report.mean_activation_error <= 1);
	served_done(&served);
	close(fd);
	close(second);
	close_pair(&p);
}

static void test_every_method(void **state)
{
	struct reason reason = {0};
	struct kernels kernels;
	const struct method *m;

	(void)state;
	expect_ok(kernels_select(&kernels, NULL, &reason), &reason);
	for (size_t i = 0; (m = method_at(i)); i++) {
		if (m->needs & METHOD_NEEDS_GRADIENTS || m->takes & METHOD_TAKES_ADAPTERS)
			continue; /* test_auto.c, test_adapter_delta.c */
		check_method(m, &kernels);
	}
}

/* No projection has a record, and the base's weights are served. */
static void test_zero_leaves_the_projections(void **state)
{
	const struct method_options options = {0};
	struct pair_of p = open_pair();
	struct compress_report report;
	struct reason reason = {0};
	struct kernels kernels;
	struct image *image;
	struct served served;
	int fd = compress_with(&p, "zero", &options, 1, &report);

	(void)state;
	expect_ok(kernels_select(&kernels, NULL, &reason), &reason);
	served = served_pair(&p, &kernels, fd, &image);
	assert_int_equal(report.projection_bytes, 0);
	assert_int_equal(report.n_projections, 0);
	assert_true(report.n_left_out > 0);
	assert_true(report.mean_weight_error == 1 && report.mean_activation_error == 1);
	for (size_t i = 0; i < served.delta->n_records; i++)
		assert_false(
			tensor_role_is_projection((enum tensor_role)served.delta->records[i].role));
	served_done(&served);
	close(fd);
	close_pair(&p);
}

/* Merged, "dense" and "lossless" are the fine-tune, bit for bit. */
static void check_exact(const char *method)
{
	const struct method_options options = {0};
	struct pair_of p = open_pair();
	char *scratch = scratch_folder();
	struct compress_report compressed;
	struct merge_report report;
	struct checkpoint *merged;
	struct reason reason = {0};
	struct image *image;
	struct digest left, right;
	int fd = compress_with(&p, method, &options, 2, &compressed);
	struct merge_job job = {.base = p.base, .folder = scratch};

	expect_ok(image_load(fd, &image, NULL, &reason), &reason);
	job.delta = image;
	expect_ok(merge_folder(&job, NULL, &report, &reason), &reason);
	expect_ok(checkpoint_open(scratch, &merged, &reason), &reason);
	expect_ok(checkpoint_digest(merged, NULL, &left, &reason), &reason);
	expect_ok(checkpoint_digest(p.tuned, NULL, &right, &reason), &reason);
	assert_true(digest_equal(&left, &right));
	/* The walk counts in f32, where base + change is rounded. */
	assert_true(compressed.mean_weight_error < 1e-6);
	checkpoint_free(merged);
	image_free(image);
	close(fd);
	scratch_remove(scratch);
	free(scratch);
	close_pair(&p);
}

static void test_dense_is_exact(void **state)
{
	(void)state;
	check_exact("dense");
}

static void test_lossless_is_exact(void **state)
{
	(void)state;
	check_exact("lossless");
}

static void test_more_bits_are_better(void **state)
{
	struct pair_of p = open_pair();
	double error = 1;

	(void)state;
	for (int bits = 1; bits <= 8; bits += bits < 4 ? 1 : 4) {
		const struct method_options options = {.bits = bits};
		struct compress_report report;
		int fd = compress_with(&p, "k-bit", &options, 2, &report);

		assert_true(report.mean_activation_error < 0.8 * error);
		error = report.mean_activation_error;
		close(fd);
	}
	close_pair(&p);
}

static void test_options_that_mean_nothing_are_refused(void **state)
{
	static const struct {
		const char *method;
		struct method_options options;
	} bad[] = {
		{"sign", {.ratio = 16}},
		{"sign-row", {.bits = 2}},
		{"k-bit", {.bits = 2.5}},
		{"k-bit", {.bits = 9}},
		{"k-bit", {.ratio = 0.5}},
		{"zero", {.bits = 1}},
		{"dense", {.ratio = 2}},
		{"lossless", {.ratio = 2}},
		{"low-rank", {.ratio = 4, .bits = 4}},
		{"sparse", {.ratio = NAN}},
	};

	(void)state;
	for (size_t i = 0; i < array_len(bad); i++) {
		struct reason reason = {0};

		assert_int_equal(
			method_find(bad[i].method)->check(&bad[i].options, &reason), -EINVAL);
		assert_true(reason.text[0]);
	}
	assert_null(method_find("magic"));
}

/* A matrix and moments without any pattern, always the same. */
static double next_value(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return (double)(*seed >> 8) / 0x1p23 - 1;
}

static double *some_moments(uint32_t n, uint32_t *seed)
{
	double *x = malloc((size_t)2 * n * n * sizeof(*x));
	double *h = calloc((size_t)n * n, sizeof(*h));

	for (size_t i = 0; i < (size_t)2 * n * n; i++)
		x[i] = next_value(seed) * (1 + (double)(i % n) / 8);
	for (uint32_t t = 0; t < 2 * n; t++)
		for (uint32_t i = 0; i < n; i++)
			for (uint32_t j = 0; j < n; j++)
				h[(size_t)i * n + j] += x[(size_t)t * n + i] * x[(size_t)t * n + j];
	free(x);
	return h;
}

static double to_whole(void *arg, uint32_t row, uint32_t column, double value)
{
	(void)arg, (void)row, (void)column;
	return rint(value);
}

struct kept {
	double *values;
	uint32_t cols;
};

static double to_whole_kept(void *arg, uint32_t row, uint32_t column, double value)
{
	const struct kept *k = arg;

	k->values[(size_t)row * k->cols + column] = rint(value);
	return rint(value);
}

/* With inputs that know nothing of each other there is nothing to make up for. */
static void test_gptq_without_correlation_is_rounding(void **state)
{
	enum { ROWS = 5, COLS = 150 };
	double h[COLS * COLS] = {0}, m[ROWS * COLS], got[ROWS * COLS];
	struct kept kept = {.values = got, .cols = COLS};
	const struct gptq_rounding rounding = {.round = to_whole_kept, .arg = &kept};
	uint32_t seed = 1;
	struct gptq *g;

	(void)state;
	for (int i = 0; i < COLS; i++)
		h[i * COLS + i] = 1 + (double)(i % 7);
	for (int i = 0; i < ROWS * COLS; i++)
		m[i] = 4 * next_value(&seed);
	assert_int_equal(gptq_new(NULL, h, COLS, &g, NULL), 0);
	assert_int_equal(gptq_rows(g, m, 0, ROWS, &rounding), 0);
	for (uint32_t i = 0; i < ROWS * COLS; i++)
		assert_true(got[i] == to_whole(NULL, 0, 0, m[i]));
	gptq_free(g);
}

/* e^T H e over all rows, H damped as GPTQ has it. */
static double loss_of(const float *matrix, const struct code_matrix *codes, const double *h)
{
	uint32_t n = codes->n_cols;
	double trace = 0, loss = 0;
	float *row = malloc(n * sizeof(*row));

	for (uint32_t i = 0; i < n; i++)
		trace += h[(size_t)i * n + i];
	for (uint32_t r = 0; r < codes->n_rows; r++) {
		code_matrix_row(codes, r, row);
		for (uint32_t i = 0; i < n; i++)
			row[i] = matrix[(size_t)r * n + i] - row[i];
		for (uint32_t i = 0; i < n; i++) {
			double sum = GPTQ_DAMPING * trace / n * (double)row[i];

			for (uint32_t j = 0; j < n; j++)
				sum += h[(size_t)i * n + j] * (double)row[j];
			loss += (double)row[i] * sum;
		}
	}
	free(row);
	return loss;
}

static void test_row_codes_tell_their_loss(void **state)
{
	enum { ROWS = 70, COLS = 40 };
	float m[ROWS * COLS];
	uint32_t seed = 5;
	double *h = some_moments(COLS, &seed), before = INFINITY;
	struct row_codes_problem p = {.moments = h, .matrix = m, .rows = ROWS, .cols = COLS};
	struct reason reason = {0};
	struct gptq *g;

	(void)state;
	for (int i = 0; i < ROWS * COLS; i++)
		m[i] = (float)(1e-3 * next_value(&seed));
	expect_ok(pool_new(2, &p.pool, &reason), &reason);
	expect_ok(gptq_new(NULL, h, COLS, &g, &reason), &reason);
	for (p.bits = 1; p.bits <= 8; p.bits++) {
		struct code_matrix *with, *nearest;
		double loss, ignored;

		p.gptq = g;
		p.moments = h;
		assert_int_equal(row_codes_fit(&p, &with, &loss), 0);
		assert_true(fabs(loss / loss_of(m, with, h) - 1) < 1e-3);
		p.gptq = NULL;
		p.moments = NULL;
		assert_int_equal(row_codes_fit(&p, &nearest, &ignored), 0);
		assert_true(loss < loss_of(m, nearest, h));
		assert_true(loss < 0.5 * before);
		before = loss;
		code_matrix_free(with);
		code_matrix_free(nearest);
	}
	gptq_free(g);
	pool_free(p.pool);
	free(h);
}

/* Without H the best scale of a sign is the mean magnitude. */
static void test_one_bit_without_text_is_a_sign(void **state)
{
	enum { ROWS = 3, COLS = 200 };
	float m[ROWS * COLS], row[COLS];
	uint32_t seed = 9;
	struct row_codes_problem p = {.matrix = m, .rows = ROWS, .cols = COLS, .bits = 1};
	struct reason reason = {0};
	struct code_matrix *codes;
	double loss;

	(void)state;
	for (int i = 0; i < ROWS * COLS; i++)
		m[i] = (float)next_value(&seed);
	expect_ok(pool_new(1, &p.pool, &reason), &reason);
	assert_int_equal(row_codes_fit(&p, &codes, &loss), 0);
	for (uint32_t r = 0; r < ROWS; r++) {
		double mean = 0;

		for (int c = 0; c < COLS; c++)
			mean += fabs((double)m[r * COLS + (uint32_t)c]) / COLS;
		code_matrix_row(codes, r, row);
		for (int c = 0; c < COLS; c++) {
			double sign = m[r * COLS + (uint32_t)c] < 0 ? -1 : 1;

			assert_true(fabs((double)row[c] - sign * mean) < 1e-3 * mean);
		}
	}
	code_matrix_free(codes);
	pool_free(p.pool);
}

/* What the factors leave is what they were asked to make small: no other choice of the same rank,
 * here the plain one, leaves less in the norm of the inputs. */
static void test_whitening_serves_the_outputs(void **state)
{
	enum { ROWS = 24, COLS = 32, RANK = 5 };
	float m[ROWS * COLS], left[2][ROWS * COLS];
	uint32_t seed = 3;
	double *h = some_moments(COLS, &seed), loss[2] = {0}, norm[2] = {0};

	(void)state;
	for (int i = 0; i < ROWS * COLS; i++)
		m[i] = (float)next_value(&seed);
	for (int k = 0; k < 2; k++) {
		const struct low_rank_problem p = {.matrix = m,
			.rows = ROWS,
			.cols = COLS,
			.n = RANK,
			.moments = k ? h : NULL};
		struct reason reason = {0};
		struct low_rank l;

		expect_ok(low_rank_fit(&p, &l, &reason), &reason);
		memcpy(left[k], m, sizeof(m));
		assert_int_equal(low_rank_subtract(&l, left[k]), 0);
		low_rank_done(&l);
		for (int r = 0; r < ROWS; r++)
			for (int i = 0; i < COLS; i++) {
				double e = (double)left[k][r * COLS + i];

				norm[k] += e * e;
				for (int j = 0; j < COLS; j++)
					loss[k] +=
						e * h[i * COLS + j] * (double)left[k][r * COLS + j];
			}
	}
	assert_true(loss[1] < loss[0]);
	assert_true(norm[0] < norm[1]);
	free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_method),
		cmocka_unit_test(test_zero_leaves_the_projections),
		cmocka_unit_test(test_dense_is_exact),
		cmocka_unit_test(test_lossless_is_exact),
		cmocka_unit_test(test_more_bits_are_better),
		cmocka_unit_test(test_options_that_mean_nothing_are_refused),
		cmocka_unit_test(test_gptq_without_correlation_is_rounding),
		cmocka_unit_test(test_row_codes_tell_their_loss),
		cmocka_unit_test(test_one_bit_without_text_is_a_sign),
		cmocka_unit_test(test_whitening_serves_the_outputs),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
