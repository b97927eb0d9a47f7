/*
 * What the sandboxed child may do, and what ends it.
 */
#include "foreign/sandbox.h"

#include "tests/scratch.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct sandbox_limits no_limits;

static int returns_number(void *arg, struct reason *reason)
{
	return reason_set(reason, *(int *)arg, "said the child\n");
}

static void carries_result_and_reason(void **state)
{
	static const int numbers[] = {0, 7, -EBADMSG};

	(void)state;
	for (size_t i = 0; i < array_len(numbers); i++) {
		struct reason reason = {0};
		int number = numbers[i];

		assert_int_equal(
			sandbox_call(returns_number, &number, &no_limits, &reason), number);
		assert_string_equal(reason.text, "said the child?");
	}
}

static int makes_socket(void *arg, struct reason *reason)
{
	(void)arg;
	(void)reason;
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int opens_to_write(void *arg, struct reason *reason)
{
	(void)reason;
	return open(arg, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
}

static int truncates(void *arg, struct reason *reason)
{
	(void)reason;
	return open(arg, O_RDONLY | O_TRUNC | O_CLOEXEC);
}

static int runs_a_program(void *arg, struct reason *reason)
{
	char name[] = "/bin/true";
	char *argv[] = {name, NULL};

	(void)arg;
	(void)reason;
	return execv(argv[0], argv);
}

static int forks(void *arg, struct reason *reason)
{
	pid_t pid = fork();

	(void)arg;
	(void)reason;
	if (pid == 0)
		_exit(0);
	return 0;
}

/* A thread's flags, and one more: the kernel never sees the call. */
static int enters_a_namespace(void *arg, struct reason *reason)
{
	(void)arg;
	(void)reason;
	return (int)syscall(SYS_clone,
		CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_NEWUTS,
		NULL, NULL, NULL, NULL);
}

static int kills_parent(void *arg, struct reason *reason)
{
	(void)arg;
	(void)reason;
	return kill(getppid(), SIGKILL);
}

static int traces_parent(void *arg, struct reason *reason)
{
	(void)arg;
	(void)reason;
	return (int)ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
}

static int removes(void *arg, struct reason *reason)
{
	(void)reason;
	return unlink(arg);
}

static int renames(void *arg, struct reason *reason)
{
	(void)reason;
	return rename(arg, "/tmp/elsewhere");
}

static int makes_code(void *arg, struct reason *reason)
{
	(void)arg;
	(void)reason;
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0) == MAP_FAILED;
}

#ifndef __SANITIZE_THREAD__
static int takes_the_alarm(void *arg, struct reason *reason)
{
	(void)arg;
	(void)reason;
	return signal(SIGSYS, SIG_IGN) == SIG_ERR;
}
#endif

static void ends_what_is_forbidden(void **state)
{
	static const struct {
		int (*fn)(void *arg, struct reason *reason);
		const char *words;
	} acts[] = {
		{makes_socket, "system call socket"},
		{opens_to_write, "system call openat"},
		{truncates, "system call openat"},
		{runs_a_program, "system call execve"},
		{forks, "system call clone"},
		{enters_a_namespace, "system call clone"},
		{kills_parent, "system call kill"},
		{traces_parent, "system call ptrace"},
		{removes, "system call unlink"},
		{renames, "system call rename"},
		{makes_code, "system call mmap"},
#ifndef __SANITIZE_THREAD__ /* whose runtime answers this call itself */
		{takes_the_alarm, "system call rt_sigaction"},
#endif
	};
	char *folder = scratch_folder();
	char *path = scratch_write(folder, "file", "kept", 4);
	struct stat st;

	(void)state;
	for (size_t i = 0; i < array_len(acts); i++) {
		struct reason reason = {0};
		int r = sandbox_call(acts[i].fn, path, &no_limits, &reason);

		if (r != -EPERM || !strstr(reason.text, acts[i].words))
			fail_msg("%s: got %d '%s'", acts[i].words, r, reason.text);
	}
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 4);
	scratch_remove(folder);
	free(path);
	free(folder);
}

