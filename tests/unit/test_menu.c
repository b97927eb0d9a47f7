/* Hull and choice of codings against brute force. */
#include "compress/menu.h"

#include "common/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum {
	N_ENTRIES = 7,
	N_MENUS = 4,
	N_CASES = 200,
};

struct example {
	struct menu_entry entries[N_MENUS][N_ENTRIES];
	struct menu_entry all[N_MENUS][N_ENTRIES]; /* before the hull */
	struct menu menus[N_MENUS];
};

/* Losses that fall with bytes, more or less. */
static struct menu_entry random_entry(uint64_t seed, uint32_t tag)
{
	double bytes = tag == 0 ? 0 : floor(100 * random_share(random_at(seed, 2 * tag)));
	double loss = exp(-bytes / 30) * (1 + random_share(random_at(seed, 2 * tag + 1)));

	return (struct menu_entry){{bytes, loss}, tag};
}

static void make_example(struct example *e, uint64_t seed)
{
	for (size_t m = 0; m < N_MENUS; m++) {
		for (uint32_t i = 0; i < N_ENTRIES; i++)
			e->entries[m][i] = random_entry(random_at(seed, m), i);
		memcpy(e->all[m], e->entries[m], sizeof(e->all[m]));
		e->menus[m].entries = e->entries[m];
		e->menus[m].n = menu_hull(e->entries[m], N_ENTRIES);
	}
}

/* By its definition: the entry is the lowest of all at some lambda. */
static bool is_on_hull(const struct menu_entry *all, size_t n, const struct menu_entry *e)
{
	for (double lambda = 1e-5; lambda < 10; lambda *= 1.003) {
		double cost = e->point.loss + lambda * e->point.bytes;
		bool lowest = true;

		for (size_t i = 0; i < n; i++)
			if (all[i].point.loss + lambda * all[i].point.bytes < cost - 1e-12)
				lowest = false;
		if (lowest)
			return true;
	}
	return false;
}

static bool is_kept(const struct menu *m, uint32_t tag)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->entries[i].tag == tag)
			return true;
	return false;
}

static void test_the_hull_has_what_some_lambda_wants(void **state)
{
	struct example e;

	(void)state;
	for (uint64_t seed = 0; seed < 20; seed++) {
		make_example(&e, seed);
		for (size_t m = 0; m < N_MENUS; m++)
			for (size_t i = 0; i < N_ENTRIES; i++)
				if (is_on_hull(e.all[m], N_ENTRIES, &e.all[m][i]))
					assert_true(is_kept(&e.menus[m], e.all[m][i].tag));
	}
}

static void test_steps_of_a_hull_are_worth_less_and_less(void **state)
{
	struct example e;

	(void)state;
	for (uint64_t seed = 0; seed < N_CASES; seed++) {
		double before = INFINITY;

		make_example(&e, seed);
		for (size_t i = 1; i < e.menus[0].n; i++) {
			const struct rate_loss *a = &e.entries[0][i - 1].point, *b = a;
			double now;

			b = &e.entries[0][i].point;
			now = (a->loss - b->loss) / (b->bytes - a->bytes);
			assert_true(b->bytes > a->bytes && now > 0 && now < before);
			before = now;
		}
	}
}

/* Of all ways of choosing from all entries. */
static double least_loss(const struct example *e, double bytes)
{
	double least = INFINITY;

	for (size_t way = 0; way < N_ENTRIES * N_ENTRIES * N_ENTRIES * N_ENTRIES; way++) {
		struct rate_loss sum = {0};
		size_t rest = way;

		for (size_t m = 0; m < N_MENUS; m++, rest /= N_ENTRIES) {
			sum.bytes += e->all[m][rest % N_ENTRIES].point.bytes;
			sum.loss += e->all[m][rest % N_ENTRIES].point.loss;
		}
		if (sum.bytes <= bytes)
			least = fmin(least, sum.loss);
	}
	return least;
}

