/* The SVD in the metric of two sides and its quantised components. */
#include "compress/whitened.h"

#include "kernels/blas.h"
#include "tests/normal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum {
	ROWS = 60,
	COLS = 90,
};

struct fixture {
	float *target;
	struct metric *g, *h;
	struct whitened_basis *basis;
};

static struct metric *random_metric(uint32_t n, uint64_t seed)
{
	_cleanup_(freep) float *moments = calloc((size_t)n * n, sizeof(*moments));
	struct reason reason = {0};
	struct metric *m;

	assert_non_null(moments);
	for (uint32_t k = 0; k < n; k++) {
		_cleanup_(freep) double *a = malloc(n * sizeof(*a));

		assert_non_null(a);
		for (uint32_t i = 0; i < n; i++)
			a[i] = normal_next(&seed) / sqrt(k + 1.0);
		for (uint32_t i = 0; i < n; i++)
			for (uint32_t j = 0; j < n; j++)
				moments[(size_t)i * n + j] += (float)(a[i] * a[j]);
	}
	assert_int_equal(metric_new(moments, n, .1, &m, &reason), 0);
	return m;
}

/* Of a spectrum that falls: what components are for. */
static float *steep_matrix(uint64_t seed)
{
	float *x = calloc((size_t)ROWS * COLS, sizeof(*x));

	assert_non_null(x);
	for (int k = 0; k < ROWS; k++) {
		double u[ROWS], v[COLS];

		for (int i = 0; i < ROWS; i++)
			u[i] = normal_next(&seed);
		for (int i = 0; i < COLS; i++)
			v[i] = normal_next(&seed);
		for (int i = 0; i < ROWS * COLS; i++)
			x[i] += (float)(u[i / COLS] * v[i % COLS] / (1 + k));
	}
	return x;
}

static int set_up(void **state)
{
	static struct fixture f;
	struct reason reason = {0};

	if (blas_load(1, &reason) < 0)
		return -1;
	f.target = steep_matrix(1);
	f.g = random_metric(ROWS, 2);
	f.h = random_metric(COLS, 3);
	*state = &f;
	return whitened_basis_new(f.target, f.g, f.h, &f.basis, &reason);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	whitened_basis_free(f->basis);
	metric_free(f->g);
	metric_free(f->h);
	free(f->target);
	return 0;
}

/* x^T M y by its definition. */
static double form(const struct metric *m, const double *x, const double *y)
{
	double sum = 0;

	for (uint32_t i = 0; i < m->n; i++)
		for (uint32_t j = 0; j < m->n; j++)
			sum += x[i] * m->matrix[(size_t)i * m->n + j] * y[j];
	return sum;
}

static void test_components_are_orthonormal_in_their_metrics(void **state)
{
	const struct fixture *f = *state;
	const struct whitened_basis *b = f->basis;

	for (uint32_t i = 0; i < b->rank; i++)
		for (uint32_t j = 0; j < b->rank; j++) {
			double one = i == j;

			assert_true(
				fabs(form(f->g, b->u + i * ROWS, b->u + j * ROWS) - one) < 1e-6);
			assert_true(
				fabs(form(f->h, b->v + i * COLS, b->v + j * COLS) - one) < 1e-6);
		}
}

static void test_all_components_give_the_matrix(void **state)
{
	const struct fixture *f = *state;
	const struct whitened_basis *b = f->basis;

	for (int r = 0; r < ROWS; r++)
		for (int c = 0; c < COLS; c++) {
			double sum = 0;

			for (uint32_t i = 0; i < b->rank; i++)
				sum += b->sigma[i] * b->u[i * ROWS + (uint32_t)r] *
				       b->v[i * COLS + (uint32_t)c];
			assert_true(fabs(sum - (double)f->target[r * COLS + c]) < 1e-4);
		}
}

static double loss_without(const struct fixture *f, uint32_t kept)
{
	const struct whitened_basis *b = f->basis;
	float error[ROWS * COLS];
	double loss;

	for (int i = 0; i < ROWS * COLS; i++) {
		double sum = 0;

		for (uint32_t k = kept; k < b->rank; k++)
			sum += b->sigma[k] * b->u[k * ROWS + (uint32_t)(i / COLS)] *
			       b->v[k * COLS + (uint32_t)(i % COLS)];
		error[i] = (float)sum;
	}
	assert_int_equal(metric_loss(f->g, f->h, error, &loss), 0);
	return loss;
}

