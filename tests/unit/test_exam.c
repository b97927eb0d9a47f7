/* Marks against KL worked out in double, and comparisons against sums by hand. */
#include "compress/exam.h"
#include "tests/compute.h"

#include "tests/double_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const uint32_t ids[] = {3, 14, 15, 9, 2, 6, 5, 35, 8, 9, 7, 9, 32, 38};

struct fixture {
	struct pool *pool;
	struct dense_model *teacher, *candidate;
	struct sequences sequences;
	struct exam *exam;
};

static void setup(struct fixture *f)
{
	struct reason reason = {0};
	struct exam_settings settings;

	*f = (struct fixture){
		.teacher = random_dense_model(&little_config, 1),
		.candidate = random_dense_model(&little_config, 1),
	};
	for (size_t i = 0; i < LITTLE_FFN * LITTLE_HIDDEN; i++)
		f->candidate->layers[1].at[ROLE_GATE][i] *= 1.2f;
	assert_int_equal(pool_new(2, &f->pool, &reason), 0);
	assert_int_equal(sequences_add(&f->sequences, ids, 14, 3), 0);
	assert_int_equal(sequences_add(&f->sequences, ids + 4, 6, 5), 0);
	assert_int_equal(sequences_add(&f->sequences, ids + 2, 9, 1), 0);
	settings = (struct exam_settings){f->pool, f->teacher, &f->sequences};
	assert_int_equal(exam_new(&settings, &f->exam, &reason), 0);
}

static void done(struct fixture *f)
{
	exam_free(f->exam);
	sequences_done(&f->sequences);
	dense_model_free(f->teacher);
	dense_model_free(f->candidate);
	pool_free(f->pool);
}

static double log_sum(const double *z)
{
	double sum = 0;

	for (size_t v = 0; v < little_config.vocab; v++)
		sum += exp(z[v]);
	return log(sum);
}

static double kl_of(const double *teacher, const double *candidate)
{
	double t = log_sum(teacher), c = log_sum(candidate), sum = 0;

	for (size_t v = 0; v < little_config.vocab; v++)
		sum += exp(teacher[v] - t) * (teacher[v] - t - candidate[v] + c);
	return sum;
}

/* Of the judged tokens of a sequence. */
static double sum_in_double(const struct fixture *f, size_t i, struct dense_model *candidate)
{
	const struct sequence *s = &f->sequences.items[i];
	struct double_model *a = double_model_of(f->teacher, 32),
			    *b = double_model_of(candidate, 32);
	static double left[16 * LITTLE_VOCAB], right[16 * LITTLE_VOCAB];
	double sum = 0;

	double_model_logits(a, sequence_ids(&f->sequences, i), s->n - 1, NULL, left);
	double_model_logits(b, sequence_ids(&f->sequences, i), s->n - 1, NULL, right);
	for (size_t t = s->answer - 1; t < s->n - 1; t++)
		sum += kl_of(left + t * little_config.vocab, right + t * little_config.vocab);
	double_model_free(a);
	double_model_free(b);
	return sum;
}

static void test_marks_are_roots_of_kl(void **state)
{
	struct fixture f;
	struct reason reason = {0};
	struct exam_marks marks;
	double sum = 0, kl;

	(void)state;
	setup(&f);
	assert_int_equal(exam_marks(f.exam, f.candidate, &marks, &reason), 0);
	assert_int_equal(exam_kl(f.exam, f.candidate, &kl, &reason), 0);
	for (size_t i = 0; i < f.sequences.n; i++) {
		uint32_t n = f.sequences.items[i].n - f.sequences.items[i].answer;
		double right = sum_in_double(&f, i, f.candidate);

		assert_true(fabs(marks.roots[i] / sqrt(right / n) - 1) < 1e-3);
		sum += right;
	}
	assert_true(fabs(marks.kl / (sum / 20) - 1) < 1e-3);
	assert_true(marks.kl == kl);
	exam_marks_done(&marks);
	done(&f);
}

static void test_nothing_is_lost_by_the_teacher(void **state)
{
	struct fixture f;
	struct reason reason = {0};
	double kl;

	(void)state;
	setup(&f);
	assert_int_equal(exam_kl(f.exam, f.teacher, &kl, &reason), 0);
	assert_true(kl < 1e-9);
	done(&f);
}

static void test_changes_are_paired(void **state)
{
	double one[] = {.1, .5, .3}, other[] = {.2, .5, .7};
	const struct exam_marks before = {.roots = one}, after = {.roots = other};
	struct exam_change change;
	struct fixture f;

	(void)state;
	setup(&f);
	change = exam_compare(f.exam, &before, &after);
	/* Differences .1, 0, .4 about their mean of 1/6: .6/9, 1.5/9, 2.1/9. */
	assert_true(fabs(change.mean - 1. / 6) < 1e-12);
	assert_true(fabs(change.error - sqrt((.36 + 2.25 + 4.41) / 81 / 2 / 3)) < 1e-12);
	done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_marks_are_roots_of_kl),
		cmocka_unit_test(test_nothing_is_lost_by_the_teacher),
		cmocka_unit_test(test_changes_are_paired),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
