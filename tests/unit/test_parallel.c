/* Every piece is done once, whatever the number of processors. */
#include "store/parallel.h"

#include "common/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>

#include <cmocka.h>

#define MOST 1000

static void count(void *arg, size_t i)
{
	atomic_int *counts = arg;

	atomic_fetch_add(&counts[i], 1);
}

static void test_every_piece_once(void **state)
{
	static const size_t sizes[] = {0, 1, 2, 7, MOST};

	(void)state;
	for (size_t s = 0; s < array_len(sizes); s++) {
		static atomic_int counts[MOST + 1];

		for (size_t i = 0; i <= MOST; i++)
			atomic_store(&counts[i], 0);
		parallel_for(sizes[s], count, counts);
		for (size_t i = 0; i <= MOST; i++)
			assert_int_equal(atomic_load(&counts[i]), i < sizes[s]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_piece_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
