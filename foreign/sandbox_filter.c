#include "foreign/sandbox_filter.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* Address sanitizers reserve terabytes of address space, so it cannot be limited under them. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ADDRESS_SPACE_LIMITED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
	__has_feature(memory_sanitizer)
#define ADDRESS_SPACE_LIMITED 0
#endif
#endif
#ifndef ADDRESS_SPACE_LIMITED
#define ADDRESS_SPACE_LIMITED 1
#endif

#define OPEN_TO_WRITE                                                                              \
	(O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND | (O_TMPFILE & ~O_DIRECTORY))

/* A thread, run by root, could otherwise enter namespaces of its own. */
#define CLONE_NEW_ANY                                                                              \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |             \
		CLONE_NEWPID | CLONE_NEWNET)

/* Allowed whatever the arguments: memory, time, signals to itself, files that are open, the look of
 * files that are not. */
static const int allowed[] = {
	SCMP_SYS(access),
	SCMP_SYS(arch_prctl),
	SCMP_SYS(brk),
	SCMP_SYS(clock_getres),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(close),
	SCMP_SYS(copy_file_range),
	SCMP_SYS(dup),
	SCMP_SYS(eventfd2),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	SCMP_SYS(faccessat),
	SCMP_SYS(faccessat2),
	SCMP_SYS(fadvise64),
	SCMP_SYS(fallocate),
	SCMP_SYS(fdatasync),
	SCMP_SYS(fstat),
	SCMP_SYS(fstatfs),
	SCMP_SYS(fsync),
	SCMP_SYS(ftruncate),
	SCMP_SYS(futex),
	SCMP_SYS(getcpu),
	SCMP_SYS(getcwd),
	SCMP_SYS(getdents64),
	SCMP_SYS(getegid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getgid),
	SCMP_SYS(getpid),
	SCMP_SYS(getppid),
	SCMP_SYS(getrandom),
	SCMP_SYS(getrlimit),
	SCMP_SYS(getrusage),
	SCMP_SYS(gettid),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(getuid),
	SCMP_SYS(lseek),
	SCMP_SYS(madvise),
	SCMP_SYS(memfd_create),
	SCMP_SYS(mincore),
	SCMP_SYS(mlock),
	SCMP_SYS(mremap),
	SCMP_SYS(munlock),
	SCMP_SYS(munmap),
	SCMP_SYS(nanosleep),
	SCMP_SYS(newfstatat),
	SCMP_SYS(pipe2),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(pread64),
	SCMP_SYS(preadv),
	SCMP_SYS(pwrite64),
	SCMP_SYS(pwritev),
	SCMP_SYS(read),
	SCMP_SYS(readahead),
	SCMP_SYS(readlink),
	SCMP_SYS(readlinkat),
	SCMP_SYS(readv),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(rseq),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sched_get_priority_max),
	SCMP_SYS(sched_get_priority_min),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(sched_getparam),
	SCMP_SYS(sched_getscheduler),
	SCMP_SYS(sched_yield),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(set_tid_address),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(stat),
	SCMP_SYS(lstat),
	SCMP_SYS(statfs),
	SCMP_SYS(statx),
	SCMP_SYS(sync_file_range),
	SCMP_SYS(sysinfo),
	SCMP_SYS(umask),
	SCMP_SYS(uname),
	SCMP_SYS(write),
	SCMP_SYS(writev),
};

/* Allowed besides where a folder may be written to. */
static const int allowed_in_folder[] = {
	SCMP_SYS(open),
	SCMP_SYS(openat),
	SCMP_SYS(fchmod),
	SCMP_SYS(mkdir),
	SCMP_SYS(mkdirat),
	SCMP_SYS(rename),
	SCMP_SYS(renameat),
	SCMP_SYS(renameat2),
	SCMP_SYS(rmdir),
	SCMP_SYS(unlink),
	SCMP_SYS(unlinkat),
};

/* Answered with an error, because libraries try these and do without. clone3 hides its flags behind
 * a pointer; the C library falls back to clone. */