static int refuses_ring(void *arg, struct reason *reason)
{
	(void)arg;
	(void)reason;
	return syscall(SYS_io_uring_setup, 1, NULL) < 0 ? -errno : 0;
}

static void refuses_rings_with_an_error(void **state)
{
	struct reason reason = {0};

	(void)state;
	assert_int_equal(sandbox_call(refuses_ring, NULL, &no_limits, &reason), -EPERM);
	assert_string_equal(reason.text, "");
}

struct work {
	int fd;
	const char *path;
	int *shared;
};

static void *add_one(void *arg)
{
	__atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
	return NULL;
}

/* The honest reader's day: threads, a library, reading by name, writing to what is open. */
static int does_its_work(void *arg, struct reason *reason)
{
	struct work *work = arg;
	_cleanup_(closep) int fd = open(work->path, O_RDONLY | O_CLOEXEC);
	char bytes[4];
	pthread_t thread;
	void *library;

	if (fd < 0 || read(fd, bytes, 4) != 4)
		return reason_set(reason, -EIO, "cannot read");
	if (pthread_create(&thread, NULL, add_one, work->shared) != 0 ||
		pthread_join(thread, NULL) != 0)
		return reason_set(reason, -EIO, "cannot make threads");
	library = dlopen("libutil.so.1", RTLD_NOW);
	if (!library)
		return reason_set(reason, -EIO, "cannot load libraries: %s", dlerror());
	dlclose(library);
	if (pwrite(work->fd, bytes, 4, 0) != 4 || ftruncate(work->fd, 4) < 0 || fsync(work->fd) < 0)
		return reason_set(reason, -EIO, "cannot write to what is open");
	return 0;
}

static void allows_honest_work(void **state)
{
	char *folder = scratch_folder();
	char *path = scratch_write(folder, "in", "abcd", 4);
	char *out = scratch_write(folder, "out", "", 0);
	int *shared = sandbox_memory_new(sizeof(*shared));
	struct work work = {.path = path, .shared = shared};
	struct reason reason = {0};
	char bytes[4];
	int r;

	(void)state;
	work.fd = open(out, O_RDWR | O_CLOEXEC);
	r = sandbox_call(does_its_work, &work, &no_limits, &reason);
	if (r != 0)
		fail_msg("%d: %s", r, reason.text);
	assert_int_equal(*shared, 1);
	assert_int_equal(pread(work.fd, bytes, 4, 0), 4);
	assert_memory_equal(bytes, "abcd", 4);
	close(work.fd);
	sandbox_memory_free(shared, sizeof(*shared));
	scratch_remove(folder);
	free(out);
	free(path);
	free(folder);
}

static int writes_in_folder(void *arg, struct reason *reason)
{
	_cleanup_(freep) char *from = scratch_path(arg, "new"), *to = scratch_path(arg, "renamed");
	int fd = open(from, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, "x", 1) != 1 || close(fd) < 0 || rename(from, to) < 0)
		return reason_set(reason, -errno, "cannot write: %s", strerror(errno));
	return 0;
}

static void allows_a_folder(void **state)
{
	char *folder = scratch_folder();
	struct sandbox_limits limits = {.writable_folder = folder};
	char *path = scratch_path(folder, "renamed");
	struct reason reason = {0};
	int r;

	(void)state;
	r = sandbox_call(writes_in_folder, folder, &limits, &reason);
	if (r != 0)
		fail_msg("%d: %s", r, reason.text);
	assert_int_equal(access(path, F_OK), 0);
	scratch_remove(folder);
	free(path);
	free(folder);
}

static int writes_elsewhere(void *arg, struct reason *reason)
{
	(void)reason;
	return open(arg, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) < 0 ? -errno : 0;
}

