/* Parts at levels: no number changes, the most useful first, within the bytes that are to spare. */
#include "compress/auto_levels.h"

#include "common/random.h"
#include "compress/components.h"
#include "compress/level_plan.h"
#include "compress/part_values.h"
#include "compress/trial_parts.h"
#include "tests/compute.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum {
	ROWS = 512,
	COLS = 1024,
	N_COMPONENTS = 120,
	N_MATRICES = 16,
	DIRECT = 5,  /* is in direct codes */
	NOTHING = 6, /* is not stored */
	ONE = 7,     /* has one component */
	USELESS = 8, /* has no benefit */
	HARMFUL = 9, /* has less than none */
};
#define LOSS .25

struct fixture {
	struct part parts[N_MATRICES];
	double benefits[N_MATRICES];
	uint64_t bytes; /* of all, with records */
};

/* Codes that shrink and sigmas that grow, as compress/whitened.h makes them; powers of two, so that
 * sums of a few are exact. */
static struct part factors(uint64_t seed, uint32_t n, bool exact)
{
	struct whitened w = {.rows = ROWS, .cols = COLS, .n = n};
	struct part_place place = {.role = ROLE_Q, .rows = ROWS, .cols = COLS};
	struct part part;

	w.u = malloc((size_t)n * ROWS);
	w.v = malloc((size_t)n * COLS);
	w.sigma = malloc(n * sizeof(*w.sigma));
	assert_true(w.u && w.v && w.sigma);
	for (uint32_t i = 0; i < n; i++) {
		double size = 7 * exp(-.3 * i / n);

		for (uint32_t k = 0; k < ROWS; k++)
			w.u[(size_t)i * ROWS + k] = (int8_t)rint(
				size * (2 * random_share(random_at(seed, 2 * i * ROWS + k)) - 1));
		for (uint32_t k = 0; k < COLS; k++)
			w.v[(size_t)i * COLS + k] = (int8_t)rint(
				size *
				(2 * random_share(random_at(seed + 1, 2 * i * COLS + k)) - 1));
		w.sigma[i] =
			exact ? ldexpf(1, -10 + (int)(4 * i / n)) : (float)(.001 * exp(2. * i / n));
	}
	assert_int_equal(trial_factors_part(&place, &w, &part), 0);
	free(w.u);
	free(w.v);
	free(w.sigma);
	part.quality.loss = (float)LOSS;
	return part;
}

static struct part direct(uint64_t seed)
{
	static int8_t codes[ROWS * COLS];
	struct part_place place = {.role = ROLE_Q, .rows = ROWS, .cols = COLS};
	struct part part;

	for (size_t i = 0; i < array_len(codes); i++)
		codes[i] = (int8_t)(random_at(seed, i) % 3) - 1;
	assert_int_equal(trial_codes_part(&place, codes, .001, &part), 0);
	part.quality.loss = (float)LOSS;
	return part;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(compute_start(state), 0);
	for (uint64_t i = 0; i < N_MATRICES; i++) {
		f->benefits[i] = .1 * exp(3 * random_share(random_at(1, i)));
		if (i == NOTHING)
			continue;
		f->parts[i] = i == DIRECT ? direct(i)
					  : factors(2 * i, i == ONE ? 1 : N_COMPONENTS, i % 2);
		f->bytes += part_file_bytes(&f->parts[i]);
	}
	f->benefits[USELESS] = 0;
	f->benefits[HARMFUL] = -1;
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < N_MATRICES; i++)
		part_done(&f->parts[i]);
	free(f);
	return compute_stop(state);
}

static int read_part(
	const void *user, size_t i, struct part *ret, double *ret_benefit, struct reason *reason)
{
	const struct fixture *f = user;

	(void)reason;
	*ret = f->parts[i];
	*ret_benefit = f->benefits[i];
	if (!f->parts[i].payload)
		return 0;
	ret->payload = malloc(ret->record.bytes);
	assert_non_null(ret->payload);
	memcpy(ret->payload, f->parts[i].payload, ret->record.bytes);
	return 0;
}

