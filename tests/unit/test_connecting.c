/*
 * Connections that do not begin smoothly, or end early.
 */
#include "client/deltad.h"
#include "tests/scratch.h"
#include "tests/scripted_daemon.h"

#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <cmocka.h>

static void only_hello(struct script *s)
{
	script_hello(s);
	script_expect_end(s);
}

static void an_empty_path_is_no_socket(void **state)
{
	struct deltad *d;

	(void)state;
	assert_int_equal(deltad_connect("", &d), -ENOENT);
	assert_int_equal(setenv("DELTAD_SOCKET", "", 1), 0);
	assert_int_equal(deltad_connect(NULL, &d), -ENOENT);
}

static void a_long_name_is_cut(void **state)
{
	char longest[NAME_MAX + 1], *const before = program_invocation_short_name;
	struct scripted_daemon *daemon;
	struct deltad *d;

	(void)state;
	memset(longest, 'x', sizeof(longest));
	longest[NAME_MAX] = '\0';
	program_invocation_short_name = longest;
	daemon = scripted_daemon_connect(only_hello, &d);
	program_invocation_short_name = before;
	deltad_close(d);
	scripted_daemon_done(daemon);
}

static void hello_then_close(struct script *s)
{
	script_hello(s);
}

/* Else a program that waits for the descriptor would be woken again and again, and told nothing. */
static void the_end_is_told_where_no_stream_runs(void **state)
{
	struct scripted_daemon *daemon = NULL;
	const struct deltad_event *e;
	struct pollfd readable;
	struct deltad *d;

	(void)state;
	daemon = scripted_daemon_connect(only_hello, &d);
	assert_int_equal(deltad_next(d, 0, -1, &e), -ENOENT);
	deltad_close(d);
	scripted_daemon_done(daemon);

	daemon = scripted_daemon_connect(hello_then_close, &d);
	readable = (struct pollfd){.fd = deltad_fd(d), .events = POLLIN};
	assert_int_equal(poll(&readable, 1, 5000), 1);
	assert_int_equal(deltad_next(d, 0, 0, &e), -ECONNRESET);
	assert_int_equal(deltad_next(d, 0, -1, &e), -ECONNRESET);
	assert_int_equal(deltad_next(d, 7, 0, &e), -ENOENT);
	deltad_close(d);
	scripted_daemon_done(daemon);
}

#define SIGNALS 5

static atomic_int n_signals;

static void count_signal(int number)
{
	(void)number;
	n_signals++;
}

/* A daemon that is slow to take connections: those that fill its queue, then the test's. */
struct slow_daemon {
	int sock;
	int fillers[8];
	size_t n;
};

static void *accept_late(void *arg)
{
	struct slow_daemon *slow = arg;
	struct script s = {.sock = -1};

	while (n_signals < SIGNALS)
		usleep(1000);
	for (size_t i = 0; i <= slow->n; i++) {
		closep(&s.sock);
		s.sock = accept4(slow->sock, NULL, NULL, SOCK_CLOEXEC);
		script_check(s.sock >= 0);
	}
	only_hello(&s);
	wire_received_done(&s.in);
	closep(&s.sock);
	return NULL;
}

static void fill_queue(struct slow_daemon *slow, const struct sockaddr_un *address)
{
	int type = SOCK_SEQPACKET | SOCK_CLOEXEC;

	slow->sock = socket(AF_UNIX, type, 0);
	assert_true(slow->sock >= 0);
	assert_int_equal(bind(slow->sock, (const void *)address, sizeof(*address)), 0);
	assert_int_equal(listen(slow->sock, 1), 0);
	for (;; slow->n++) {
		int fd = socket(AF_UNIX, type | SOCK_NONBLOCK, 0);

		assert_true(fd >= 0 && slow->n < array_len(slow->fillers));
		slow->fillers[slow->n] = fd;
		if (connect(fd, (const void *)address, sizeof(*address)) < 0)
			break;
	}
	assert_int_equal(errno, EAGAIN);
	close(slow->fillers[slow->n]);
}

static void signals_do_not_end_connecting(void **state)
{
	const struct sigaction count = {.sa_handler = count_signal},
			       ignore = {.sa_handler = SIG_IGN};
	const struct itimerval often = {{0, 10000}, {0, 10000}}, never = {0};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(freep) char *folder = scratch_folder();
	struct slow_daemon slow = {0};
	sigset_t alarm;
	pthread_t thread;
	struct deltad *d;

	(void)state;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/slow", folder);
	fill_queue(&slow, &address);
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarm, NULL);
	assert_int_equal(pthread_create(&thread, NULL, accept_late, &slow), 0);
	sigaction(SIGALRM, &count, NULL);
	pthread_sigmask(SIG_UNBLOCK, &alarm, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	assert_int_equal(deltad_connect(address.sun_path, &d), 0);
	setitimer(ITIMER_REAL, &never, NULL);
	sigaction(SIGALRM, &ignore, NULL);
	deltad_close(d);
	pthread_join(thread, NULL);
	for (size_t i = 0; i < slow.n; i++)
		close(slow.fillers[i]);
	close(slow.sock);
	scratch_remove(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_path_is_no_socket),
		cmocka_unit_test(a_long_name_is_cut),
		cmocka_unit_test(the_end_is_told_where_no_stream_runs),
		cmocka_unit_test(signals_do_not_end_connecting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
