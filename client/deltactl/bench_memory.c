#include "client/deltactl/bench_memory.h"

#include "common/clock.h"

#include <string.h>
#include <sys/mman.h>

#define LEAST_BYTES ((size_t)512 << 20)
#define PIECE_BYTES ((size_t)1 << 20)
#define STREAMS 4 /* of a piece, as a product reads its weights */
#define STREAM_BYTES (PIECE_BYTES / STREAMS)
#define AHEAD 3072 /* bytes that are asked for before they are needed */
#define LINE 64

typedef uint64_t line __attribute__((vector_size(LINE)));

struct memory_reader {
	struct pool *pool;
	uint8_t *buffer;
	size_t n_pieces;
	uint64_t *sums; /* of each piece, so that its reads are not left out */
};

static void fill_piece(void *arg, size_t piece, size_t worker)
{
	struct memory_reader *m = arg;

	(void)worker;
	memset(m->buffer + piece * PIECE_BYTES, (int)(1 + piece % 255), PIECE_BYTES);
}

static void read_piece(void *arg, size_t piece, size_t worker)
{
	struct memory_reader *m = arg;
	const uint8_t *from = m->buffer + piece * PIECE_BYTES;
	line sums[STREAMS] = {0};

	(void)worker;
	for (size_t i = 0; i < STREAM_BYTES; i += LINE)
		for (size_t s = 0; s < STREAMS; s++) {
			const uint8_t *at = from + s * STREAM_BYTES + i;

			__builtin_prefetch(at + AHEAD);
			sums[s] ^= *(const line *)(const void *)at;
		}
	sums[0] ^= sums[1] ^ sums[2] ^ sums[3];
	m->sums[piece] = sums[0][0] ^ sums[0][LINE / sizeof(uint64_t) - 1];
}

static size_t buffer_bytes(void)
{
	long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);

	return max_u64(LEAST_BYTES, cache > 0 ? align_up(2 * (uint64_t)cache, PIECE_BYTES) : 0);
}

int memory_reader_new(struct pool *pool, struct memory_reader **ret, struct reason *reason)
{
	_cleanup_(memory_readerp) struct memory_reader *m = calloc(1, sizeof(*m));
	size_t bytes = buffer_bytes();
	void *buffer;

	if (!m)
		return -ENOMEM;
	m->pool = pool;
	buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED)
		return reason_set(reason, -errno, "no memory to read at full rate");
	m->buffer = buffer;
	m->n_pieces = bytes / PIECE_BYTES;
	m->sums = calloc(m->n_pieces, sizeof(*m->sums));
	if (!m->sums)
		return -ENOMEM;
	/* Where huge pages are not to be had, small ones do. */
	(void)madvise(buffer, bytes, MADV_HUGEPAGE);
	pool_run(pool, fill_piece, m, m->n_pieces);
	*ret = take_ptr(m);
	return 0;
}

struct memory_reader *memory_reader_free(struct memory_reader *m)
{
	if (!m)
		return NULL;
	if (m->buffer)
		munmap(m->buffer, m->n_pieces * PIECE_BYTES);
	free(m->sums);
	free(m);
	return NULL;
}

double memory_reader_rate(struct memory_reader *m)
{
	uint64_t start = clock_ns();

	pool_run(m->pool, read_piece, m, m->n_pieces);
	return 1e9 * (double)(m->n_pieces * PIECE_BYTES) / (double)(clock_ns() - start);
}
