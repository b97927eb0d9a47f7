/* What stands at which level, against what a plan has to keep to. */
#include "compress/level_plan.h"

#include "common/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum {
	N_MATRICES = 9,
	N_COMPONENTS = 40, /* most, of one */
	N_CASES = 300,
};

struct example {
	struct level_component components[N_MATRICES][N_COMPONENTS];
	struct level_matrix matrices[N_MATRICES];
	uint32_t n_levels;
};

/* Some are whole, one is not stored, and what components are worth falls more or less. */
static void make_example(struct example *e, uint64_t seed)
{
	e->n_levels = 1 + (uint32_t)(random_at(seed, 0) % LEVEL_PLAN_MOST);
	for (uint32_t m = 0; m < N_MATRICES; m++) {
		uint64_t of = random_at(seed, m + 1);
		double scale = exp(6 * random_share(random_at(of, 0)));

		e->matrices[m] = (struct level_matrix){
			.components = e->components[m],
			.n = m == 3       ? 0
			     : m % 4 == 1 ? 1
					  : 1 + (uint32_t)(of % N_COMPONENTS),
		};
		for (uint32_t i = 0; i < e->matrices[m].n; i++)
			e->components[m][i] = (struct level_component){
				(float)(1 + 99 * random_share(random_at(of, 2 * i + 1))),
				(float)(scale * exp(-.2 * i) *
					random_share(random_at(of, 2 * i + 2))),
			};
	}
}

static struct example planned(uint64_t seed, double least)
{
	struct example e;

	make_example(&e, seed);
	for (uint32_t m = 0; m < N_MATRICES; m++)
		e.matrices[m].components = e.components[m];
	assert_int_equal(level_plan(e.matrices, N_MATRICES, e.n_levels, least), 0);
	return e;
}

static double bytes_between(const struct example *e, uint32_t matrix, uint32_t first, uint32_t end)
{
	double sum = 0;

	for (uint32_t i = first; i < end; i++)
		sum += (double)e->components[matrix][i].bytes;
	return sum;
}

static uint32_t begin_of(const struct example *e, uint32_t matrix, uint32_t level)
{
	return level ? e->matrices[matrix].ends[level - 1] : 0;
}

static void test_levels_have_all_and_in_order(void **state)
{
	static const double leasts[] = {0, 10, 200, INFINITY};

	(void)state;
	for (uint64_t seed = 0; seed < N_CASES; seed++) {
		struct example e = planned(seed, leasts[seed % array_len(leasts)]);

		for (uint32_t m = 0; m < N_MATRICES; m++) {
			const struct level_matrix *x = &e.matrices[m];

			for (uint32_t k = 0; k < LEVEL_PLAN_MOST; k++)
				assert_true(x->ends[k] >= begin_of(&e, m, k));
			for (uint32_t k = e.n_levels - 1; k < LEVEL_PLAN_MOST; k++)
				assert_int_equal(x->ends[k], x->n);
		}
	}
}

static double mean_between(const struct example *e, uint32_t matrix, uint32_t first, uint32_t end)
{
	double sum = 0;

	for (uint32_t i = first; i < end; i++)
		sum += (double)e->components[matrix][i].benefit;
	return sum / bytes_between(e, matrix, first, end);
}

/* Of a component a byte: the slope there of the lowest concave line above benefits over bytes. */
static double worth(const struct example *e, uint32_t matrix, uint32_t component)
{
	double least = INFINITY;

	for (uint32_t first = 0; first <= component; first++) {
		double most = 0;

		for (uint32_t end = component + 1; end <= e->matrices[matrix].n; end++)
			most = fmax(most, mean_between(e, matrix, first, end));
		least = fmin(least, most);
	}
	return least;
}

static void test_what_is_worth_more_comes_before(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < N_CASES; seed++) {
		struct example e = planned(seed, 0);
		double least_before = INFINITY;

		for (uint32_t k = 0; k < LEVEL_PLAN_MOST; k++) {
			double least = least_before;

			for (uint32_t m = 0; m < N_MATRICES; m++)
				for (uint32_t i = begin_of(&e, m, k); i < e.matrices[m].ends[k];
					i++) {
					double here = worth(&e, m, i);

					assert_true(here <= least_before * (1 + 1e-9));
					least = fmin(least, here);
				}
			least_before = least;
		}
	}
}

