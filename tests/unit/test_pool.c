/*
 * The pool: every piece once, whatever the number of threads; and the parsers of CPU limits.
 */
#include "common/cpus.h"
#include "engine/pool.h"
#include "tests/scratch.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#define MAX_PIECES 1000

struct tally {
	size_t n_workers;
	size_t plain[MAX_PIECES]; /* not atomic: a piece belongs to one worker */
	atomic_size_t total, bad_worker;
};

static void count_piece(void *arg, size_t piece, size_t worker)
{
	struct tally *t = arg;

	t->plain[piece]++;
	t->total++;
	if (worker >= t->n_workers)
		t->bad_worker++;
}

static void test_every_piece_once(void **state)
{
	static const size_t counts[] = {0, 1, 2, 3, 17, MAX_PIECES};

	(void)state;
	for (size_t threads = 1; threads <= 5; threads++) {
		struct pool *pool;

		assert_int_equal(pool_new(threads, &pool, NULL), 0);
		assert_int_equal(pool_threads(pool), threads);
		for (size_t i = 0; i < array_len(counts); i++) {
			struct tally t = {.n_workers = threads};

			pool_run(pool, count_piece, &t, counts[i]);
			assert_int_equal(t.total, counts[i]);
			assert_int_equal(t.bad_worker, 0);
			for (size_t p = 0; p < counts[i]; p++)
				assert_int_equal(t.plain[p], 1);
		}
		pool_free(pool);
	}
}

/* Many short jobs in a row, some after a pause in which the workers fall asleep. */
static void test_many_jobs(void **state)
{
	const struct timespec nap = {.tv_nsec = 500000};
	struct pool *pool;

	(void)state;
	assert_int_equal(pool_new(3, &pool, NULL), 0);
	for (size_t i = 0; i < 3000; i++) {
		struct tally t = {.n_workers = 3};
		size_t n = 2 + i % 5;

		pool_run(pool, count_piece, &t, n);
		assert_int_equal(t.total, n);
		if (i % 100 == 0)
			nanosleep(&nap, NULL);
	}
	pool_free(pool);
}

struct hold_up {
	size_t n_pieces;
	atomic_size_t n_others;
	bool in_time;
};

/* Piece 0 ends only when all others have (or after so long that something is wrong). */
static void hold_up(void *arg, size_t piece, size_t worker)
{
	const struct timespec nap = {.tv_nsec = 1000000};
	struct hold_up *h = arg;

	(void)worker;
	if (piece != 0) {
		h->n_others++;
		return;
	}
	for (int i = 0; i < 20000 && h->n_others < h->n_pieces - 1; i++)
		nanosleep(&nap, NULL);
	h->in_time = h->n_others == h->n_pieces - 1;
}

/* Whoever is held up by one piece does not hold up the others. */
static void test_slow_worker(void **state)
{
	struct hold_up h = {.n_pieces = 9};
	struct pool *pool;

	(void)state;
	assert_int_equal(pool_new(2, &pool, NULL), 0);
	pool_run(pool, hold_up, &h, h.n_pieces);
	assert_true(h.in_time);
	pool_free(pool);
}

static void test_limits(void **state)
{
	struct reason reason = {0};
	struct pool *pool;

	(void)state;
	assert_int_equal(pool_new(1000000, &pool, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "1000000"));
	assert_int_equal(pool_new(0, &pool, &reason), 0);
	assert_int_equal(pool_threads(pool), cpus_usable());
	pool_free(pool);
	assert_null(pool_free(NULL));
}

static void test_quota(void **state)
{
	(void)state;
	assert_int_equal(cpus_of_cpu_max("max 100000\n"), 0);
	assert_int_equal(cpus_of_cpu_max("200000 100000\n"), 2);
	assert_int_equal(cpus_of_cpu_max("150000 100000\n"), 2);
	assert_int_equal(cpus_of_cpu_max("1000 100000\n"), 1);
	assert_int_equal(cpus_of_cpu_max(""), 0);
	assert_int_equal(cpus_of_cpu_max("200000 0\n"), 0);
	assert_int_equal(cpus_of_quota(-1, 100000), 0);
	assert_int_equal(cpus_of_quota(50000, 100000), 1);
	assert_true(cpus_usable() >= 1);
}

static void put(const char *root, const char *name, const char *text)
{
	_cleanup_(freep) char *path = scratch_path(root, name);

	for (char *slash = strchr(path + strlen(root) + 1, '/'); slash;
		slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
		*slash = '/';
	}
	free(scratch_write(root, name, text, strlen(text)));
}

/* The least of a group and of those above it counts, whichever of the two kinds it is of. */
static void test_quota_of_groups(void **state)
{
	_cleanup_(freep) char *root = scratch_folder();

	(void)state;
	assert_int_equal(cpus_of_groups(root), 0);
	put(root, "proc/self/cgroup", "0::/machine/unit.service\n");
	assert_int_equal(cpus_of_groups(root), 0);
	put(root, "sys/fs/cgroup/machine/unit.service/cpu.max", "max 100000\n");
	assert_int_equal(cpus_of_groups(root), 0);
	put(root, "sys/fs/cgroup/machine/cpu.max", "550000 100000\n");
	assert_int_equal(cpus_of_groups(root), 6);
	put(root, "sys/fs/cgroup/machine/unit.service/cpu.max", "300000 100000\n");
	assert_int_equal(cpus_of_groups(root), 3);
	put(root, "sys/fs/cgroup/machine/cpu.max", "20000 10000\n");
	assert_int_equal(cpus_of_groups(root), 2);
	put(root, "sys/fs/cgroup/machine/other.service/cpu.max", "100000 100000\n");
	assert_int_equal(cpus_of_groups(root), 2);
	put(root, "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "100000\n");
	put(root, "sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
	put(root, "proc/self/cgroup", "7:cpuset:/a\n4:cpu,cpuacct:/b\n0::/machine/unit.service\n");
	assert_int_equal(cpus_of_groups(root), 2);
	put(root, "proc/self/cgroup", "7:cpuset:/b\n4:cpuacct,cpu:/a/b\n0::/machine\n");
	assert_int_equal(cpus_of_groups(root), 1);
	scratch_remove(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_piece_once),
		cmocka_unit_test(test_many_jobs),
		cmocka_unit_test(test_slow_worker),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_quota),
		cmocka_unit_test(test_quota_of_groups),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
