/*
 * How fast a file becomes a verified, sealed image, beside what fio reads of the same file in the
 * same run, and what the digest and new memory allow.
 *
 *   bench_load [MEBIBYTES [FOLDER]]     1024 in the working folder; the file is removed at the end
 */
#include "bench/clock.h"
#include "common/clock.h"
#include "common/file.h"
#include "store/parallel.h"
#include "store/reader.h"
#include "store/ring.h"
#include "store/shm.h"
#include "store/writer.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define N_ROUNDS 7

struct bench {
	int fd, direct_fd;
	uint64_t n_bytes;
	uint8_t *buffer; /* n_bytes, touched */
	uint64_t huge_bytes;
};

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

static double seconds_since(uint64_t start_ns)
{
	return (double)(clock_ns() - start_ns) * 1e-9;
}

/* Until it is sealed; that its memory is given back later is nobody's waiting. */
static int load_image(struct bench *b, const struct reader_ops *ops, double *ret_seconds)
{
	_cleanup_(imagep) struct image *image = NULL;
	struct reason reason = {0};
	uint64_t start = clock_ns();
	int r = image_load_through(ops, b->fd, &image, NULL, &reason);

	*ret_seconds = seconds_since(start);
	if (r == 0)
		b->huge_bytes = image->huge_bytes;
	return r;
}

static int load_by_ring(struct bench *b, double *ret_seconds)
{
	return load_image(b, &ring_reader, ret_seconds);
}

static int load_plainly(struct bench *b, double *ret_seconds)
{
	return load_image(b, &plain_reader, ret_seconds);
}

static int ignore_chunk(void *user, const struct read_chunk *chunk, struct reason *reason)
{
	(void)user;
	(void)chunk;
	(void)reason;
	return 0;
}

/* The same reads without digests and shared memory. */
static int read_only(struct bench *b, double *ret_seconds)
{
	struct reason reason = {0};
	const struct read_plan plan = {
		.fd = b->fd,
		.direct_fd = b->direct_fd,
		.end = b->n_bytes,
		.chunk = FORMAT_CHUNK,
		.n_lanes = reader_lanes(div_up(b->n_bytes, FORMAT_CHUNK)),
		.arrived = ignore_chunk,
	};
	uint64_t start = clock_ns();
	int r = reader_run(&ring_reader, &plan, &reason);

	*ret_seconds = seconds_since(start);
	return r;
}

/* What the disk gives: fio with as many threads as ours, each with as many reads of a chunk under
 * way, and a part of the file to itself. */
static int read_by_fio(struct bench *b, double *ret_seconds)
{
	unsigned int n = reader_lanes(div_up(b->n_bytes, FORMAT_CHUNK));
	double kib_per_second = 0;
	char command[512];
	FILE *f;

	snprintf(command, sizeof(command),
		"fio --readonly --name=load --filename=/proc/%d/fd/%d --rw=read --direct=1 --bs=%u "
		"--numjobs=%u --offset_increment=%u%% --size=%u%% --group_reporting --iodepth=%u "
		"--ioengine=io_uring --fixedbufs --registerfiles "
		"--output-format=terse --terse-version=3 | cut -d';' -f7",
		(int)getpid(), b->fd, FORMAT_CHUNK, n, 100 / n, 100 / n, READER_DEPTH);
	f = popen(command, "re");
	if (!f)
		return -errno;
	if (fscanf(f, "%lf", &kib_per_second) != 1)
		kib_per_second = 0;
	pclose(f);
	if (kib_per_second <= 0)
		return -ENOENT;
	*ret_seconds = (double)b->n_bytes / (kib_per_second * 1024);
	return 0;
}

static void digest_chunk(void *arg, size_t i)
{
	struct bench *b = arg;
	uint64_t at = i * FORMAT_CHUNK;

	(void)digest_of(b->buffer + at, min_u64(FORMAT_CHUNK, b->n_bytes - at));
}

static int digest_alone(struct bench *b, double *ret_seconds)
{
	uint64_t start = clock_ns();

	for (size_t i = 0; i < div_up(b->n_bytes, FORMAT_CHUNK); i++)
		digest_chunk(b, i);
	*ret_seconds = seconds_since(start);
	return 0;
}

static int digest_together(struct bench *b, double *ret_seconds)
{
	uint64_t start = clock_ns();

	parallel_for(div_up(b->n_bytes, FORMAT_CHUNK), digest_chunk, b);
	*ret_seconds = seconds_since(start);
	return 0;
}

struct filling {
	struct bench *bench;
	struct shm shm;
	atomic_int error;
};

static void fill_chunk(void *arg, size_t i)
{
	struct filling *f = arg;
	uint64_t at = i * FORMAT_CHUNK, n = min_u64(FORMAT_CHUNK, f->shm.n_bytes - at);
	int r = shm_write(&f->shm, at, f->bench->buffer + at, n);

	if (r < 0)
		atomic_store(&f->error, r);
}