static struct auto_levels_source source_of(const struct fixture *f)
{
	return (struct auto_levels_source){.n = N_MATRICES, .read = read_part, .user = f};
}

/* Every matrix with its parts at levels. */
struct levelled {
	struct method_matrix matrices[N_MATRICES];
	double added, really_added;
	uint32_t n_cuts;
};

static void levels_of(const struct fixture *f, double spare, struct levelled *ret)
{
	const struct auto_levels_source source = source_of(f);
	_cleanup_(auto_levelsp) struct auto_levels *levels = NULL;
	struct reason reason = {0};

	*ret = (struct levelled){.really_added = -(double)f->bytes};
	if (auto_levels_new(&source, spare, &levels, &reason) < 0)
		fail_msg("%s", reason.text);
	ret->added = auto_levels_added(levels);
	for (size_t i = 0; i < N_MATRICES; i++) {
		struct method_matrix *m = &ret->matrices[i];

		assert_int_equal(auto_levels_give(levels, &source, i, m, &reason), 0);
		ret->n_cuts += m->n_parts > 1 ? m->n_parts - 1 : 0;
		for (uint32_t k = 0; k < m->n_parts; k++)
			ret->really_added += (double)part_file_bytes(&m->parts[k]);
	}
}

static void levelled_done(struct levelled *l)
{
	for (size_t i = 0; i < N_MATRICES; i++)
		method_matrix_done(&l->matrices[i]);
}

/* Components of the parts, one part after the other, are those of the whole. */
static void assert_same_components(const struct part *whole, const struct method_matrix *m)
{
	struct components all;
	struct reason reason = {0};
	uint32_t at = 0;

	assert_int_equal(components_of(whole, &all, &reason), 0);
	for (uint32_t k = 0; k < m->n_parts; k++) {
		const struct part *p = &m->parts[k];
		struct components c;

		assert_int_equal(components_of(p, &c, &reason), 0);
		assert_true(at + c.n <= all.n);
		assert_true(p->record.step == whole->record.step);
		assert_true(p->record.zero == whole->record.zero);
		assert_int_equal(p->record.bits, whole->record.bits);
		assert_memory_equal(c.u, all.u + (size_t)at * ROWS, (size_t)c.n * ROWS);
		assert_memory_equal(c.v, all.v + (size_t)at * COLS, (size_t)c.n * COLS);
		assert_memory_equal(
			c.sigma, all.sigma + at * sizeof(uint16_t), c.n * sizeof(uint16_t));
		at += c.n;
		components_done(&c);
	}
	assert_int_equal(at, all.n);
	components_done(&all);
}

static void apply(const struct part *parts, uint32_t n, float *ret)
{
	struct reason reason = {0};

	memset(ret, 0, (size_t)ROWS * COLS * sizeof(*ret));
	for (uint32_t i = 0; i < n; i++)
		if (part_apply(compute_pool, &parts[i], ret, &reason) < 0)
			fail_msg("%s", reason.text);
}

static void test_parts_together_are_the_whole(void **state)
{
	const struct fixture *f = *state;
	float *whole = malloc((size_t)ROWS * COLS * sizeof(*whole));
	float *sum = malloc((size_t)ROWS * COLS * sizeof(*sum));
	struct levelled l;

	assert_true(whole && sum);
	levels_of(f, INFINITY, &l);
	assert_true(l.n_cuts > N_MATRICES / 2);
	for (size_t i = 0; i < N_MATRICES; i++) {
		const struct method_matrix *m = &l.matrices[i];

		if (!f->parts[i].payload) {
			assert_int_equal(m->n_parts, 0);
			continue;
		}
		if (i != DIRECT)
			assert_same_components(&f->parts[i], m);
		if (i % 2 == 0)
			continue;
		apply(&f->parts[i], 1, whole);
		apply(m->parts, m->n_parts, sum);
		assert_memory_equal(whole, sum, (size_t)ROWS * COLS * sizeof(*whole));
	}
	levelled_done(&l);
	free(whole);
	free(sum);
}

