/*
 * Reading when reads go wrong: every kind of trouble at every read, and nothing under way
 * afterwards.
 */
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
#include <sys/wait.h>

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
	TROUBLE_OPEN,         /* -ENOMEM from open */
};

/* Plain reads with one trouble, completed newest first so that chunks arrive out of order. */
static struct {
	enum trouble trouble;
	unsigned int at; /* which read */
	int direct_fd;
	unsigned int n_submitted, n_completed;
	bool open, cancelled;
	unsigned int n_waiting;
	unsigned int waiting[READER_DEPTH];
	struct read_request requests[READER_DEPTH];
} faulty;

static int faulty_open(void *memory, uint64_t n_bytes, void **ret_state)
{
	assert_true(n_bytes > 0 && (uintptr_t)memory % 4096 == 0);
	if (faulty.trouble == TROUBLE_OPEN)
		return -ENOMEM;
	faulty.open = true;
	*ret_state = &faulty;
	return 0;
}

static int faulty_submit(void *state, unsigned int slot, const struct read_request *request)
{
	(void)state;
	assert_true(faulty.open && !faulty.cancelled && slot < READER_DEPTH);
	assert_true(request->n_bytes > 0);
	for (unsigned int i = 0; i < faulty.n_waiting; i++)
		assert_int_not_equal(faulty.waiting[i], slot);
	if (faulty.n_submitted++ == faulty.at && faulty.trouble == TROUBLE_SUBMIT)
		return -ENOMEM;
	faulty.requests[slot] = *request;
	faulty.waiting[faulty.n_waiting++] = slot;
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
	(void)state;
	assert_true(faulty.n_waiting > 0);
	*ret_slot = faulty.waiting[--faulty.n_waiting];
	*ret_result = faulty.cancelled ? -ECANCELED
				       : result_of(&faulty.requests[*ret_slot], faulty.n_completed);
	faulty.n_completed++;
	return 0;
}

static void faulty_cancel(void *state)
{
	(void)state;
	faulty.cancelled = true;
}

static void faulty_close(void *state)
{
	(void)state;
	assert_int_equal(faulty.n_waiting, 0);
	faulty.open = false;
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

static int run_faulty(struct file *f, enum trouble trouble, unsigned int at, struct reason *reason)
{
	int r;

	memset(&faulty, 0, sizeof(faulty));
	faulty.trouble = trouble;
	faulty.at = at;
	faulty.direct_fd = trouble == TROUBLE_NO_DIRECT ? dup(f->fd) : -1;
	f->stop_at = UINT64_MAX;
	r = run(f, &faulty_reader, 1, reason);
	assert_false(faulty.open);
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
		for (unsigned int at = 0; at < N_CHUNKS; at++) {
			assert_int_equal(run_faulty(f, troubles[i], at, NULL), 0);
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
		for (unsigned int at = 0; at < N_CHUNKS; at++) {
			struct reason reason = {0};

			assert_int_equal(
				run_faulty(f, cases[i].trouble, at, &reason), cases[i].error);
			assert_non_null(strstr(reason.text, cases[i].words));
		}
	assert_int_equal(run_faulty(f, TROUBLE_OPEN, 0, NULL), -ENOMEM);
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

static void both_ways_read_the_same(void **state)
{
	static const struct reader_ops *const readers[] = {&plain_reader, &ring_reader};
	struct file *f = *state;

	faulty.direct_fd = -1;
	f->stop_at = UINT64_MAX;
	for (size_t i = 0; i < array_len(readers); i++)
		for (unsigned int n_lanes = 1; n_lanes <= READER_MAX_LANES; n_lanes++) {
			struct reason reason = {0};

			assert_int_equal(run(f, readers[i], n_lanes, &reason), 0);
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

#define with_file(test) cmocka_unit_test_setup_teardown(test, make_file, drop_file)

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_file(passing_trouble_is_overcome),
		with_file(lasting_trouble_ends_the_reading),
		with_file(a_refused_chunk_ends_the_reading),
		with_file(both_ways_read_the_same),
		with_file(a_file_that_ends_early_is_an_error),
		cmocka_unit_test(a_failed_load_leaves_nothing),
		cmocka_unit_test(forbidden_io_uring_is_told_and_read_without),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