static void test_a_dropped_component_costs_its_square(void **state)
{
	const struct fixture *f = *state;
	const struct whitened_basis *b = f->basis;
	double expected = 0;

	for (uint32_t kept = b->rank; kept-- > 0;) {
		expected += b->sigma[kept] * b->sigma[kept];
		if (kept % 7 == 0)
			assert_true(fabs(loss_without(f, kept) / expected - 1) < 1e-4);
	}
}

static double square(double x)
{
	return x * x;
}

/* The loss of what a reader will have. */
static double loss_of(const struct fixture *f, const struct whitened *w)
{
	float error[ROWS * COLS];
	double loss;

	assert_int_equal(whitened_values(w, error), 0);
	for (int i = 0; i < ROWS * COLS; i++)
		error[i] = f->target[i] - error[i];
	assert_int_equal(metric_loss(f->g, f->h, error, &loss), 0);
	return loss;
}

static double whole_energy(const struct fixture *f)
{
	double energy = 0;

	for (uint32_t i = 0; i < f->basis->rank; i++)
		energy += square(f->basis->sigma[i]);
	return energy;
}

static struct whitened *quantised(const struct fixture *f, double share, double coarseness)
{
	const struct whitened_settings settings = {
		.lambda = share * whole_energy(f), .coarseness = coarseness, .least = .6};
	struct whitened *w;

	assert_int_equal(whitened_quantise(f->basis, &settings, &w), 0);
	return w;
}

static void test_codes_are_the_nearest_to_what_they_stand_for(void **state)
{
	_cleanup_(whitened_freep) struct whitened *w = quantised(*state, 1e-5, 1);

	assert_true(w->n > 3);
	for (uint32_t i = 0; i < w->n * ROWS; i++)
		assert_int_equal(w->u[i], lrintf(w->latent_u[i]));
	for (uint32_t i = 0; i < w->n * COLS; i++)
		assert_int_equal(w->v[i], lrintf(w->latent_v[i]));
}

/* Before rounding, the components are those of the basis: sigma u v^T = s u v^T. */
static void test_latent_numbers_are_the_components(void **state)
{
	const struct fixture *f = *state;
	_cleanup_(whitened_freep) struct whitened *w = quantised(f, 1e-5, 1);

	for (uint32_t i = 0; i < w->n; i++)
		for (uint32_t k = 0; k < ROWS * COLS; k += 37) {
			double found = (double)w->sigma[i] *
				       (double)w->latent_u[i * ROWS + k / COLS] *
				       (double)w->latent_v[i * COLS + k % COLS];
			double expected = f->basis->sigma[i] * f->basis->u[i * ROWS + k / COLS] *
					  f->basis->v[i * COLS + k % COLS];

			assert_true(fabs(found - expected) < 1e-5);
		}
}

static void test_a_smaller_lambda_loses_less(void **state)
{
	const struct fixture *f = *state;
	double last = 0;
	uint32_t n = UINT32_MAX;

	for (double share = 1e-5; share < 2e-3; share *= 8) {
		_cleanup_(whitened_freep) struct whitened *w = quantised(f, share, 1);

		assert_true(w->n > 0 && w->n <= n);
		assert_true(loss_of(f, w) > last);
		last = loss_of(f, w);
		n = w->n;
	}
	assert_true(last < whole_energy(f));
}

/* As fine as codes of 8 bits can be. */
static void test_fine_codes_give_most_of_the_matrix(void **state)
{
	const struct fixture *f = *state;
	_cleanup_(whitened_freep) struct whitened *w = quantised(f, 1e-5, 1);

	assert_true(loss_of(f, w) < .05 * whole_energy(f));
}

static void test_nothing_stands_out_of_an_enormous_grid(void **state)
{
	const struct fixture *f = *state;
	_cleanup_(whitened_freep) struct whitened *w = quantised(f, 10, 1);

	assert_int_equal(w->n, 0);
	assert_true(fabs(loss_of(f, w) / whole_energy(f) - 1) < 1e-5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_components_are_orthonormal_in_their_metrics),
		cmocka_unit_test(test_all_components_give_the_matrix),
		cmocka_unit_test(test_a_dropped_component_costs_its_square),
		cmocka_unit_test(test_codes_are_the_nearest_to_what_they_stand_for),
		cmocka_unit_test(test_latent_numbers_are_the_components),
		cmocka_unit_test(test_a_smaller_lambda_loses_less),
		cmocka_unit_test(test_fine_codes_give_most_of_the_matrix),
		cmocka_unit_test(test_nothing_stands_out_of_an_enormous_grid),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
