/*
 * Reading when reads go wrong: every kind of trouble at every read, and nothing under way
 * afterwards.
 */
#include "common/cpus.h"
#include "store/image.h"
#include "store/reader.h"
#include "store/ring.h"
#include "tests/small_image.h"

#include <seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define CHUNK 4096
#define N_CHUNKS 40
#define N_BYTES (N_CHUNKS * CHUNK - 100)
#define BEGIN 512

enum trouble {
	TROUBLE_NONE,
	TROUBLE_SHORT,        /* half of what was asked for, for every read from the Nth on */
	TROUBLE_INTERRUPTED,  /* -EINTR once */
	TROUBLE_AGAIN,        /* -EAGAIN once */
	TROUBLE_AGAIN_ALWAYS, /* -EAGAIN for every read from the Nth on */
	TROUBLE_END,          /* 0 */
	TROUBLE_IO,           /* -EIO */
	TROUBLE_NO_DIRECT,    /* -EINVAL for every read of the direct descriptor */
	TROUBLE_SUBMIT,       /* -ENOMEM from submit */
	TROUBLE_OPEN,         /* -ENOMEM from the Nth open on */
	TROUBLE_SLOW,         /* ENOMEM from open: all is well, but slower */
};

static void pause_ms(long ms)
{
	(void)nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* The trouble of all lanes, whose reads are counted together. */
static struct {
	enum trouble trouble;
	unsigned int at; /* which read, or which lane's opening */
	int direct_fd;
	unsigned int n_expected; /* lanes: no read ends before so many were to be opened */
	atomic_uint n_submitted, n_completed;
	atomic_uint n_asked, n_opened, n_closed;
	atomic_uint n_cancelled; /* lanes */
} faulty;

/* A lane: plain reads, completed newest first so that chunks arrive out of order. */
struct faulty_lane {
	bool cancelled;
	unsigned int n_waiting;
	unsigned int waiting[READER_DEPTH];
	struct read_request requests[READER_DEPTH];
};

static int faulty_open(void *memory, uint64_t n_bytes, void **ret_state)
{
	assert_true(n_bytes > 0 && (uintptr_t)memory % 4096 == 0);
	faulty.n_asked++;
	if (faulty.trouble == TROUBLE_OPEN && faulty.n_opened >= faulty.at)
		return -ENOMEM;
	faulty.n_opened++;
	*ret_state = calloc(1, sizeof(struct faulty_lane));
	return faulty.trouble == TROUBLE_SLOW ? ENOMEM : 0;
}

static int faulty_submit(void *state, unsigned int slot, const struct read_request *request)
{
	struct faulty_lane *lane = state;

	assert_true(!lane->cancelled && slot < READER_DEPTH);
	assert_true(request->n_bytes > 0);
	for (unsigned int i = 0; i < lane->n_waiting; i++)
		assert_int_not_equal(lane->waiting[i], slot);
	if (faulty.n_submitted++ == faulty.at && faulty.trouble == TROUBLE_SUBMIT)
		return -ENOMEM;
	lane->requests[slot] = *request;
	lane->waiting[lane->n_waiting++] = slot;
	return 0;
}

static int result_of(const struct read_request *q, unsigned int n)
{
	bool now = n == faulty.at, since = n >= faulty.at;
	uint64_t n_bytes = q->n_bytes;

	if (faulty.trouble == TROUBLE_NO_DIRECT && q->fd == faulty.direct_fd)
		return -EINVAL;
	if (since && faulty.trouble == TROUBLE_AGAIN_ALWAYS)
		return -EAGAIN;
	if (now && faulty.trouble == TROUBLE_INTERRUPTED)
		return -EINTR;
	if (now && faulty.trouble == TROUBLE_AGAIN)
		return -EAGAIN;
	if (now && faulty.trouble == TROUBLE_END)
		return 0;
	if (now && faulty.trouble == TROUBLE_IO)
		return -EIO;
	if (since && faulty.trouble == TROUBLE_SHORT)
		n_bytes = (n_bytes + 1) / 2;
	return (int)pread(q->fd, q->to, n_bytes, (off_t)q->offset);
}

static int faulty_complete(void *state, unsigned int *ret_slot, int *ret_result)
{
	struct faulty_lane *lane = state;

	assert_true(lane->n_waiting > 0);
	for (int ms = 0; ms < 5000 && !lane->cancelled && faulty.n_asked < faulty.n_expected; ms++)
		pause_ms(1);
	*ret_slot = lane->waiting[--lane->n_waiting];
	*ret_result = lane->cancelled ? -ECANCELED
				      : result_of(&lane->requests[*ret_slot], faulty.n_completed++);
	return 0;
}

static void faulty_cancel(void *state)
{
	struct faulty_lane *lane = state;

	assert_true(lane->n_waiting > 0);
	lane->cancelled = true;
	faulty.n_cancelled++;
}

static void faulty_close(void *state)
{
	struct faulty_lane *lane = state;

	assert_int_equal(lane->n_waiting, 0);
	faulty.n_closed++;
	free(lane);
}

static const struct reader_ops faulty_reader = {
	.open = faulty_open,
	.submit = faulty_submit,
	.complete = faulty_complete,
	.cancel = faulty_cancel,
	.close = faulty_close,
};

struct file {
	int fd;
	uint8_t content[BEGIN + N_BYTES];
	atomic_uint arrived[N_CHUNKS];
	uint64_t stop_at; /* the chunk whose arrival is answered with -EBADMSG */
};

static int arrived(void *user, const struct read_chunk *chunk, struct reason *reason)
{
	struct file *f = user;
	uint64_t at = chunk->index * CHUNK;

	assert_true(chunk->index < N_CHUNKS);
	assert_int_equal(chunk->n_bytes, min_u64(CHUNK, N_BYTES - at));
	f->arrived[chunk->index]++;
	assert_memory_equal(chunk->bytes, f->content + BEGIN + at, chunk->n_bytes);
	return chunk->index == f->stop_at ? reason_set(reason, -EBADMSG, "told to stop") : 0;
}

static int make_file(void **state)
{
	struct file *f = calloc(1, sizeof(*f));

	f->fd = memfd_create("reader", MFD_CLOEXEC);
	for (size_t i = 0; i < sizeof(f->content); i++)
		f->content[i] = (uint8_t)(i * 2654435761u >> 13);
	assert_int_equal(pwrite(f->fd, f->content, sizeof(f->content), 0), sizeof(f->content));
	*state = f;
	return 0;
}

static int drop_file(void **state)
{
	struct file *f = *state;

	close(f->fd);
	free(f);
	return 0;
}

static int run(
	struct file *f, const struct reader_ops *ops, unsigned int n_lanes, struct reason *reason)
{
	const struct read_plan plan = {
		.fd = f->fd,
		.direct_fd = faulty.direct_fd,
		.begin = BEGIN,
		.end = BEGIN + N_BYTES,
		.chunk = CHUNK,
		.n_lanes = n_lanes,
		.arrived = arrived,
		.user = f,
	};

	memset(f->arrived, 0, sizeof(f->arrived));
	return reader_run(ops, &plan, reason);
}

/* Lanes that are sure to have a thread each. */
static unsigned int most_lanes(void)
{
	return cpus_usable() < 2 ? 1 : 2;
}

static int run_faulty(struct file *f, enum trouble trouble, unsigned int at, unsigned int n_lanes,
	struct reason *reason)
{
	int r;

	memset(&faulty, 0, sizeof(faulty));
	faulty.trouble = trouble;
	faulty.at = at;
	faulty.n_expected = n_lanes < most_lanes() ? n_lanes : most_lanes();
	faulty.direct_fd = trouble == TROUBLE_NO_DIRECT ? dup(f->fd) : -1;
	f->stop_at = UINT64_MAX;
	r = run(f, &faulty_reader, n_lanes, reason);
	assert_int_equal(faulty.n_closed, faulty.n_opened);
	if (faulty.direct_fd >= 0)
		close(faulty.direct_fd);
	faulty.direct_fd = -1;
	return r;
}

static void assert_complete(const struct file *f)
{
	for (size_t i = 0; i < N_CHUNKS; i++)
		assert_int_equal(f->arrived[i], 1);
}

static void passing_trouble_is_overcome(void **state)
{
	static const enum trouble troubles[] = {
		TROUBLE_NONE, TROUBLE_SHORT, TROUBLE_INTERRUPTED, TROUBLE_AGAIN, TROUBLE_NO_DIRECT};
	struct file *f = *state;

	for (size_t i = 0; i < array_len(troubles); i++)
		for (unsigned int k = 0; k < N_CHUNKS * most_lanes(); k++) {
			assert_int_equal(
				run_faulty(f, troubles[i], k % N_CHUNKS, k / N_CHUNKS + 1, NULL),
				0);
			assert_complete(f);
		}
}

/* Lanes after the first are a matter of speed. */
static void a_lane_that_does_not_open_is_done_without(void **state)
{
	struct file *f = *state;

	for (unsigned int n_lanes = 1; n_lanes <= READER_MAX_LANES; n_lanes++) {
		struct reason reason = {0};

		assert_int_equal(run_faulty(f, TROUBLE_OPEN, 0, n_lanes, &reason), -ENOMEM);
		assert_non_null(strstr(reason.text, "cannot prepare reading"));
		assert_int_equal(run_faulty(f, TROUBLE_OPEN, 1, n_lanes, NULL), 0);
		assert_complete(f);
		assert_int_equal(faulty.n_opened, 1);
	}
}

static void slower_reading_is_told(void **state)
{
	struct file *f = *state;

	for (unsigned int n_lanes = 1; n_lanes <= READER_MAX_LANES; n_lanes++) {
		assert_int_equal(run_faulty(f, TROUBLE_SLOW, 0, n_lanes, NULL), ENOMEM);
		assert_complete(f);
	}
}

static void lasting_trouble_ends_the_reading(void **state)
{
	static const struct {
		enum trouble trouble;
		int error;
		const char *words;
	} cases[] = {
		{TROUBLE_IO, -EIO, "Input/output error"},
		{TROUBLE_END, -ENODATA, "the file ends at"},
		{TROUBLE_AGAIN_ALWAYS, -EAGAIN, "cannot read at"},
		{TROUBLE_SUBMIT, -ENOMEM, "cannot start reading"},
	};
	struct file *f = *state;

	for (size_t i = 0; i < array_len(cases); i++)
		for (unsigned int k = 0; k < N_CHUNKS * most_lanes(); k++) {
			struct reason reason = {0};

			assert_int_equal(run_faulty(f, cases[i].trouble, k % N_CHUNKS,
						 k / N_CHUNKS + 1, &reason),
				cases[i].error);
			assert_non_null(strstr(reason.text, cases[i].words));
		}
}

static void a_refused_chunk_ends_the_reading(void **state)
{
	static const struct reader_ops *const readers[] = {&plain_reader, &ring_reader};
	struct file *f = *state;

	faulty.direct_fd = -1;
	for (size_t i = 0; i < array_len(readers); i++)
		for (f->stop_at = 0; f->stop_at < N_CHUNKS; f->stop_at++) {
			struct reason reason = {0};
			unsigned int n_lanes = f->stop_at % 3 + 1;

			assert_int_equal(run(f, readers[i], n_lanes, &reason), -EBADMSG);
			assert_string_equal(reason.text, "told to stop");
		}
}

struct meeting {
	atomic_bool begun, met;
	atomic_uint n_others;
};

/* The first arrival waits for one of another lane, and fails. All others are thus of other lanes,
 * and slow, so that these have reads under way when that happens. */
static int arrived_in_meeting(void *user, const struct read_chunk *chunk, struct reason *reason)
{
	struct meeting *m = user;

	(void)chunk;
	if (atomic_exchange(&m->begun, true)) {
		atomic_fetch_add(&m->n_others, 1);
		atomic_store(&m->met, true);
		pause_ms(20);
		return 0;
	}
	for (unsigned int ms = 0; ms < 10000 && !atomic_load(&m->met); ms++)
		pause_ms(1);
	return atomic_load(&m->met) ? reason_set(reason, -EBADMSG, "told to stop")
				    : reason_set(reason, -ETIMEDOUT, "nobody came");
}

static void a_failing_lane_stops_the_other(void **state)
{
	static const struct reader_ops *const readers[] = {
		&faulty_reader, &plain_reader, &ring_reader};
	const struct file *f = *state;

	if (most_lanes() < 2)
		skip();
	memset(&faulty, 0, sizeof(faulty));
	for (size_t i = 0; i < array_len(readers); i++) {
		struct meeting m = {.n_others = 0};
		struct reason reason = {0};
		const struct read_plan plan = {
			.fd = f->fd,
			.direct_fd = -1,
			.begin = BEGIN,
			.end = BEGIN + N_BYTES,
			.chunk = CHUNK,
			.n_lanes = 2,
			.arrived = arrived_in_meeting,
			.user = &m,
		};

		assert_int_equal(reader_run(readers[i], &plan, &reason), -EBADMSG);
		assert_string_equal(reason.text, "told to stop");
		assert_in_range(m.n_others, 1, N_CHUNKS - READER_DEPTH - 1);
	}
	assert_int_equal(faulty.n_opened, 2);
	assert_int_equal(faulty.n_cancelled, 2);
	assert_int_equal(faulty.n_closed, 2);
}

static void both_ways_read_the_same(void **state)
{
	static const struct reader_ops *const readers[] = {&plain_reader, &ring_reader};
	struct file *f = *state;

	faulty.direct_fd = -1;
	f->stop_at = UINT64_MAX;
	for (size_t i = 0; i < array_len(readers); i++)
		for (unsigned int n_lanes = 1; n_lanes <= READER_MAX_LANES; n_lanes++) {
			struct reason reason = {0};

			/* More than 0: more slowly. */
			assert_true(run(f, readers[i], n_lanes, &reason) >= 0);
			assert_complete(f);
		}
}

static void a_file_that_ends_early_is_an_error(void **state)
{
	static const struct reader_ops *const readers[] = {&plain_reader, &ring_reader};
	struct file *f = *state;

	faulty.direct_fd = -1;
	f->stop_at = UINT64_MAX;
	for (size_t i = 0; i < array_len(readers); i++) {
		struct reason reason = {0};

		assert_int_equal(ftruncate(f->fd, BEGIN + N_BYTES - 3 * CHUNK), 0);
		assert_int_equal(run(f, readers[i], (unsigned int)i + 1, &reason), -ENODATA);
		assert_non_null(strstr(reason.text, "the file ends at"));
	}
}

/* The whole way through image_load, for every read that it makes. */
static void a_failed_load_leaves_nothing(void **state)
{
	static const enum trouble troubles[] = {TROUBLE_IO, TROUBLE_END, TROUBLE_SUBMIT};
	_cleanup_(closep) int fd = small_base_file();
	size_t before = open_descriptors();
	unsigned int n_failed = 0;

	(void)state;
	for (size_t i = 0; i < array_len(troubles); i++)
		for (unsigned int at = 0; at < 8; at++) {
			struct image *image = NULL;
			struct reason reason = {0};

			memset(&faulty, 0, sizeof(faulty));
			faulty.trouble = troubles[i];
			faulty.at = at;
			if (image_load_through(&faulty_reader, fd, &image, NULL, &reason) < 0) {
				n_failed++;
				assert_null(image);
				assert_true(reason.text[0] != '\0');
			}
			image_free(image);
			assert_int_equal(open_descriptors(), before);
		}
	assert_true(n_failed >= 3);
}

static int load_without_io_uring(int fd, int error)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	struct image *image;

	if (!filter || seccomp_rule_add(filter, SCMP_ACT_ERRNO((uint32_t)error),
			       SCMP_SYS(io_uring_setup), 0) < 0)
		return 2;
	if (seccomp_load(filter) < 0)
		return 3;
	seccomp_release(filter);
	if (image_load(fd, &image, NULL, NULL) < 0)
		return 4;
	if (image->io_uring_refused != error)
		return 5;
	image_free(image);
	return 0;
}