static const struct {
	int number;
	int error;
} refused[] = {
	{SCMP_SYS(clone3), ENOSYS},
	{SCMP_SYS(openat2), ENOSYS},
	{SCMP_SYS(membarrier), ENOSYS},
	{SCMP_SYS(io_uring_setup), EPERM},
	{SCMP_SYS(io_uring_enter), EPERM},
	{SCMP_SYS(io_uring_register), EPERM},
	{SCMP_SYS(mbind), EPERM},
	{SCMP_SYS(get_mempolicy), EPERM},
	{SCMP_SYS(set_mempolicy), EPERM},
};

/* Allowed if (argument & mask) == value. */
struct condition {
	int number;
	struct scmp_arg_cmp compare[2];
	unsigned int n;
};

#define MASKED(argument, mask, value)                                                              \
	{                                                                                          \
		.arg = argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = mask, .datum_b = value       \
	}
#define IS(argument, value)                                                                        \
	{                                                                                          \
		.arg = argument, .op = SCMP_CMP_EQ, .datum_a = value                               \
	}
#define ONE_OF(name, argument, value)                                                              \
	{                                                                                          \
		SCMP_SYS(name), {IS(argument, value)}, 1                                           \
	}
#define WHEN(name, argument, mask, value)                                                          \
	{                                                                                          \
		SCMP_SYS(name), {MASKED(argument, mask, value)}, 1                                 \
	}

static const struct condition conditions[] = {
	WHEN(clone, 0, CLONE_THREAD | CLONE_VM | CLONE_NEW_ANY, CLONE_THREAD | CLONE_VM),
	WHEN(mprotect, 2, PROT_EXEC, 0),
	WHEN(mmap, 2, PROT_EXEC, 0),
	/* The code of a library that is loaded now. */
	{SCMP_SYS(mmap),
		{MASKED(2, PROT_EXEC | PROT_WRITE, PROT_EXEC), MASKED(3, MAP_ANONYMOUS, 0)}, 2},
	/* SIGSYS, which is 31, stays as it is: some bit of the signal's low five must be clear.
	 * Only these bits are looked at, because the kernel ignores the upper half of the register.
	 */
	WHEN(rt_sigaction, 0, 1, 0),
	WHEN(rt_sigaction, 0, 2, 0),
	WHEN(rt_sigaction, 0, 4, 0),
	WHEN(rt_sigaction, 0, 8, 0),
	WHEN(rt_sigaction, 0, 16, 0),
	ONE_OF(ioctl, 1, TCGETS),
	ONE_OF(ioctl, 1, TIOCGWINSZ),
	ONE_OF(fcntl, 1, F_GETFD),
	ONE_OF(fcntl, 1, F_SETFD),
	ONE_OF(fcntl, 1, F_GETFL),
	ONE_OF(fcntl, 1, F_DUPFD_CLOEXEC),
	ONE_OF(fcntl, 1, F_ADD_SEALS),
	ONE_OF(fcntl, 1, F_GET_SEALS),
	ONE_OF(prctl, 0, PR_SET_NAME),
	/* Reads a limit of its own. */
	{SCMP_SYS(prlimit64), {IS(0, 0), IS(2, 0)}, 2},
};

_Static_assert(SIGSYS == 31, "the conditions on rt_sigaction");

static const struct condition conditions_without_folder[] = {
	WHEN(open, 1, OPEN_TO_WRITE, 0),
	WHEN(openat, 2, OPEN_TO_WRITE, 0),
};

static int allow_list(scmp_filter_ctx filter, const int *numbers, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, numbers[i], 0);
	return r;
}

static int allow_conditions(scmp_filter_ctx filter, const struct condition *list, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = seccomp_rule_add_array(
			filter, SCMP_ACT_ALLOW, list[i].number, list[i].n, list[i].compare);
	return r;
}

/* A signal to itself is how abort() works. */
static int allow_own_signals(scmp_filter_ctx filter)
{
	const struct scmp_arg_cmp own = IS(0, (scmp_datum_t)getpid());

	return seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, &own);
}

static int refuse_list(scmp_filter_ctx filter)
{
	int r = 0;

	for (size_t i = 0; i < array_len(refused) && r == 0; i++)
		r = seccomp_rule_add(
			filter, SCMP_ACT_ERRNO((uint32_t)refused[i].error), refused[i].number, 0);
	return r;
}

