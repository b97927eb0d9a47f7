/* Codings of one projection at several lambdas: what they lose and take, by definition. */
#include "compress/ladder.h"

#include "common/random.h"
#include "compress/part_values.h"
#include "kernels/blas.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum {
	ROWS = 96,
	COLS = 160,
	N_RUNGS = 5,
};

struct fixture {
	float *delta;
	float *moments[2];
	struct metric *exact_g, *exact_h; /* in double */
	struct metric *g, *h;
	struct pool *pool;
};

static double number(uint64_t seed, uint64_t at)
{
	return 2 * random_share(random_at(seed, at)) - 1;
}

static float *moments_of(uint32_t n, uint64_t seed)
{
	float *m = calloc((size_t)n * n, sizeof(*m));

	assert_non_null(m);
	for (uint32_t k = 0; k < n; k++)
		for (uint32_t i = 0; i < n; i++)
			for (uint32_t j = 0; j < n; j++)
				m[(size_t)i * n + j] +=
					(float)(number(seed, (uint64_t)k * n + i) *
						number(seed, (uint64_t)k * n + j) / (k + 1.));
	return m;
}

/* A few strong components and noise. */
static float *change(void)
{
	float *x = malloc((size_t)ROWS * COLS * sizeof(*x));

	assert_non_null(x);
	for (uint64_t r = 0; r < ROWS; r++)
		for (uint64_t c = 0; c < COLS; c++) {
			double sum = .2 * number(1, r * COLS + c);

			for (uint64_t k = 0; k < 6; k++)
				sum += number(2 + k, r) * number(20 + k, c) / (1. + (double)k);
			x[r * COLS + c] = (float)sum;
		}
	return x;
}

static int set_up(void **state)
{
	static struct fixture f;
	struct reason reason = {0};

	assert_int_equal(blas_load(1, &reason), 0);
	assert_int_equal(pool_new(2, &f.pool, &reason), 0);
	f.delta = change();
	f.moments[0] = moments_of(ROWS, 100);
	f.moments[1] = moments_of(COLS, 200);
	assert_int_equal(metric_new(f.moments[0], ROWS, 1, &f.exact_g, &reason), 0);
	assert_int_equal(metric_new(f.moments[1], COLS, .3, &f.exact_h, &reason), 0);
	assert_int_equal(metric_new_feedback(f.pool, f.moments[0], ROWS, 1, &f.g, &reason), 0);
	assert_int_equal(metric_new_feedback(f.pool, f.moments[1], COLS, .3, &f.h, &reason), 0);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	free(f->delta);
	free(f->moments[0]);
	free(f->moments[1]);
	metric_free(f->exact_g);
	metric_free(f->exact_h);
	metric_free(f->g);
	metric_free(f->h);
	pool_free(f->pool);
	return 0;
}

static struct ladder_settings settings_of(const struct fixture *f, double bits)
{
	return (struct ladder_settings){
		.place = {.role = ROLE_Q, .rows = ROWS, .cols = COLS},
		.delta = f->delta,
		.g = f->g,
		.h = f->h,
		.n_rungs = N_RUNGS,
		.bits = bits,
		.max_components = ROWS,
		.pool = f->pool,
	};
}

static void make(const struct ladder_settings *s, struct ladder *ret)
{
	struct reason reason = {0};

	if (ladder_make(s, ret, &reason) < 0)
		fail_msg("%s", reason.text);
}

/* Half of tr(G E H E^T) of what a reader does not get. */
static double loss_of(const struct fixture *f, const struct part *part)
{
	float *left = calloc((size_t)ROWS * COLS, sizeof(*left));
	struct reason reason = {0};
	double loss;

	assert_non_null(left);
	if (part)
		assert_int_equal(part_apply(f->pool, part, left, &reason), 0);
	for (size_t i = 0; i < (size_t)ROWS * COLS; i++)
		left[i] = f->delta[i] - left[i];
	assert_int_equal(metric_loss(f->exact_g, f->exact_h, left, &loss), 0);
	free(left);
	return loss / 2;
}

