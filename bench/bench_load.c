/*
 * How fast a file becomes a verified, sealed image, beside what the disk, the digest and fresh
 * memory allow in the same run.
 *
 *   bench_load [MEBIBYTES [FOLDER]]     1024 in the working folder; the file is removed at the end
 */
#include "common/file.h"
#include "store/reader.h"
#include "store/ring.h"
#include "store/shm.h"
#include "store/writer.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define N_RUNS 5

struct bench {
	int fd;
	uint64_t n_bytes;
	const struct reader_ops *ops;
	bool cold;
	uint8_t *buffer; /* n_bytes, touched */
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int make_file(int fd, uint64_t n_bytes, struct reason *reason)
{
	_cleanup_(freep) uint64_t *chunk = malloc(FORMAT_CHUNK);
	const struct digest model = {.bytes = {1}};
	uint64_t state = 88172645463325252u;
	struct writer *w;
	int r;

	if (!chunk)
		return -ENOMEM;
	r = writer_begin(fd, IMAGE_KIND_BASE, n_bytes, &w, reason);
	if (r == 0)
		r = writer_section_begin(w, SECTION_WEIGHTS, FORMAT_WEIGHTS_ALIGNMENT);
	for (uint64_t done = 0; r == 0 && done < n_bytes; done += FORMAT_CHUNK) {
		for (size_t i = 0; i < FORMAT_CHUNK / sizeof(*chunk); i++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			chunk[i] = state;
		}
		r = writer_append(w, chunk, FORMAT_CHUNK);
	}
	if (r == 0)
		r = writer_section_end(w);
	if (r == 0)
		r = writer_finish(w, &model, NULL, NULL, reason);
	writer_free(w);
	return r < 0 || fsync(fd) == 0 ? r : -errno;
}

static int load_image(struct bench *b)
{
	struct image *image = NULL;
	struct reason reason = {0};
	int r = image_load_through(b->ops, b->fd, &image, NULL, &reason);

	image_free(image);
	return r;
}

static int ignore_chunk(void *user, uint64_t index, struct reason *reason)
{
	(void)user;
	(void)index;
	(void)reason;
	return 0;
}

/* The same reads without digests, into memory that is already there: what the disk gives. */
static int read_raw(struct bench *b, int direct_fd)
{
	struct reason reason = {0};
	const struct read_plan plan = {
		.fd = b->fd,
		.direct_fd = direct_fd,
		.to = b->buffer,
		.end = b->n_bytes,
		.chunk = FORMAT_CHUNK,
		.arrived = ignore_chunk,
	};

	return reader_run(b->ops, &plan, &reason);
}

static int read_direct(struct bench *b)
{
	char path[32];
	_cleanup_(closep) int fd = -1;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", b->fd);
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	return fd < 0 ? -errno : read_raw(b, fd);
}

static int read_buffered(struct bench *b)
{
	return read_raw(b, -1);
}

static int digest_memory(struct bench *b)
{
	for (uint64_t at = 0; at < b->n_bytes; at += FORMAT_CHUNK)
		(void)digest_of(b->buffer + at, min_u64(FORMAT_CHUNK, b->n_bytes - at));
	return 0;
}

static int touch_new_memory(struct bench *b)
{
	struct shm shm;
	int r = shm_create("bench", b->n_bytes, &shm);

	if (r < 0)
		return r;
	for (uint64_t at = 0; at < b->n_bytes; at += 4096)
		shm.bytes[at] = 1;
	shm_done(&shm);
	return 0;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int measure(struct bench *b, const char *what, int (*run)(struct bench *))
{
	double seconds[N_RUNS];

	for (size_t i = 0; i < N_RUNS; i++) {
		double start;
		int r;

		if (b->cold)
			(void)posix_fadvise(b->fd, 0, 0, POSIX_FADV_DONTNEED);
		start = now();
		r = run(b);
		seconds[i] = now() - start;
		if (r < 0) {
			printf("%-52s %s\n", what, strerror(-r));
			return r;
		}
	}
	qsort(seconds, N_RUNS, sizeof(*seconds), compare_doubles);
	printf("%-52s %6.2f GB/s  (median of %d, %.2f to %.2f)\n", what,
		(double)b->n_bytes / seconds[N_RUNS / 2] * 1e-9, N_RUNS,
		(double)b->n_bytes / seconds[N_RUNS - 1] * 1e-9,
		(double)b->n_bytes / seconds[0] * 1e-9);
	return 0;
}

static void measure_all(struct bench *b)
{
	static const struct {
		const char *what;
		const struct reader_ops *ops;
		bool cold;
		int (*run)(struct bench *);
	} runs[] = {
		{"memory: first touch of shared memory", NULL, false, touch_new_memory},
		{"memory: SHA-256 of each chunk", NULL, false, digest_memory},
		{"cold: direct reads by io_uring, nothing else", &ring_reader, true, read_direct},
		{"cold: direct reads one by one, nothing else", &plain_reader, true, read_direct},
		{"cold: plain reads, nothing else", &plain_reader, true, read_buffered},
		{"cold: image by io_uring", &ring_reader, true, load_image},
		{"cold: image by plain reads", &plain_reader, true, load_image},
		{"warm: plain reads, nothing else", &plain_reader, false, read_buffered},
		{"warm: image by io_uring", &ring_reader, false, load_image},
		{"warm: image by plain reads", &plain_reader, false, load_image},
	};

	for (size_t i = 0; i < array_len(runs); i++) {
		b->ops = runs[i].ops;
		b->cold = runs[i].cold;
		(void)measure(b, runs[i].what, runs[i].run);
	}
}

int main(int argc, char **argv)
{
	uint64_t n_bytes = (argc > 1 ? strtoull(argv[1], NULL, 10) : 1024) << 20;
	const char *folder = argc > 2 ? argv[2] : ".";
	struct reason reason = {0};
	struct bench b = {0};
	int r;

	b.fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (b.fd < 0) {
		fprintf(stderr, "bench_load: %s: %s\n", folder, strerror(errno));
		return 1;
	}
	r = make_file(b.fd, n_bytes, &reason);
	b.n_bytes = (uint64_t)lseek(b.fd, 0, SEEK_END);
	b.buffer = mmap(NULL, b.n_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (r < 0 || b.buffer == MAP_FAILED) {
		fprintf(stderr, "bench_load: %s\n", reason.text);
		return 1;
	}
	measure_all(&b);
	close(b.fd);
	return 0;
}
