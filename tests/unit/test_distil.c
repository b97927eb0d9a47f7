/* Adam against steps worked out by hand; row scales that were spoilt find back to a teacher's. */
#include "compress/distil.h"

#include "common/random.h"
#include "tests/compute.h"
#include "tests/double_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void assert_near(double got, double expected)
{
	if (!(fabs(got - expected) <= 1e-6 * fabs(expected)))
		fail_msg("%.9g, expected %.9g", got, expected);
}

static void test_adam_steps_by_hand(void **state)
{
	const struct adam_settings s = {.beta1 = 0.9, .beta2 = 0.99, .epsilon = 0.01, .decay = 0.5};
	const float first[] = {2, -0.5f}, second[] = {1, 0};
	float values[] = {3, 1};
	struct adam *a;

	(void)state;
	assert_int_equal(adam_new(2, &a), 0);
	/* m = .1 g, v = .01 g^2; corrected they are g and g^2: a step of g / (|g| + .01). */
	adam_step(a, &s, 0.1, first, values);
	assert_near((double)values[0], 3 - 0.1 * (2 / 2.01 + 1.5));
	assert_near((double)values[1], 1 - 0.1 * (-0.5 / 0.51 + 0.5));
	/* m = .18 + .1 = .28 over .19; v = .0396 + .01 = .0496 over .0199. */
	values[0] = 3;
	values[1] = 0;
	adam_step(a, &s, 0.1, second, values);
	assert_near(
		(double)values[0], 3 - 0.1 * (0.28 / 0.19 / (sqrt(0.0496 / 0.0199) + 0.01) + 1.5));
	/* m = -.045 over .19; v = .002475 over .0199. */
	assert_near((double)values[1], 0.1 * (0.045 / 0.19 / (sqrt(0.002475 / 0.0199) + 0.01)));
	adam_free(a);
}

static void test_the_rate_rises_and_falls(void **state)
{
	struct distil_settings s = {.n_steps = 24, .n_warmup = 4, .rate = 1, .final_share = 0.1};

	(void)state;
	assert_near(distil_rate(&s, 0), 0.2);
	assert_near(distil_rate(&s, 3), 0.8);
	assert_near(distil_rate(&s, 4), 1);
	assert_near(distil_rate(&s, 14), 0.55);
	assert_near(distil_rate(&s, 23), 0.1 + 0.9 * (1 + cos(M_PI * 0.95)) / 2);
}

/* Every row of every gate and o is the teacher's times a number. */
#define N_SCALES (2 * (LITTLE_FFN + LITTLE_HIDDEN))

struct fixture {
	struct dense_model *teacher, *weights;
	struct sequences sequences;
	float scales[N_SCALES];
	struct distil_group group;
	struct distil_target target;
	struct distil_settings settings;
	uint64_t n_calls, last_done, last_total;
	struct progress progress;
};

/* Calls `of` with each scaled row. */
static void for_rows(const struct fixture *f, const struct dense_model *m, void *arg,
	void (*of)(void *arg, size_t scale, float *row, const float *teacher, size_t n))
{
	static const enum tensor_role roles[] = {ROLE_GATE, ROLE_O};
	size_t scale = 0;

	for (uint32_t layer = 0; layer < little_config.n_layers; layer++)
		for (size_t i = 0; i < array_len(roles); i++) {
			size_t rows = i ? little_config.hidden : little_config.ffn;
			float *w = m->layers[layer].at[roles[i]];
			const float *teacher = f->teacher->layers[layer].at[roles[i]];

			for (size_t row = 0; row < rows; row++)
				of(arg, scale++, w + row * LITTLE_HIDDEN,
					teacher + row * LITTLE_HIDDEN, LITTLE_HIDDEN);
		}
}

static void scale_row(void *arg, size_t scale, float *row, const float *teacher, size_t n)
{
	const struct fixture *f = arg;

	for (size_t i = 0; i < n; i++)
		row[i] = f->scales[scale] * teacher[i];
}

static void sum_row(void *arg, size_t scale, float *row, const float *teacher, size_t n)
{
	float *ret = arg;

	for (size_t i = 0; i < n; i++)
		ret[scale] += row[i] * teacher[i];
}

static int materialise(void *user, struct dense_model *weights, struct reason *reason)
{
	(void)reason;
	for_rows(user, weights, user, scale_row);
	return 0;
}

static int pull_back(
	void *user, const struct dense_model *gradients, float *const *ret, struct reason *reason)
{
	(void)reason;
	assert_null(gradients->layers[0].at[ROLE_Q]);
	for_rows(user, gradients, ret[0], sum_row);
	return 0;
}

static void on_progress(void *user, const char *stage, uint64_t done, uint64_t total)
{
	struct fixture *f = user;

	assert_string_equal(stage, "distilling");
	f->n_calls++;
	f->last_done = done;
	f->last_total = total;
}