/* Of components that have to stay together: those whose worth is the same. */
static double largest(const struct example *e)
{
	double most = 0;

	for (uint32_t m = 0; m < N_MATRICES; m++)
		for (uint32_t i = 0, first = 0; i < e->matrices[m].n; i++) {
			if (worth(e, m, i) < worth(e, m, first) * (1 - 1e-9))
				first = i;
			most = fmax(most, bytes_between(e, m, first, i + 1));
		}
	return most;
}

/* About: what is not taken apart is on one side of an end. */
static void test_levels_are_about_as_large(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < N_CASES; seed++) {
		struct example e = planned(seed, 0);
		double all = 0, so_far = 0;

		for (uint32_t m = 0; m < N_MATRICES; m++)
			all += bytes_between(&e, m, 0, e.matrices[m].n);
		for (uint32_t k = 0; k < e.n_levels; k++) {
			for (uint32_t m = 0; m < N_MATRICES; m++)
				so_far += bytes_between(
					&e, m, begin_of(&e, m, k), e.matrices[m].ends[k]);
			assert_true(fabs(so_far - all * (k + 1) / e.n_levels) <= largest(&e) / 2);
		}
	}
}

static void test_no_stretch_is_too_small(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < N_CASES; seed++) {
		double least = 50. + (double)(seed % 500);
		struct example e = planned(seed, least);

		for (uint32_t m = 0; m < N_MATRICES; m++)
			for (uint32_t k = 0; k < LEVEL_PLAN_MOST; k++) {
				uint32_t first = begin_of(&e, m, k), end = e.matrices[m].ends[k];

				if (end > first && level_plan_cuts(&e.matrices[m]) > 0)
					assert_true(bytes_between(&e, m, first, end) >= least);
			}
	}
}

/* In the limit matrices are whole, those with the most benefit a byte first. */
static void test_whole_matrices_stand_by_their_means(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < N_CASES; seed++) {
		struct example e = planned(seed, INFINITY);
		double density[N_MATRICES];

		for (uint32_t m = 0; m < N_MATRICES; m++) {
			assert_int_equal(level_plan_cuts(&e.matrices[m]), 0);
			density[m] = mean_between(&e, m, 0, e.matrices[m].n);
		}
		for (uint32_t a = 0; a < N_MATRICES; a++)
			for (uint32_t b = 0; b < N_MATRICES; b++)
				for (uint32_t k = 0; k < LEVEL_PLAN_MOST; k++)
					if (e.matrices[a].n > 0 &&
						density[a] > density[b] * 1.0001 &&
						e.matrices[b].ends[k] > 0)
						assert_true(e.matrices[a].ends[k] > 0);
	}
}

static void test_nothing_is_worth_anything(void **state)
{
	struct level_component components[2][2] = {{{100, 0}, {100, 0}}, {{200, 0}}};
	struct level_matrix matrices[] = {
		{.components = components[0], .n = 2}, {.components = components[1], .n = 1}};

	(void)state;
	assert_int_equal(level_plan(matrices, 2, 4, 0), 0);
	assert_int_equal(matrices[0].ends[0], 1);
	assert_int_equal(matrices[0].ends[1], 2);
	assert_int_equal(matrices[1].ends[2], 0);
	assert_int_equal(matrices[1].ends[3], 1);
	assert_int_equal(level_plan(NULL, 0, 4, 0), 0);
}

static void test_small_deltas_have_one_level(void **state)
{
	(void)state;
	assert_int_equal(level_plan_count(0), 1);
	assert_int_equal(level_plan_count(2. * LEVEL_PLAN_BYTES - 1), 1);
	assert_int_equal(level_plan_count(2. * LEVEL_PLAN_BYTES), 2);
	assert_int_equal(level_plan_count(1e15), LEVEL_PLAN_MOST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_levels_have_all_and_in_order),
		cmocka_unit_test(test_what_is_worth_more_comes_before),
		cmocka_unit_test(test_levels_are_about_as_large),
		cmocka_unit_test(test_no_stretch_is_too_small),
		cmocka_unit_test(test_whole_matrices_stand_by_their_means),
		cmocka_unit_test(test_nothing_is_worth_anything),
		cmocka_unit_test(test_small_deltas_have_one_level),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
