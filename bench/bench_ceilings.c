/*
 * What this machine allows: memory read by one thread and by all of them, and multiplications and
 * additions a second of each instruction that the kernels use, from registers. The best of several
 * runs, for a ceiling is what was ever reached.
 *
 *   bench_ceilings [--tsv]      --tsv: as numbers for bench/roofline.sh
 */
#include "bench/ceilings.h"
#include "bench/tiles.h"
#include "common/clock.h"
#include "engine/pool.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define MEMORY_BYTES ((size_t)1 << 30) /* beyond the caches */
#define N_TRIES 9

#ifdef __x86_64__

struct bench {
	uint8_t *memory;
	size_t n_threads;
	const struct ceiling *ceiling;
};

struct ceiling {
	const char *set, *what;
	void (*run)(const struct bench *b, size_t thread);
	double operations; /* of one run of one thread; 0: it reads its part of the memory */
};

static void read_part(const struct bench *b, size_t thread)
{
	size_t part = MEMORY_BYTES / b->n_threads & ~(size_t)4095;
	float sink[32];

	ceiling_read(b->memory + thread * part, part, sink);
}

#define REPEATS 20

#define OF_REGISTERS(name)                                                                         \
	static void run_##name(const struct bench *b, size_t thread)                               \
	{                                                                                          \
		float data[16 * CEILING_CHAINS] = {0};                                             \
                                                                                                   \
		(void)b;                                                                           \
		(void)thread;                                                                      \
		for (int i = 0; i < REPEATS; i++)                                                  \
			ceiling_##name(data);                                                      \
	}

OF_REGISTERS(fma_avx2)
OF_REGISTERS(fma_avx512)
OF_REGISTERS(dot_bf16)
OF_REGISTERS(dot_int8)

static void run_tiles_bf16(const struct bench *b, size_t thread)
{
	(void)b;
	(void)thread;
	for (int i = 0; i < REPEATS; i++)
		tiles_from_registers();
}

static void run_tiles_int8(const struct bench *b, size_t thread)
{
	(void)b;
	(void)thread;
	for (int i = 0; i < REPEATS; i++)
		tiles_from_registers_int8();
}

static const struct ceiling ceilings[] = {
	{"avx2", "memory reads", read_part, 0},
	{"avx2", "fp32 FMA, 256 bits", run_fma_avx2, REPEATS *CEILING_STEPS * 2 * 8},
	{"avx512", "fp32 FMA, 512 bits", run_fma_avx512, REPEATS *CEILING_STEPS * 2 * 16},
	{"avx512_bf16", "bf16 dot product", run_dot_bf16, REPEATS *CEILING_STEPS * 2 * 32},
	{"avx512", "int8 dot product", run_dot_int8, REPEATS *CEILING_STEPS * 2 * 64},
	{"amx", "bf16 tiles", run_tiles_bf16, REPEATS * 4 * TILE_OPERATIONS *TILE_ROUNDS},
	{"amx", "int8 tiles", run_tiles_int8, REPEATS * 8 * TILE_OPERATIONS *TILE_ROUNDS},
};

static bool has(const struct cpu_features *cpu, const char *set)
{
	struct kernels k;

	if (strcmp(set, "avx2") == 0)
		return cpu->avx2;
	if (strcmp(set, "avx512") == 0)
		return cpu->avx512;
	if (strcmp(set, "avx512_bf16") == 0)
		return cpu->avx512_bf16;
	/* Leave to use tiles is asked for when the set is selected. */
	return cpu->amx && kernels_select(&k, set, NULL) == 0;
}

static void run_one(void *arg, size_t piece, size_t worker)
{
	const struct bench *b = arg;

	(void)worker;
	b->ceiling->run(b, piece);
}

static double best_seconds(struct bench *b, struct pool *pool)
{
	double best = 0;

	for (int i = 0; i < N_TRIES; i++) {
		uint64_t start = clock_ns();
		double seconds;

		pool_run(pool, run_one, b, b->n_threads);
		seconds = (double)(clock_ns() - start) * 1e-9;
		if (i == 0 || seconds < best)
			best = seconds;
	}
	return best;
}

static void measure(struct bench *b, const struct ceiling *c, struct pool *pool, bool tsv)
{
	const size_t n_threads = pool_threads(pool);
	double operations = (double)n_threads * c->operations, seconds;
	double bytes = c->operations > 0 ? 0 : (double)MEMORY_BYTES;

	b->ceiling = c;
	b->n_threads = n_threads;
	seconds = best_seconds(b, pool);
	if (tsv)
		printf("ceiling\t%s\t%s\t%zu\t%.0f\t%.0f\t%.4g\n", c->set, c->what, n_threads,
			bytes, operations, seconds);
	else
		printf("%-20s %2zu thread%s %8.1f %s\n", c->what, n_threads,
			n_threads == 1 ? " " : "s", 1e-9 * (bytes + operations) / seconds,
			bytes > 0 ? "GB/s" : "GOP/s");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const bool tsv = argc > 1 && strcmp(argv[1], "--tsv") == 0;
	const struct cpu_features cpu = cpu_features_detect();
	_cleanup_(poolp) struct pool *one = NULL;
	_cleanup_(poolp) struct pool *all = NULL;
	struct reason reason = {0};
	struct bench b = {0};

	if (pool_new(1, &one, &reason) < 0 || pool_new(0, &all, &reason) < 0) {
		fprintf(stderr, "bench_ceilings: %s\n", reason.text);
		return 1;
	}
	b.memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (b.memory == MAP_FAILED) {
		fprintf(stderr, "bench_ceilings: %s\n", strerror(errno));
		return 1;
	}
	(void)madvise(b.memory, MEMORY_BYTES, MADV_HUGEPAGE);
	memset(b.memory, 1, MEMORY_BYTES);
	for (size_t i = 0; i < array_len(ceilings); i++) {
		if (!has(&cpu, ceilings[i].set))
			continue;
		measure(&b, &ceilings[i], one, tsv);
		if (pool_threads(all) > 1)
			measure(&b, &ceilings[i], all, tsv);
	}
	munmap(b.memory, MEMORY_BYTES);
	return 0;
}

#else

int main(void)
{
	puts("no ceilings are known for this processor");
	return 0;
}

#endif