static void test_what_is_in_one_piece_stays_so(void **state)
{
	static const size_t whole[] = {DIRECT, ONE};
	const struct fixture *f = *state;
	struct levelled l;

	levels_of(f, INFINITY, &l);
	for (size_t i = 0; i < array_len(whole); i++) {
		const struct part *p = &f->parts[whole[i]];
		const struct method_matrix *m = &l.matrices[whole[i]];

		assert_int_equal(m->n_parts, 1);
		assert_int_equal(m->parts[0].record.bytes, p->record.bytes);
		assert_memory_equal(m->parts[0].payload, p->payload, p->record.bytes);
	}
	levelled_done(&l);
}

/* What is worth nothing comes last. */
static void test_levels_ascend_and_losses_fall(void **state)
{
	const struct fixture *f = *state;
	struct levelled l;

	levels_of(f, INFINITY, &l);
	for (size_t i = 0; i < N_MATRICES; i++) {
		const struct method_matrix *m = &l.matrices[i];
		double before = LOSS + fmax(0, f->benefits[i]);

		for (uint32_t k = 0; k < m->n_parts; k++) {
			const struct part *p = &m->parts[k];

			assert_true(p->record.level < LEVEL_PLAN_MOST);
			if (k > 0)
				assert_true(p->record.level > p[-1].record.level);
			assert_true(i == USELESS || i == HARMFUL || i == DIRECT || i == ONE ||
				    (double)p->quality.loss < before);
			before = (double)p->quality.loss;
		}
		if (m->n_parts > 0)
			assert_true(before == LOSS);
		if (i == USELESS || i == HARMFUL)
			assert_int_equal(m->parts[0].record.level, LEVEL_PLAN_MOST - 1);
	}
	levelled_done(&l);
}

/* Every further part takes a quality and a gap beside what is counted. */
static void test_it_takes_no_more_than_is_to_spare(void **state)
{
	const double beside = sizeof(struct tensor_quality) + PART_ALIGNMENT / 2;
	const struct fixture *f = *state;
	struct levelled most, l;
	uint32_t last;

	levels_of(f, INFINITY, &most);
	assert_true(most.added > 0);
	last = most.n_cuts;
	for (double share = 1; share > .1; share -= .2) {
		double spare = share * (most.added + most.n_cuts * beside);

		levels_of(f, spare, &l);
		assert_true(l.added == l.really_added);
		assert_true(l.added + l.n_cuts * beside <= spare);
		assert_true(l.n_cuts <= last);
		last = l.n_cuts;
		levelled_done(&l);
	}
	assert_true(last < most.n_cuts);
	levelled_done(&most);
}

/* Whole matrices are at levels, too. */
static void test_without_spare_bytes_nothing_is_taken_apart(void **state)
{
	static const double spares[] = {0, -1000, 100};
	const struct fixture *f = *state;

	for (size_t i = 0; i < array_len(spares); i++) {
		struct levelled l;
		uint32_t seen = 0;

		levels_of(f, spares[i], &l);
		assert_int_equal(l.n_cuts, 0);
		assert_true(l.added == 0 && l.really_added == 0);
		for (size_t m = 0; m < N_MATRICES; m++)
			if (l.matrices[m].n_parts > 0)
				seen |= 1u << l.matrices[m].parts[0].record.level;
		assert_int_equal(seen, (1u << LEVEL_PLAN_MOST) - 1);
		levelled_done(&l);
	}
}

static void test_the_reserve_is_small(void **state)
{
	(void)state;
	assert_true(auto_levels_reserve(2. * LEVEL_PLAN_BYTES - 1, 100) == 0);
	assert_true(auto_levels_reserve(4e6, 100) <= .005 * 4e6);
	assert_true(auto_levels_reserve(4e6, 100) > .004 * 4e6);
	assert_true(auto_levels_reserve(4e9, 100) < .0001 * 4e9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parts_together_are_the_whole),
		cmocka_unit_test(test_what_is_in_one_piece_stays_so),
		cmocka_unit_test(test_levels_ascend_and_losses_fall),
		cmocka_unit_test(test_it_takes_no_more_than_is_to_spare),
		cmocka_unit_test(test_without_spare_bytes_nothing_is_taken_apart),
		cmocka_unit_test(test_the_reserve_is_small),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
