/* Lambdas against guessed losses from those against measured ones. */
#include "compress/measured_curve.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define N 7u

/* Real loss is 1e6 / bytes; the guess has the right order and lambdas of its own. */
static void make_points(struct measured_point *ret)
{
	for (size_t i = 0; i < N; i++) {
		double bytes = pow(2, 20 - (double)i);

		ret[i] = (struct measured_point){
			.lambda = 1e-9 * pow(10, (double)i), .bytes = bytes, .loss = 1e6 / bytes};
	}
}

static bool near(double a, double b)
{
	return fabs(a - b) <= 1e-9 * fabs(b);
}

static void test_nothing_measured_is_taken_as_guessed(void **state)
{
	struct measured_curve c = {0};

	(void)state;
	assert_true(measured_curve_lambda(&c, .25) == .25);
	measured_curve_fit(&c, NULL, 0);
	assert_true(measured_curve_lambda(&c, .25) == .25);
}

/* A chord's slope stands for the lambda between those of its ends. */
static void test_slopes_stand_for_lambdas(void **state)
{
	struct measured_point p[N];
	struct measured_curve c;
	double before = 0;

	(void)state;
	make_points(p);
	measured_curve_fit(&c, p, N);
	assert_int_equal(c.n_points, N);
	for (size_t i = 0; i + 1 < N; i++) {
		double slope = (p[i + 1].loss - p[i].loss) / (p[i].bytes - p[i + 1].bytes);
		double guess = measured_curve_lambda(&c, slope);

		assert_true(near(guess, sqrt(p[i].lambda * p[i + 1].lambda)));
		assert_true(measured_curve_lambda(&c, 1.5 * slope) > guess);
		assert_true(guess > before);
		before = guess;
	}
	/* Four times the slope is ten times the guess, halfway too. */
	assert_true(near(
		measured_curve_lambda(&c, 2 * c.lambdas[2].real), sqrt(10) * c.lambdas[2].guess));
	/* Beyond the ends in proportion. */
	assert_true(near(measured_curve_lambda(&c, c.lambdas[0].real / 8), c.lambdas[0].guess / 8));
	assert_true(near(
		measured_curve_lambda(&c, c.lambdas[N - 2].real * 8), c.lambdas[N - 2].guess * 8));
}

/* No lambda chooses what lies above the hull, nor more bytes that are worse. */
static void test_only_the_hull_counts(void **state)
{
	struct measured_point p[N];
	struct measured_curve c;

	(void)state;
	make_points(p);
	p[3].loss = p[4].loss * .99;
	p[0].loss = p[1].loss * 1.01;
	measured_curve_fit(&c, p, N);
	assert_int_equal(c.n_points, N - 2);
	for (size_t i = 0; i < c.n_points; i++)
		assert_true(c.points[i].bytes != p[3].bytes && c.points[i].bytes != p[0].bytes);
	for (size_t i = 1; i < c.n; i++)
		assert_true(c.lambdas[i].real > c.lambdas[i - 1].real);
}

static void test_losses_between_points(void **state)
{
	struct measured_point p[N];
	struct measured_curve c;

	(void)state;
	make_points(p);
	measured_curve_fit(&c, p, N);
	assert_true(near(measured_curve_loss(&c, p[2].bytes), p[2].loss));
	assert_true(near(measured_curve_loss(&c, (p[2].bytes + p[3].bytes) / 2),
		(p[2].loss + p[3].loss) / 2));
	assert_true(near(measured_curve_loss(&c, 2 * p[0].bytes), p[0].loss));
	assert_true(near(measured_curve_loss(&c, 0), p[N - 1].loss));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_measured_is_taken_as_guessed),
		cmocka_unit_test(test_slopes_stand_for_lambdas),
		cmocka_unit_test(test_only_the_hull_counts),
		cmocka_unit_test(test_losses_between_points),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
