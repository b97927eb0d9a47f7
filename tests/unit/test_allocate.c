/* The budget of many tensors against an exhaustive search over their choices. */
#include "compress/allocate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum {
	N_TENSORS = 5,
	N_CHOICES = 8,
};

/* Loss w 4^-bits, as noise goes, at a size of bits; the choice is the tensor's. */
struct toy {
	double weight, unit;
	double chosen_bytes, chosen_loss;
	uint32_t n_calls;
};

static struct rate_loss choice_of(const struct toy *t, int bits)
{
	return (struct rate_loss){.bytes = t->unit * bits, .loss = t->weight * pow(.25, bits)};
}

static int encode(void *self, double lambda, struct rate_loss *ret, struct reason *reason)
{
	struct toy *t = self;
	struct rate_loss best = choice_of(t, 0);

	(void)reason;
	for (int bits = 1; bits < N_CHOICES; bits++) {
		struct rate_loss p = choice_of(t, bits);

		if (p.loss + lambda * p.bytes < best.loss + lambda * best.bytes)
			best = p;
	}
	t->chosen_bytes = best.bytes;
	t->chosen_loss = best.loss;
	t->n_calls++;
	*ret = best;
	return 0;
}

/* A size that follows lambda without steps. */
static int encode_smoothly(void *self, double lambda, struct rate_loss *ret, struct reason *reason)
{
	struct toy *t = self;
	double bits = fmax(0, .5 * log2(t->weight / lambda / t->unit));

	(void)reason;
	t->chosen_bytes = ret->bytes = t->unit * bits;
	t->chosen_loss = ret->loss = t->weight * pow(.25, bits);
	return 0;
}

struct fixture {
	struct toy toys[N_TENSORS];
	struct allocate_tensor tensors[N_TENSORS];
	struct pool *pool;
	struct allocate_settings settings;
};

static int set_up(void **state)
{
	static struct fixture f;
	struct reason reason = {0};

	for (int i = 0; i < N_TENSORS; i++) {
		f.toys[i] = (struct toy){.weight = pow(5, i), .unit = 10 + 3 * i};
		f.tensors[i] = (struct allocate_tensor){.encode = encode, .self = &f.toys[i]};
	}
	f.settings = (struct allocate_settings){
		.tensors = f.tensors, .n = N_TENSORS, .first = 1, .slack = .01, .stage = "testing"};
	*state = &f;
	return pool_new(2, &f.pool, &reason) < 0 ? -1 : (f.settings.pool = f.pool, 0);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	pool_free(f->pool);
	return 0;
}

static struct rate_loss standing(const struct fixture *f)
{
	struct rate_loss sum = {0};

	for (int i = 0; i < N_TENSORS; i++) {
		sum.bytes += f->toys[i].chosen_bytes;
		sum.loss += f->toys[i].chosen_loss;
	}
	return sum;
}

/* The lowest loss of all combinations of at most `bytes`. */
static double least_loss(const struct fixture *f, double bytes)
{
	double best = INFINITY;

	for (int number = 0; number < 1 << 3 * N_TENSORS; number++) {
		struct rate_loss sum = {0};

		for (int i = 0; i < N_TENSORS; i++) {
			struct rate_loss p = choice_of(&f->toys[i], number >> 3 * i & 7);

			sum.bytes += p.bytes;
			sum.loss += p.loss;
		}
		if (sum.bytes <= bytes)
			best = fmin(best, sum.loss);
	}
	return best;
}

static void test_nothing_better_takes_as_little(void **state)
{
	struct fixture *f = *state;

	for (double bytes = 10; bytes < 560; bytes *= 1.4) {
		struct allocation a;
		struct rate_loss sum;

		assert_int_equal(allocate_bytes(&f->settings, bytes, &a, NULL), 0);
		sum = standing(f);
		assert_true(sum.bytes <= bytes);
		assert_true(fabs(sum.bytes - a.sum.bytes) < 1e-9);
		assert_true(fabs(sum.loss - a.sum.loss) < 1e-9);
		assert_true(sum.loss <= least_loss(f, sum.bytes) * (1 + 1e-9));
	}
}