static void open_fixture(struct fixture *f)
{
	*f = (struct fixture){
		.teacher = random_dense_model(&little_config, 4),
		.weights = random_dense_model(&little_config, 4),
		.group = {.values = f->scales, .n = N_SCALES, .rate = 2},
		.target = {.n_groups = 1,
			.materialise = materialise,
			.pull_back = pull_back,
			.roles = 1u << ROLE_GATE | 1u << ROLE_O,
			.user = f},
		.settings = distil_defaults,
		.progress = {.update = on_progress, .user = f},
	};
	for (size_t i = 0; i < N_SCALES; i++)
		f->scales[i] = (float)(0.5 + random_share(random_at(1, i)));
	for (size_t i = 0; i < 40; i++) {
		uint32_t ids[24];

		for (size_t t = 0; t < 24; t++)
			ids[t] = (uint32_t)(random_at(i, t) % little_config.vocab);
		assert_int_equal(sequences_add(&f->sequences, ids, 24, 1 + i % 12), 0);
	}
	f->target.groups = &f->group;
	f->settings.teacher = f->teacher;
	f->settings.weights = f->weights;
	f->settings.sequences = &f->sequences;
	f->settings.batch_tokens = 200;
	f->settings.n_steps = 60;
	f->settings.rate = 0.02;
	f->settings.progress = &f->progress;
}

static struct distil_report train(struct fixture *f, size_t n_threads)
{
	struct distil_report report;
	struct reason reason = {0};

	assert_int_equal(pool_new(n_threads, &f->settings.pool, &reason), 0);
	if (distil_run(&f->settings, &f->target, &report, &reason) < 0)
		fail_msg("%s", reason.text);
	pool_free(f->settings.pool);
	return report;
}

static void close_fixture(struct fixture *f)
{
	sequences_done(&f->sequences);
	dense_model_free(f->teacher);
	dense_model_free(f->weights);
}

static void test_spoilt_scales_come_back(void **state)
{
	struct distil_report report;
	struct fixture f;
	double before = 0, after = 0;

	(void)state;
	open_fixture(&f);
	for (size_t i = 0; i < N_SCALES; i++)
		before += fabs((double)f.scales[i] - 1);
	report = train(&f, 2);
	for (size_t i = 0; i < N_SCALES; i++)
		after += fabs((double)f.scales[i] - 1);
	if (!(report.kl_after < report.kl_before / 50) || !(after < before / 3))
		fail_msg("KL %g -> %g, distance %g -> %g", report.kl_before, report.kl_after,
			before, after);
	assert_int_equal(f.n_calls, 61);
	assert_int_equal(f.last_done, 60);
	assert_int_equal(f.last_total, 60);
	assert_true(report.n_tokens > 60 * 200);
	/* The weights are those of the groups. */
	assert_true(f.weights->layers[1].at[ROLE_O][0] ==
		    f.scales[2 * LITTLE_FFN + LITTLE_HIDDEN] * f.teacher->layers[1].at[ROLE_O][0]);
	close_fixture(&f);
}

static void test_threads_do_not_show(void **state)
{
	struct fixture one, three;

	(void)state;
	open_fixture(&one);
	open_fixture(&three);
	one.settings.n_steps = three.settings.n_steps = 15;
	assert_true(train(&one, 1).kl_after == train(&three, 3).kl_after);
	assert_memory_equal(one.scales, three.scales, sizeof(one.scales));
	close_fixture(&one);
	close_fixture(&three);
}

static void test_worse_is_not_kept(void **state)
{
	struct fixture f;
	float scales[N_SCALES];
	struct distil_report report;

	(void)state;
	open_fixture(&f);
	f.settings.rate = 50;
	memcpy(scales, f.scales, sizeof(scales));
	report = train(&f, 2);
	assert_memory_equal(scales, f.scales, sizeof(scales));
	assert_true(report.kl_after == report.kl_before);
	assert_int_equal(report.best_step, 0);
	close_fixture(&f);
}

/* What is kept is what was best where it was judged. */
static void test_held_out_text_judges(void **state)
{
	struct sequences held_out = {0};
	struct distil_report report, alone;
	struct fixture f, copy;

	(void)state;
	open_fixture(&f);
	assert_int_equal(sequences_add(&held_out, sequence_ids(&f.sequences, 3), 24, 20), 0);
	f.settings.held_out = &held_out;
	f.settings.n_checks = 6;
	report = train(&f, 2);
	assert_true(report.best_step > 0 && report.best_step % 10 == 0);
	assert_true(report.kl_after < report.kl_before / 10);
	/* Measured again, with no step to learn: the same number. */
	open_fixture(&copy);
	memcpy(copy.scales, f.scales, sizeof(copy.scales));
	copy.settings.held_out = &held_out;
	copy.settings.n_steps = 0;
	alone = train(&copy, 1);
	assert_true(alone.kl_before == report.kl_after);
	sequences_done(&held_out);
	close_fixture(&f);
	close_fixture(&copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_adam_steps_by_hand),
		cmocka_unit_test(test_the_rate_rises_and_falls),
		cmocka_unit_test(test_spoilt_scales_come_back),
		cmocka_unit_test(test_threads_do_not_show),
		cmocka_unit_test(test_worse_is_not_kept),
		cmocka_unit_test(test_held_out_text_judges),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