static int fill(struct bench *b, bool together, double *ret_seconds)
{
	struct filling f = {.bench = b};
	uint64_t n = div_up(b->n_bytes, FORMAT_CHUNK), start = clock_ns();
	int r = shm_create("bench", b->n_bytes, &f.shm);

	if (r < 0)
		return r;
	if (together)
		parallel_for(n, fill_chunk, &f);
	else
		for (size_t i = 0; i < n; i++)
			fill_chunk(&f, i);
	*ret_seconds = seconds_since(start);
	shm_done(&f.shm);
	return atomic_load(&f.error);
}

static int fill_alone(struct bench *b, double *ret_seconds)
{
	return fill(b, false, ret_seconds);
}

static int fill_together(struct bench *b, double *ret_seconds)
{
	return fill(b, true, ret_seconds);
}

static const struct {
	const char *what;
	int (*run)(struct bench *b, double *ret_seconds);
	bool of_disk;
} runs[] = {
	{"fio: direct, io_uring, same blocks, depth and threads", read_by_fio, true},
	{"ours: direct, io_uring, nothing else", read_only, true},
	{"image by io_uring: read, verified, sealed", load_by_ring, true},
	{"image by plain reads", load_plainly, true},
	{"SHA-256 of each chunk, one thread", digest_alone, false},
	{"SHA-256 of each chunk, all threads", digest_together, false},
	{"new shared memory, one thread", fill_alone, false},
	{"new shared memory, all threads", fill_together, false},
};

/* All in every round, another one first each time: what else the machine does, and what the disk
 * remembers of the read before, meets them alike. */
static void measure(struct bench *b, double seconds[array_len(runs)][N_ROUNDS], int errors[])
{
	for (size_t round = 0; round < N_ROUNDS; round++)
		for (size_t turn = 0; turn < array_len(runs); turn++) {
			size_t i = (turn + round) % array_len(runs);
			int r;

			(void)posix_fadvise(b->fd, 0, 0, POSIX_FADV_DONTNEED);
			r = runs[i].run(b, &seconds[i][round]);
			if (r < 0)
				errors[i] = r;
		}
}

static void print_all(
	struct bench *b, double seconds[array_len(runs)][N_ROUNDS], const int errors[])
{
	double n_bytes = (double)b->n_bytes, fio = 0;

	for (size_t i = 0; i < array_len(runs); i++) {
		double *s = seconds[i], rate;

		printf("%-54s ", runs[i].what);
		if (errors[i] < 0) {
			puts(strerror(-errors[i]));
			continue;
		}
		qsort(s, N_ROUNDS, sizeof(*s), compare_doubles);
		rate = n_bytes / s[N_ROUNDS / 2] * 1e-9;
		if (runs[i].run == read_by_fio)
			fio = rate;
		printf("%5.2f GB/s (%.2f to %.2f)", rate, n_bytes / s[N_ROUNDS - 1] * 1e-9,
			n_bytes / s[0] * 1e-9);
		if (fio > 0 && runs[i].of_disk && runs[i].run != read_by_fio)
			printf(", %.0f %% of fio", 100 * rate / fio);
		puts("");
	}
	printf("%u threads, %.0f %% of the image in huge pages; medians of %d rounds, cold\n",
		reader_lanes(div_up(b->n_bytes, FORMAT_CHUNK)),
		100 * (double)b->huge_bytes / n_bytes, N_ROUNDS);
}

static int open_direct(int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

int main(int argc, char **argv)
{
	uint64_t n_bytes = (argc > 1 ? strtoull(argv[1], NULL, 10) : 1024) << 20;
	const char *folder = argc > 2 ? argv[2] : ".";
	double seconds[array_len(runs)][N_ROUNDS];
	int errors[array_len(runs)] = {0};
	struct reason reason = {0};
	struct bench b = {0};
	int r;

	b.fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (b.fd < 0) {
		fprintf(stderr, "bench_load: %s: %s\n", folder, strerror(errno));
		return 1;
	}
	r = make_file(b.fd, n_bytes, &reason);
	b.direct_fd = open_direct(b.fd);
	b.n_bytes = (uint64_t)lseek(b.fd, 0, SEEK_END);
	b.buffer = mmap(NULL, b.n_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (r < 0 || b.direct_fd < 0 || b.buffer == MAP_FAILED) {
		fprintf(stderr, "bench_load: %s\n", r < 0 ? reason.text : strerror(errno));
		return 1;
	}
	measure(&b, seconds, errors);
	print_all(&b, seconds, errors);
	close(b.direct_fd);
	close(b.fd);
	return 0;
}
