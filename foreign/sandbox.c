/*
 * The parent's side: fork, wait for one verdict through a pipe, and say in words how the child
 * ended.
 */
#include "foreign/sandbox.h"

#include "foreign/sandbox_filter.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

enum verdict_kind {
	VERDICT_RETURNED = 1,  /* value: what the function returned */
	VERDICT_FORBIDDEN = 2, /* value: number of the system call */
};

/* Smaller than PIPE_BUF, so it arrives whole or not at all. */
struct verdict {
	int32_t kind;
	int32_t value;
	struct reason reason;
};

struct child {
	pid_t pid;
	int pipe;    /* its verdict */
	int signals; /* those that end the call */
	int stopped_by;
	bool has_verdict;
	struct verdict verdict;
	int status;
};

/* Where the handler writes to; set once in a child. */
static int verdict_fd = -1;

static void send_verdict(const struct verdict *verdict)
{
	while (write(verdict_fd, verdict, sizeof(*verdict)) < 0 && errno == EINTR)
		;
}

/* The filter has already refused the call; this only tells its number before the end. */
static void on_forbidden(int signal, siginfo_t *info, void *context)
{
	struct verdict verdict = {.kind = VERDICT_FORBIDDEN, .value = info->si_syscall};

	(void)signal;
	(void)context;
	send_verdict(&verdict);
	_exit(1);
}

static int lock_down(pid_t parent, const struct sandbox_limits *limits, struct reason *reason)
{
	struct sigaction action = {.sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO};
	int r;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || sigaction(SIGSYS, &action, NULL) < 0)
		return reason_set(reason, -errno, "sandbox: %s", strerror(errno));
	if (getppid() != parent)
		return reason_set(reason, -ECANCELED, "sandbox: the parent is gone");
	r = sandbox_drop(limits, reason);
	return r < 0 ? r : sandbox_filter_load(limits, reason);
}

/* The child's whole life after the fork. */
static void run_child(int (*fn)(void *arg, struct reason *reason), void *arg, pid_t parent,
	const struct sandbox_limits *limits)
{
	struct verdict verdict = {.kind = VERDICT_RETURNED};

	verdict.value = lock_down(parent, limits, &verdict.reason);
	if (verdict.value == 0)
		verdict.value = fn(arg, &verdict.reason);
	/* What it printed is part of what it did: nobody else can tell whether that was written. */
	if ((fflush(stdout) == EOF || ferror(stdout)) && verdict.value == 0)
		verdict.value = reason_set(&verdict.reason, -EIO, "cannot write standard output");
	fflush(stderr);
	send_verdict(&verdict);
	_exit(0);
}

/* Waits for a verdict, the child's end or a signal that ends the call. */
static int await_verdict(struct child *c)
{
	struct pollfd fds[] = {
		{.fd = c->pipe, .events = POLLIN},
		{.fd = c->signals, .events = POLLIN},
	};
	ssize_t n;

	while (poll(fds, array_len(fds), -1) < 0)
		if (errno != EINTR)
			return -errno;
	if (fds[1].revents)
		return 0;
	do
		n = read(c->pipe, &c->verdict, sizeof(c->verdict));
	while (n < 0 && errno == EINTR);
	c->has_verdict = n == (ssize_t)sizeof(c->verdict);
	return 0;
}

/* Whatever it is doing now: its verdict is in, or it will not come. A signal that was meant to end
 * the call is taken, so that it does not end the caller when signals are let through again. */
static int end_child(struct child *c)
{
	struct signalfd_siginfo info;

	kill(c->pid, SIGKILL);
	while (waitpid(c->pid, &c->status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (read(c->signals, &info, sizeof(info)) == sizeof(info))
		c->stopped_by = (int)info.ssi_signo;
	return 0;
}

static int explain_end(const struct child *c, struct reason *reason)
{
	int signal = WIFSIGNALED(c->status) ? WTERMSIG(c->status) : 0;

	if (c->stopped_by)
		return reason_set(reason, -ECANCELED, "stopped by signal %d (%s)", c->stopped_by,
			strsignal(c->stopped_by));
	if (signal == SIGSYS)
		return reason_set(reason, -EPERM,
			"the sandbox ended the reader: it made a system call that is not allowed");
	if (signal == SIGKILL)
		return reason_set(reason, -ECANCELED,
			"the sandboxed reader was killed; the machine may be out of memory");
	if (signal)
		return reason_set(reason, -ECANCELED,
			"the sandboxed reader ended by signal %d (%s)", signal, strsignal(signal));
	return reason_set(reason, -ECANCELED, "the sandboxed reader ended without a result");
}

static int judge(struct child *c, struct reason *reason)
{
	char name[32];

	if (c->stopped_by || !c->has_verdict)
		return explain_end(c, reason);
	if (c->verdict.kind == VERDICT_FORBIDDEN)
		return reason_set(reason, -EPERM,
			"the sandbox ended the reader: the system call %s is not allowed",
			sandbox_syscall_name(c->verdict.value, name));
	sandbox_end_text(c->verdict.reason.text);
	if (c->verdict.value == -ENOMEM && !c->verdict.reason.text[0])
		return reason_set(reason, -ENOMEM, "the sandboxed reader ran out of memory");
	return reason_set(reason, c->verdict.value, "%s", c->verdict.reason.text);
}

/* From the fork to the reaped child; signals are already blocked. */
static int run_and_reap(struct child *c, int pipe_write,
	int (*fn)(void *arg, struct reason *reason), void *arg, const struct sandbox_limits *limits,
	const sigset_t *mask)
{
	pid_t parent = getpid();
	int r, ended;

	fflush(NULL);
	c->pid = fork();
	if (c->pid < 0) {
		r = -errno;
		close(pipe_write);
		return r;
	}
	if (c->pid == 0) {
		close(c->pipe);
		close(c->signals);
		verdict_fd = pipe_write;
		sigprocmask(SIG_SETMASK, mask, NULL);
		run_child(fn, arg, parent, limits);
	}
	close(pipe_write);
	r = await_verdict(c);
	ended = end_child(c);
	return r < 0 ? r : ended;
}

int sandbox_call(int (*fn)(void *arg, struct reason *reason), void *arg,
	const struct sandbox_limits *limits, struct reason *reason)
{
	_cleanup_(closep) int pipe_read = -1, signals = -1;
	struct child c = {0};
	sigset_t stoppers, mask;
	int fds[2], r;

	sigemptyset(&stoppers);
	sigaddset(&stoppers, SIGINT);
	sigaddset(&stoppers, SIGTERM);
	sigaddset(&stoppers, SIGHUP);
	sigaddset(&stoppers, SIGQUIT);
	signals = signalfd(-1, &stoppers, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0 || pipe2(fds, O_CLOEXEC) < 0)
		return reason_set(reason, -errno, "sandbox: %s", strerror(errno));
	pipe_read = fds[0];
	c.pipe = pipe_read;
	c.signals = signals;
	sigprocmask(SIG_BLOCK, &stoppers, &mask);
	r = run_and_reap(&c, fds[1], fn, arg, limits, &mask);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	if (r < 0)
		return reason_set(reason, r, "sandbox: %s", strerror(-r));
	return judge(&c, reason);
}

void *sandbox_memory_new(size_t n)
{
	void *memory = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

void sandbox_memory_free(void *memory, size_t n)
{
	if (memory)
		munmap(memory, n);
}