static int fill_filter(scmp_filter_ctx filter, bool writable)
{
	int r = allow_list(filter, allowed, array_len(allowed));

	if (r == 0)
		r = allow_conditions(filter, conditions, array_len(conditions));
	if (r == 0)
		r = allow_own_signals(filter);
	if (r == 0)
		r = refuse_list(filter);
	if (r < 0)
		return r;
	if (writable)
		return allow_list(filter, allowed_in_folder, array_len(allowed_in_folder));
	return allow_conditions(
		filter, conditions_without_folder, array_len(conditions_without_folder));
}

int sandbox_filter_load(const struct sandbox_limits *limits, struct reason *reason)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
	int r;

	if (!filter)
		return reason_set(reason, -ENOMEM, "sandbox: out of memory for the filter");
	r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (r == 0)
		r = fill_filter(filter, limits->writable_folder != NULL);
	if (r == 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	if (r < 0)
		return reason_set(
			reason, r, "sandbox: cannot load the system-call filter: %s", strerror(-r));
	return 0;
}

const char *sandbox_syscall_name(int number, char ret[static 32])
{
	char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);

	snprintf(ret, 32, "%s", name ? name : "");
	if (!name)
		snprintf(ret, 32, "number %d", number);
	free(name);
	return ret;
}

#define LANDLOCK_WRITES                                                                            \
	(LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                           \
		LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR |                    \
		LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |                        \
		LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |                      \
		LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)
#define LANDLOCK_HANDLED (LANDLOCK_WRITES | LANDLOCK_ACCESS_FS_EXECUTE)

static int allow_folder(int ruleset, const char *folder)
{
	_cleanup_(closep) int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct landlock_path_beneath_attr rule = {
		.allowed_access = LANDLOCK_WRITES,
		.parent_fd = fd,
	};

	if (fd < 0 ||
		syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		return -errno;
	return 0;
}

/* Nothing may be executed or written outside the folder. A kernel without Landlock is not an error:
 * the filter alone then forbids all writing by name, or, where a folder is writable, it does not.
 */
static int restrict_files(const struct sandbox_limits *limits, struct reason *reason)
{
	struct landlock_ruleset_attr attr = {.handled_access_fs = LANDLOCK_HANDLED};
	_cleanup_(closep) int ruleset = -1;
	int r = 0;

	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (ruleset < 0 && (errno == ENOSYS || errno == EOPNOTSUPP))
		return 0;
	if (ruleset < 0)
		return reason_set(reason, -errno, "sandbox: landlock: %s", strerror(errno));
	if (limits->writable_folder)
		r = allow_folder(ruleset, limits->writable_folder);
	if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		r = -errno;
	if (r < 0)
		return reason_set(reason, r, "sandbox: cannot confine writing to %s: %s",
			limits->writable_folder ? limits->writable_folder : "nothing",
			strerror(-r));
	return 0;
}

static int limit_resources(const struct sandbox_limits *limits)
{
	const struct rlimit none = {0};
	const struct rlimit memory = {limits->memory_bytes, limits->memory_bytes};

	if (setrlimit(RLIMIT_CORE, &none) < 0)
		return -errno;
	if (ADDRESS_SPACE_LIMITED && limits->memory_bytes && setrlimit(RLIMIT_AS, &memory) < 0)
		return -errno;
	return 0;
}

int sandbox_drop(const struct sandbox_limits *limits, struct reason *reason)
{
	int r;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return reason_set(
			reason, -errno, "sandbox: cannot drop privileges: %s", strerror(errno));
	/* A private network takes a privilege; without it the filter forbids sockets anyway. */
	if (unshare(CLONE_NEWNET) < 0 && errno != EPERM && errno != ENOSYS && errno != EINVAL &&
		errno != ENOSPC)
		return reason_set(
			reason, -errno, "sandbox: cannot leave the network: %s", strerror(errno));
	r = limit_resources(limits);
	if (r < 0)
		return reason_set(reason, r, "sandbox: cannot set limits: %s", strerror(-r));
	return restrict_files(limits, reason);
}