static struct menu_choice chosen(const struct example *e, const struct menu_goal *goal)
{
	static size_t picks[N_MENUS];
	struct menu_choice c = {.picks = picks};
	struct reason reason = {0};

	assert_int_equal(menu_choose(e->menus, N_MENUS, goal, &c, &reason), 0);
	return c;
}

static struct rate_loss sum_of(const struct example *e, const size_t *picks)
{
	struct rate_loss sum = {0};

	for (size_t m = 0; m < N_MENUS; m++) {
		sum.bytes += e->entries[m][picks[m]].point.bytes;
		sum.loss += e->entries[m][picks[m]].point.loss;
	}
	return sum;
}

/* With as many bytes as it takes, nothing is better than what one lambda chooses; with some more it
 * is better than that, and no step that fits is left. */
static void test_the_choice_against_all_choices(void **state)
{
	struct example e;

	(void)state;
	for (uint64_t seed = 0; seed < N_CASES / 10; seed++) {
		make_example(&e, seed);
		for (double loss = 3; loss > .5; loss -= .4) {
			const struct menu_goal by_loss = {.loss = loss};
			size_t picks[N_MENUS] = {0};
			struct menu_choice c = {.picks = picks}, more;
			struct rate_loss sum;
			struct reason reason;

			if (menu_choose(e.menus, N_MENUS, &by_loss, &c, &reason) < 0)
				continue;
			sum = sum_of(&e, picks);
			assert_true(fabs(sum.bytes - c.sum.bytes) < 1e-6 * (1 + sum.bytes));
			assert_true(fabs(sum.loss - c.sum.loss) < 1e-9);
			assert_true(sum.loss <= loss);
			assert_true(fabs(least_loss(&e, sum.bytes) - sum.loss) < 1e-9);
			more = chosen(&e, &(struct menu_goal){.bytes = sum.bytes + 15});
			assert_true(more.sum.bytes <= sum.bytes + 15);
			assert_true(more.sum.loss <= sum.loss + 1e-9);
		}
	}
}

static void test_no_step_that_fits_is_left(void **state)
{
	struct example e;

	(void)state;
	for (uint64_t seed = 0; seed < N_CASES; seed++)
		for (double bytes = 5; bytes < 300; bytes += 23) {
			struct menu_choice c;

			make_example(&e, seed);
			c = chosen(&e, &(struct menu_goal){.bytes = bytes});
			assert_true(c.sum.bytes <= bytes);
			for (size_t m = 0; m < N_MENUS; m++) {
				const struct menu_entry *at = &e.entries[m][c.picks[m]];

				if (c.picks[m] + 1 < e.menus[m].n)
					assert_true(
						c.sum.bytes + at[1].point.bytes - at->point.bytes >
						bytes);
			}
		}
}

static void test_goals_out_of_reach_are_refused(void **state)
{
	struct menu_entry entries[] = {{{10, 3}, 0}, {{20, 1}, 1}};
	const struct menu menu = {entries, menu_hull(entries, 2)};
	struct menu_choice c = {.picks = &(size_t){0}};
	struct reason reason;

	(void)state;
	assert_int_equal(
		menu_choose(&menu, 1, &(struct menu_goal){.bytes = 9}, &c, &reason), -ERANGE);
	assert_int_equal(
		menu_choose(&menu, 1, &(struct menu_goal){.loss = .5}, &c, &reason), -ERANGE);
	assert_int_equal(menu_choose(&menu, 1, &(struct menu_goal){.loss = 1}, &c, &reason), 0);
	assert_int_equal(c.picks[0], 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_hull_has_what_some_lambda_wants),
		cmocka_unit_test(test_steps_of_a_hull_are_worth_less_and_less),
		cmocka_unit_test(test_the_choice_against_all_choices),
		cmocka_unit_test(test_no_step_that_fits_is_left),
		cmocka_unit_test(test_goals_out_of_reach_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