static void test_the_budget_is_used(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < N_TENSORS; i++)
		f->tensors[i].encode = encode_smoothly;
	for (double bytes = 20; bytes < 1200; bytes *= 1.7) {
		struct allocation a;

		assert_int_equal(allocate_bytes(&f->settings, bytes, &a, NULL), 0);
		assert_true(standing(f).bytes <= bytes);
		assert_true(standing(f).bytes >= .99 * bytes);
		assert_true(a.n_trials < 20);
	}
	for (int i = 0; i < N_TENSORS; i++)
		f->tensors[i].encode = encode;
}

static void test_more_room_than_anybody_wants(void **state)
{
	struct fixture *f = *state;
	struct allocation a;
	double most = 0;

	for (int i = 0; i < N_TENSORS; i++)
		most += choice_of(&f->toys[i], N_CHOICES - 1).bytes;
	assert_int_equal(allocate_bytes(&f->settings, 1e6, &a, NULL), 0);
	assert_true(fabs(a.sum.bytes - most) < 1e-9);
}

static int fixed_size(void *self, double lambda, struct rate_loss *ret, struct reason *reason)
{
	(void)self;
	(void)lambda;
	(void)reason;
	*ret = (struct rate_loss){.bytes = 100, .loss = 1};
	return 0;
}

static void test_no_room_is_said(void **state)
{
	struct fixture *f = *state;
	const struct allocate_tensor tensor = {.encode = fixed_size};
	struct allocate_settings settings = f->settings;
	struct reason reason = {0};
	struct allocation a;

	settings.tensors = &tensor;
	settings.n = 1;
	assert_int_equal(allocate_bytes(&settings, 99, &a, &reason), -ERANGE);
	assert_non_null(strstr(reason.text, "at most 99"));
	assert_int_equal(allocate_bytes(&settings, 100, &a, &reason), 0);
}

static int measure(void *user, double *ret, struct reason *reason)
{
	(void)reason;
	*ret = standing(user).loss;
	return 0;
}

static void test_quality_is_reached_with_few_bytes(void **state)
{
	struct fixture *f = *state;

	for (double limit = 100; limit > .1; limit /= 3) {
		struct allocation a, smaller;
		struct rate_loss sum;

		assert_int_equal(allocate_quality(&f->settings, measure, f, limit, &a, NULL), 0);
		sum = standing(f);
		assert_true(sum.loss <= limit);
		if (sum.bytes == 0)
			continue;
		assert_int_equal(allocate_bytes(&f->settings, sum.bytes - 1, &smaller, NULL), 0);
		assert_true(standing(f).loss > limit);
	}
}

/* Nothing is lost up to some lambda, and much beyond. */
static int measure_steps(void *user, double *ret, struct reason *reason)
{
	(void)reason;
	*ret = standing(user).loss > .75 ? .5 : 0;
	return 0;
}

static void test_a_limit_of_nothing_is_approached(void **state)
{
	struct fixture *f = *state;
	struct allocate_settings settings = f->settings;
	struct reason reason = {0};
	struct allocation a;
	struct rate_loss sum;

	settings.first = 1e-6;
	settings.nearest = 1.1;
	assert_int_equal(allocate_quality(&settings, measure_steps, f, 0, &a, &reason), 0);
	assert_true(a.lambda > 1e-6);
	assert_true(standing(f).loss <= .75);
	assert_int_equal(allocate_at(&settings, a.lambda * 1.1, &sum, &reason), 0);
	assert_true(standing(f).loss > .75);
}

static int failing(void *self, double lambda, struct rate_loss *ret, struct reason *reason)
{
	(void)self;
	(void)lambda;
	(void)ret;
	return reason_set(reason, -EDOM, "layer 3 is broken");
}

static void test_a_failure_goes_up(void **state)
{
	struct fixture *f = *state;
	const struct allocate_tensor tensors[] = {f->tensors[0], {.encode = failing}};
	struct allocate_settings settings = f->settings;
	struct reason reason = {0};
	struct allocation a;

	settings.tensors = tensors;
	settings.n = 2;
	assert_int_equal(allocate_bytes(&settings, 50, &a, &reason), -EDOM);
	assert_non_null(strstr(reason.text, "layer 3 is broken"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_better_takes_as_little),
		cmocka_unit_test(test_the_budget_is_used),
		cmocka_unit_test(test_more_room_than_anybody_wants),
		cmocka_unit_test(test_no_room_is_said),
		cmocka_unit_test(test_quality_is_reached_with_few_bytes),
		cmocka_unit_test(test_a_limit_of_nothing_is_approached),
		cmocka_unit_test(test_a_failure_goes_up),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
