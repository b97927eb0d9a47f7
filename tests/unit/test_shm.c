/* Shared memory: filled by several threads, sealed, and where its pages come from. */
#include "store/nodes.h"
#include "store/parallel.h"
#include "store/shm.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cmocka.h>

#define PIECE 300000u /* its ends are at no page's */
#define N_PIECES 23u

struct filling {
	struct shm shm;
	atomic_int n_failed;
};

static uint8_t byte_at(uint64_t at)
{
	return (uint8_t)(at * 2654435761u >> 11);
}

static void fill_piece(void *arg, size_t i)
{
	struct filling *f = arg;
	static _Thread_local uint8_t piece[PIECE];

	for (uint64_t k = 0; k < PIECE; k++)
		piece[k] = byte_at(i * PIECE + k);
	if (shm_write(&f->shm, i * PIECE, piece, PIECE) < 0)
		atomic_fetch_add(&f->n_failed, 1);
}

static void all_pieces_are_there_when_sealed(void **state)
{
	struct filling f = {.n_failed = 0};

	(void)state;
	assert_int_equal(shm_create("test", N_PIECES * PIECE, &f.shm), 0);
	parallel_for(N_PIECES, fill_piece, &f);
	assert_int_equal(f.n_failed, 0);
	assert_int_equal(shm_seal(&f.shm), 0);
	for (uint64_t at = 0; at < N_PIECES * PIECE; at++)
		assert_int_equal(f.shm.bytes[at], byte_at(at));
	assert_true(f.shm.huge_bytes <= f.shm.mapped_bytes);
	assert_true(f.shm.n_nodes >= 1);
	shm_done(&f.shm);
}

/* Another way in than this machine's own: with or without a mapping. */
static void write_otherwise(struct shm *shm, bool mapped)
{
	if (shm->room)
		munmap(shm->room, shm->mapped_bytes);
	shm->room = NULL;
	if (mapped) {
		void *at = mmap(
			NULL, shm->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, shm->fd, 0);

		assert_ptr_not_equal(at, MAP_FAILED);
		shm->room = at;
	}
}

/* Every way in: this machine's own, and each of the two that others have. */
static void both_ways_of_writing_agree(void **state)
{
	(void)state;
	for (int mapped = 0; mapped < 2; mapped++) {
		struct filling f = {.n_failed = 0};

		assert_int_equal(shm_create("test", N_PIECES * PIECE, &f.shm), 0);
		if (f.shm.reserved)
			skip(); /* reserved huge pages are written by mapping only */
		write_otherwise(&f.shm, mapped);
		parallel_for(N_PIECES, fill_piece, &f);
		assert_int_equal(f.n_failed, 0);
		assert_int_equal(shm_seal(&f.shm), 0);
		for (uint64_t at = 0; at < N_PIECES * PIECE; at++)
			assert_int_equal(f.shm.bytes[at], byte_at(at));
		shm_done(&f.shm);
	}
}

/* Memory that cannot grow, what a full machine says; where it is mapped, no signal either. */
static void running_out_is_an_error(void **state)
{
	(void)state;
	for (int mapped = 0; mapped < 2; mapped++) {
		struct filling f = {.n_failed = 0};

		assert_int_equal(shm_create("test", N_PIECES * PIECE, &f.shm), 0);
		if (f.shm.reserved)
			skip(); /* those shrink by huge pages */
		write_otherwise(&f.shm, mapped);
		assert_int_equal(ftruncate(f.shm.fd, PIECE), 0);
		assert_int_equal(fcntl(f.shm.fd, F_ADD_SEALS, F_SEAL_GROW), 0);
		fill_piece(&f, 0);
		assert_int_equal(f.n_failed, 0);
		fill_piece(&f, 1);
		assert_int_equal(f.n_failed, 1);
		shm_done(&f.shm);
	}
}

static int policy_of(const void *at, unsigned long mask[static 1])
{
	unsigned long bits[NODES_MAX / (8 * sizeof(unsigned long))];
	int mode;

	assert_int_equal(
		syscall(SYS_get_mempolicy, &mode, bits, (unsigned long)NODES_MAX, at, MPOL_F_ADDR),
		0);
	mask[0] = bits[0];
	return mode;
}

static void memory_is_spread_over_nodes(void **state)
{
	struct nodes allowed, first = {.n = 1};
	unsigned long mask;
	void *at;

	(void)state;
	nodes_allowed(&allowed);
	if (allowed.n == 0)
		skip(); /* a kernel without memory nodes */
	at = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(at, MAP_FAILED);
	assert_int_equal(policy_of(at, &mask), MPOL_DEFAULT);
	assert_int_equal(nodes_interleave(at, PIECE, &allowed), 0);
	assert_int_equal(policy_of(at, &mask), MPOL_INTERLEAVE);
	assert_int_equal(mask, allowed.bits[0]);
	/* A node that no machine has all of. */
	first.bits[array_len(first.bits) - 1] = 1ul << (8 * sizeof(unsigned long) - 1);
	assert_int_equal(nodes_interleave(at, PIECE, &first), -EINVAL);
	munmap(at, PIECE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_pieces_are_there_when_sealed),
		cmocka_unit_test(both_ways_of_writing_agree),
		cmocka_unit_test(running_out_is_an_error),
		cmocka_unit_test(memory_is_spread_over_nodes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
