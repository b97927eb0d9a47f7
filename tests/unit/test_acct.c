#include "daemon/acct.h"
#include "daemon/jobs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void test_limits_are_per_user(void **state)
{
	struct charge first = CHARGE_INIT, second = CHARGE_INIT, other = CHARGE_INIT;
	struct acct *acct;

	(void)state;
	assert_int_equal(acct_new(&acct), 0);
	acct_set_limit(acct, ACCT_KIND_REQUESTS, 2);
	assert_int_equal(acct_charge(acct, 7, ACCT_KIND_REQUESTS, 2, &first), 0);
	assert_int_equal(acct_charge(acct, 7, ACCT_KIND_REQUESTS, 1, &second), ACCT_E_LIMIT);
	assert_int_equal(acct_charge(acct, 8, ACCT_KIND_REQUESTS, 1, &other), 0);
	assert_int_equal(acct_charge(acct, 7, ACCT_KIND_CONNECTIONS, 9, &second), 0);
	assert_int_equal(acct_total(acct, ACCT_KIND_REQUESTS), 3);
	assert_int_equal(acct_users(acct), 2);
	charge_release(&first);
	charge_release(&second);
	assert_int_equal(acct_users(acct), 1);
	assert_int_equal(acct_total(acct, ACCT_KIND_CONNECTIONS), 0);
	charge_release(&other);
	charge_release(&other);
	assert_int_equal(acct_users(acct), 0);
	acct_free(acct);
}

static void test_charge_moves(void **state)
{
	struct charge c = CHARGE_INIT, d = CHARGE_INIT;
	struct acct *acct;

	(void)state;
	assert_int_equal(acct_new(&acct), 0);
	acct_set_limit(acct, ACCT_KIND_QUEUED_BYTES, 100);
	assert_int_equal(acct_charge(acct, 7, ACCT_KIND_QUEUED_BYTES, 40, &c), 0);
	assert_int_equal(acct_charge(acct, 7, ACCT_KIND_QUEUED_BYTES, 40, &d), 0);
	assert_int_equal(charge_set(&c, 61), ACCT_E_LIMIT);
	assert_int_equal(acct_total(acct, ACCT_KIND_QUEUED_BYTES), 80);
	assert_int_equal(charge_set(&c, 60), 0);
	/* A limit that shrinks takes nothing back, and less is always allowed. */
	acct_set_limit(acct, ACCT_KIND_QUEUED_BYTES, 10);
	assert_int_equal(charge_set(&c, 50), 0);
	assert_int_equal(charge_set(&c, 51), ACCT_E_LIMIT);
	assert_int_equal(charge_set(&d, UINT64_MAX), ACCT_E_LIMIT);
	charge_release(&c);
	charge_release(&d);
	assert_int_equal(acct_total(acct, ACCT_KIND_QUEUED_BYTES), 0);
	acct_free(acct);
}

/* Requests are only addresses to the table of jobs. */
static void test_job_numbers_are_used_once(void **state)
{
	struct request *a = (struct request *)&state, *b = (struct request *)(&state + 1);
	uint64_t first, second, third;
	struct jobs *jobs;

	assert_int_equal(jobs_new(2, &jobs), 0);
	first = jobs_add(jobs, a);
	second = jobs_add(jobs, b);
	assert_true(first != 0 && second != 0 && first != second);
	assert_int_equal(jobs_add(jobs, a), 0);
	assert_ptr_equal(jobs_find(jobs, first), a);
	jobs_remove(jobs, first);
	assert_null(jobs_find(jobs, first));
	third = jobs_add(jobs, b);
	assert_true(third != first);
	assert_null(jobs_find(jobs, first));
	jobs_remove(jobs, first);
	assert_ptr_equal(jobs_find(jobs, third), b);
	assert_null(jobs_find(jobs, 0));
	jobs_free(jobs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limits_are_per_user),
		cmocka_unit_test(test_charge_moves),
		cmocka_unit_test(test_job_numbers_are_used_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