static void test_losses_and_bytes_are_those_of_the_parts(void **state)
{
	static const double bits[] = {.25, 1, 3};
	const struct fixture *f = *state;

	for (size_t i = 0; i < array_len(bits); i++) {
		const struct ladder_settings s = settings_of(f, bits[i]);
		_cleanup_(ladder_done) struct ladder l = {0};

		make(&s, &l);
		assert_true(l.n_entries >= 3);
		for (size_t e = 0; e < l.n_entries; e++) {
			const struct rate_loss *p = &l.entries[e].point;
			const struct part *part = e ? &l.parts[l.entries[e].tag] : NULL;
			double loss = loss_of(f, part);

			assert_true(fabs(p->loss / loss - 1) < 2e-3);
			assert_true(p->bytes == (part ? (double)part_file_bytes(part) : 0));
			assert_true(!part || part->quality.loss == (float)p->loss);
		}
		assert_int_equal(l.entries[0].tag, LADDER_NOTHING);
		assert_int_equal(l.n_parts, l.n_entries - 1);
	}
}

/* The wanted size is within the menu, whatever the numbers' scale. */
static void test_the_first_guess_surrounds_the_wanted_bits(void **state)
{
	struct fixture f = *(const struct fixture *)*state;
	_cleanup_(freep) float *scaled = malloc((size_t)ROWS * COLS * sizeof(*scaled));

	assert_non_null(scaled);
	for (double scale = 1e-4; scale < 1e4; scale *= 1e3)
		for (double bits = .5; bits <= 4; bits *= 2) {
			struct ladder_settings s = settings_of(&f, bits);
			_cleanup_(ladder_done) struct ladder l = {0};
			double wanted = bits * ROWS * COLS / 8;

			for (size_t i = 0; i < (size_t)ROWS * COLS; i++)
				scaled[i] = (float)(scale * (double)f.delta[i]);
			s.delta = scaled;
			make(&s, &l);
			assert_true(l.entries[1].point.bytes < wanted);
			assert_true(l.entries[l.n_entries - 1].point.bytes > wanted);
		}
}

static void test_lambdas_are_taken(void **state)
{
	const double lambdas[] = {1e-3, 1e-4};
	struct ladder_settings s = settings_of(*state, 0);
	_cleanup_(ladder_done) struct ladder coarse = {0}, both = {0};

	s.max_components = 0;
	s.lambdas = lambdas;
	s.n_rungs = 1;
	make(&s, &coarse);
	s.n_rungs = 2;
	make(&s, &both);
	assert_int_equal(coarse.n_entries, 2);
	assert_int_equal(both.n_entries, 3);
	assert_true(both.entries[1].point.bytes == coarse.entries[1].point.bytes);
	assert_true(both.entries[2].point.loss < both.entries[1].point.loss);
}

static void test_threads_do_not_matter(void **state)
{
	struct ladder_settings s = settings_of(*state, 1);
	_cleanup_(poolp) struct pool *one = NULL;
	_cleanup_(ladder_done) struct ladder a = {0}, b = {0};
	struct reason reason = {0};

	assert_int_equal(pool_new(1, &one, &reason), 0);
	make(&s, &a);
	s.pool = one;
	make(&s, &b);
	assert_int_equal(a.n_parts, b.n_parts);
	for (size_t i = 0; i < a.n_parts; i++) {
		assert_int_equal(a.parts[i].record.bytes, b.parts[i].record.bytes);
		assert_memory_equal(
			a.parts[i].payload, b.parts[i].payload, a.parts[i].record.bytes);
	}
}

static void test_numbers_that_are_not_finite_are_refused(void **state)
{
	struct fixture f = *(const struct fixture *)*state;
	_cleanup_(freep) float *bad = malloc((size_t)ROWS * COLS * sizeof(*bad));
	struct ladder_settings s = settings_of(&f, 1);
	struct reason reason = {0};
	struct ladder l;

	assert_non_null(bad);
	memcpy(bad, f.delta, (size_t)ROWS * COLS * sizeof(*bad));
	bad[77] = NAN;
	s.delta = bad;
	assert_int_equal(ladder_make(&s, &l, &reason), -EDOM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_losses_and_bytes_are_those_of_the_parts),
		cmocka_unit_test(test_the_first_guess_surrounds_the_wanted_bits),
		cmocka_unit_test(test_lambdas_are_taken),
		cmocka_unit_test(test_threads_do_not_matter),
		cmocka_unit_test(test_numbers_that_are_not_finite_are_refused),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