static void holds_it_to_the_folder(void **state)
{
	char *folder = scratch_folder(), *other = scratch_folder();
	struct sandbox_limits limits = {.writable_folder = folder};
	char *path = scratch_path(other, "new");
	struct reason reason = {0};
	bool landlock =
		syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0;

	(void)state;
	if (landlock) {
		assert_int_equal(sandbox_call(writes_elsewhere, path, &limits, &reason), -EACCES);
		assert_int_equal(access(path, F_OK), -1);
	}
	scratch_remove(folder);
	scratch_remove(other);
	free(path);
	free(other);
	free(folder);
	if (!landlock)
		skip();
}

static int crashes(void *arg, struct reason *reason)
{
	(void)reason;
	return raise(*(int *)arg);
}

static int leaves(void *arg, struct reason *reason)
{
	(void)arg;
	(void)reason;
	_exit(0);
}

static void tells_how_it_ended(void **state)
{
	struct reason reason = {0};
	int signal = SIGTERM;

	(void)state;
	assert_int_equal(sandbox_call(crashes, &signal, &no_limits, &reason), -ECANCELED);
	assert_non_null(strstr(reason.text, "signal 15"));
	signal = SIGKILL;
	assert_int_equal(sandbox_call(crashes, &signal, &no_limits, &reason), -ECANCELED);
	assert_non_null(strstr(reason.text, "was killed"));
	assert_int_equal(sandbox_call(leaves, NULL, &no_limits, &reason), -ECANCELED);
	assert_non_null(strstr(reason.text, "without a result"));
}

static int takes_memory(void *arg, struct reason *reason)
{
	void *memory = malloc(1u << 30);

	(void)arg;
	(void)reason;
	if (!memory)
		return -ENOMEM;
	free(memory);
	return 0;
}

static void limits_memory(void **state)
{
	struct sandbox_limits limits = {.memory_bytes = 512u << 20};
	struct reason reason = {0};

	(void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	skip();
#endif
	assert_int_equal(sandbox_call(takes_memory, NULL, &limits, &reason), -ENOMEM);
	assert_string_equal(reason.text, "the sandboxed reader ran out of memory");
	assert_int_equal(sandbox_call(takes_memory, NULL, &no_limits, &reason), 0);
}

static int waits(void *arg, struct reason *reason)
{
	*(int *)arg = (int)getpid();
	(void)reason;
	for (;;)
		poll(NULL, 0, 1000);
	return 0;
}

/* Runs in a process of its own, which is sent the signal; -ECANCELED comes out as exit code 42. */
static void call_and_exit(int *child)
{
	struct reason reason = {0};
	int r = sandbox_call(waits, child, &no_limits, &reason);

	_exit(r == -ECANCELED && strstr(reason.text, "stopped by signal") ? 42 : 1);
}

static void ends_with_its_parent(void **state)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGKILL};
	int *child = sandbox_memory_new(sizeof(*child));
	int status;

	(void)state;
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
	for (size_t i = 0; i < array_len(signals); i++) {
		pid_t caller;

		*child = 0;
		caller = fork();
		if (caller == 0)
			call_and_exit(child);
		while (__atomic_load_n(child, __ATOMIC_ACQUIRE) == 0)
			usleep(1000);
		assert_int_equal(kill(caller, signals[i]), 0);
		assert_int_equal(waitpid(caller, &status, 0), caller);
		if (signals[i] != SIGKILL)
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
		/* The orphan, if the caller left one, is ours now. */
		while (waitpid(*child, &status, 0) < 0 && errno == EINTR)
			;
		assert_int_equal(kill(*child, 0), -1);
	}
	sandbox_memory_free(child, sizeof(*child));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(carries_result_and_reason),
		cmocka_unit_test(ends_what_is_forbidden),
		cmocka_unit_test(refuses_rings_with_an_error),
		cmocka_unit_test(allows_honest_work),
		cmocka_unit_test(allows_a_folder),
		cmocka_unit_test(holds_it_to_the_folder),
		cmocka_unit_test(tells_how_it_ended),
		cmocka_unit_test(limits_memory),
		cmocka_unit_test(ends_with_its_parent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
