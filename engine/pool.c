/*
 * One job at a time. `left` counts the pieces nobody has taken yet and is the only word that
 * workers compete for: whoever lowers it owns a piece, and only then reads what the job is. A job
 * ends when `finished` reaches its pieces, so a worker that was asleep or preempted all the while
 * is not waited for; if it wakes late it finds `left` at zero, or helps with the next job.
 *
 * Sleeping: a worker announces itself in `sleepers`, looks at `left` once more and waits for
 * `wakeups` to move; the caller raises `left` first and looks at `sleepers` second. Both in
 * sequentially consistent order, so one of them sees the other. The caller waits the same way for
 * `finished`, announced in `caller_sleeps`.
 */
#include "engine/pool.h"
#include "common/clock.h"
#include "common/cpus.h"
#include "common/thread.h"

#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>

/* Longer than the gap between two jobs of a step, shorter than a time slice that somebody else
 * could use. */
#define SPIN_NS 20000
/* Longer than a piece of a prompt, which others wait for. Until then a thread offers its CPU to
 * whoever wants it instead of sleeping: to wake an idle CPU takes as long as many a job, and most
 * of all in a virtual machine. */
#define OFFER_NS 1000000
/* Between two looks at the clock, which costs about as much. */
#define SPIN_ROUNDS 4
#define MAX_THREADS 1024

struct worker {
	struct pool *pool;
	pthread_t thread;
	size_t index;
};

struct pool {
	size_t n_workers; /* started; without the caller */
	struct worker *workers;
	bool futile_spin; /* more threads than CPUs: waiting must give the CPU away */

	/* The job; written while `left` is 0, read by owners of a piece. */
	pool_fn *fn;
	void *arg;
	size_t n_pieces;

	_Alignas(64) atomic_uint left;
	_Alignas(64) atomic_uint finished;
	_Alignas(64) atomic_uint sleepers;
	atomic_uint wakeups;
	atomic_bool caller_sleeps;
	atomic_bool stop;
};

static void futex_wait(atomic_uint *word, unsigned int expected)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word, int n)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

struct spin {
	uint64_t begin;
	unsigned int rounds;
	bool offers;
};

/* Passes a moment; false once there were enough of them. */
static bool spin_on(struct spin *s)
{
	uint64_t now;

	if (s->offers)
		sched_yield();
	else
		relax();
	if (++s->rounds % SPIN_ROUNDS)
		return true;
	now = clock_ns();
	if (!s->begin)
		s->begin = now;
	s->offers = now - s->begin > SPIN_NS;
	return now - s->begin < OFFER_NS;
}

/* Takes a piece of whatever job there is; false if none is left. */
static bool take_piece(struct pool *pool, size_t *ret_piece)
{
	unsigned int left = atomic_load_explicit(&pool->left, memory_order_relaxed);

	do {
		if (left == 0)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(
		&pool->left, &left, left - 1, memory_order_acquire, memory_order_relaxed));
	*ret_piece = pool->n_pieces - left;
	return true;
}

static void work(struct pool *pool, size_t worker)
{
	size_t piece;

	while (take_piece(pool, &piece)) {
		/* After the last piece is counted the job may be gone. */
		size_t n_pieces = pool->n_pieces;

		pool->fn(pool->arg, piece, worker);
		if (atomic_fetch_add(&pool->finished, 1) + 1 == n_pieces &&
			atomic_load(&pool->caller_sleeps))
			futex_wake(&pool->finished, 1);
	}
}

static bool spin_for_work(struct pool *pool)
{
	struct spin spin = {0};

	if (pool->futile_spin)
		return false;
	do {
		if (atomic_load_explicit(&pool->left, memory_order_relaxed))
			return true;
	} while (spin_on(&spin));
	return false;
}

static void sleep_for_work(struct pool *pool)
{
	unsigned int wakeups = atomic_load(&pool->wakeups);

	atomic_fetch_add(&pool->sleepers, 1);
	if (!atomic_load(&pool->left) && !atomic_load(&pool->stop))
		futex_wait(&pool->wakeups, wakeups);
	atomic_fetch_sub(&pool->sleepers, 1);
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct pool *pool = worker->pool;

	while (!atomic_load(&pool->stop)) {
		work(pool, worker->index);
		if (!spin_for_work(pool))
			sleep_for_work(pool);
	}
	return NULL;
}

static void wake_workers(struct pool *pool, size_t n)
{
	atomic_fetch_add(&pool->wakeups, 1);
	futex_wake(&pool->wakeups, (int)n);
}

static bool spin_for_end(struct pool *pool)
{
	struct spin spin = {0};

	do {
		if (atomic_load_explicit(&pool->finished, memory_order_acquire) == pool->n_pieces)
			return true;
	} while (!pool->futile_spin && spin_on(&spin));
	return false;
}

static void wait_finished(struct pool *pool)
{
	unsigned int n = (unsigned int)pool->n_pieces, finished;

	if (spin_for_end(pool))
		return;
	atomic_store(&pool->caller_sleeps, true);
	while ((finished = atomic_load(&pool->finished)) != n)
		futex_wait(&pool->finished, finished);
	atomic_store(&pool->caller_sleeps, false);
}

void pool_run(struct pool *pool, pool_fn *fn, void *arg, size_t n_pieces)
{
	if (!pool || n_pieces <= 1 || pool->n_workers == 0) {
		for (size_t i = 0; i < n_pieces; i++)
			fn(arg, i, 0);
		return;
	}
	pool->fn = fn;
	pool->arg = arg;
	pool->n_pieces = n_pieces;
	atomic_store(&pool->finished, 0);
	atomic_store(&pool->left, (unsigned int)n_pieces);
	if (atomic_load(&pool->sleepers))
		wake_workers(pool, min_u64(pool->n_workers, n_pieces - 1));
	work(pool, 0);
	wait_finished(pool);
}

static int start_workers(struct pool *pool, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		struct worker *w = &pool->workers[i];

		*w = (struct worker){.pool = pool, .index = i + 1};
		r = thread_start(&w->thread, NULL, worker_main, w);
		if (r == 0)
			pool->n_workers++;
	}
	return r;
}

int pool_new(size_t n_threads, struct pool **ret, struct reason *reason)
{
	_cleanup_(poolp) struct pool *pool = NULL;
	size_t n = n_threads ? n_threads : min_u64(cpus_usable(), MAX_THREADS);
	int r;

	if (n > MAX_THREADS)
		return reason_set(
			reason, -EINVAL, "%zu threads asked for, at most %d", n, MAX_THREADS);
	pool = aligned_alloc(64, align_up(sizeof(*pool), 64));
	if (!pool)
		return reason_set(reason, -ENOMEM, "no memory for a pool of threads");
	*pool = (struct pool){.futile_spin = n > cpus_usable()};
	pool->workers = calloc(n, sizeof(*pool->workers));
	if (!pool->workers)
		return reason_set(reason, -ENOMEM, "no memory for a pool of threads");
	r = start_workers(pool, n - 1);
	if (r < 0)
		return reason_set(
			reason, r, "cannot start thread %zu of %zu", pool->n_workers + 2, n);
	*ret = take_ptr(pool);
	return 0;
}

size_t pool_threads(const struct pool *pool)
{
	return pool->n_workers + 1;
}

struct pool *pool_free(struct pool *pool)
{
	if (!pool)
		return NULL;
	atomic_store(&pool->stop, true);
	wake_workers(pool, pool->n_workers);
	for (size_t i = 0; i < pool->n_workers; i++)
		pthread_join(pool->workers[i].thread, NULL);
	free(pool->workers);
	free(pool);
	return NULL;
}