static void forbidden_io_uring_is_told_and_read_without(void **state)
{
	static const int errors[] = {EPERM, EACCES, ENOSYS};
	_cleanup_(closep) int fd = small_base_file();

	(void)state;
	for (size_t i = 0; i < array_len(errors); i++) {
		pid_t child = fork();
		int status;

		if (child == 0)
			_exit(load_without_io_uring(fd, errors[i]));
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
}

/* Without the privilege to lock what one likes. */
static int load_with_little_locked(int fd)
{
	const struct rlimit limit = {.rlim_cur = 128 << 10, .rlim_max = 128 << 10};
	struct image *image;

	if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0)
		return 2;
	if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
		return 3;
	if (image_load(fd, &image, NULL, NULL) < 0)
		return 4;
	if (!image->io_uring_refused && image->registration_refused != ENOMEM)
		return 5;
	image_free(image);
	return 0;
}

static void memory_that_may_not_be_locked_is_told(void **state)
{
	_cleanup_(closep) int fd = small_base_file();
	pid_t child = fork();
	int status;

	(void)state;
	if (child == 0)
		_exit(load_with_little_locked(fd));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

#define with_file(test) cmocka_unit_test_setup_teardown(test, make_file, drop_file)

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_file(passing_trouble_is_overcome),
		with_file(lasting_trouble_ends_the_reading),
		with_file(a_lane_that_does_not_open_is_done_without),
		with_file(slower_reading_is_told),
		with_file(a_refused_chunk_ends_the_reading),
		with_file(a_failing_lane_stops_the_other),
		with_file(both_ways_read_the_same),
		with_file(a_file_that_ends_early_is_an_error),
		cmocka_unit_test(a_failed_load_leaves_nothing),
		cmocka_unit_test(forbidden_io_uring_is_told_and_read_without),
		cmocka_unit_test(memory_that_may_not_be_locked_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
