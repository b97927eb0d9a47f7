/*
 * Clients that mean harm: what they make the daemon hold is bounded, descriptors do not stay, and
 * others are served meanwhile.
 */
#include "tests/live_daemon.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <cmocka.h>

#define N_TEXT 60000

static struct live_store store;
static struct live_daemon the_daemon;
static struct connection *client, *admin;
static struct wire_received received;
static char text[N_TEXT];

static int setup(void **state)
{
	static const struct live_options options = {.yaml = NULL};

	(void)state;
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('!' + i * i % 7 * 13 % 15);
	live_store_make(&store);
	live_daemon_start(&the_daemon, &store, &options);
	client = live_connect(&the_daemon);
	admin = live_connect_admin(&the_daemon);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	connection_free(client);
	connection_free(admin);
	live_daemon_stop(&the_daemon);
	live_store_remove(&store);
	return 0;
}

static uint64_t send_tokenize(struct connection *c)
{
	struct proto_message m = {.op = PROTO_TOKENIZE};

	m.tokenize.variant = proto_str("base");
	m.tokenize.text = (struct proto_str){text, sizeof(text)};
	return live_send(c, &m);
}

static uint32_t take_ids(struct connection *c, uint64_t request)
{
	struct reason reason;
	uint32_t n;

	assert_int_equal(connection_receive(c, request, LIVE_TIMEOUT_MS, &received, &reason), 0);
	assert_int_equal(received.message.op, PROTO_TOKENIZE_REPLY);
	n = received.message.ids.n;
	wire_received_done(&received);
	return n;
}

/* Each long reply is memory that the kernel does not count against the connection: one of them is
 * on its way, the next one waits with the daemon, and further requests are not read. */
static void test_long_replies_one_at_a_time(void **state)
{
	struct connection *lazy = live_connect(&the_daemon);
	uint64_t requests[4];
	uint32_t n = take_ids(lazy, send_tokenize(lazy));

	(void)state;
	assert_true(4 * n > PROTO_MAX_PACKET);
	for (size_t i = 0; i < array_len(requests); i++)
		requests[i] = send_tokenize(lazy);
	live_await_stat(admin, "queued_bytes", PROTO_HEADER_BYTES + 4 + 4 * (uint64_t)n);
	for (size_t i = 0; i < array_len(requests); i++)
		assert_int_equal(take_ids(lazy, requests[i]), n);
	live_await_stat(admin, "queued_bytes", 0);
	/* Not stuck afterwards, either. */
	assert_int_equal(take_ids(lazy, send_tokenize(lazy)), n);
	connection_free(lazy);
}

static void test_gone_with_long_replies(void **state)
{
	struct connection *lazy = live_connect(&the_daemon);

	(void)state;
	for (int i = 0; i < 4; i++)
		send_tokenize(lazy);
	connection_free(lazy);
	live_await_stat(admin, "connections", 2);
	live_await_stat(admin, "queued_bytes", 0);
}

static void test_too_many_ids(void **state)
{
	static uint32_t ids[70000];
	struct proto_message m = {.op = PROTO_DETOKENIZE};
	struct reason reason;

	(void)state;
	m.detokenize.variant = proto_str("base");
	m.detokenize.ids = ids;
	m.detokenize.n_ids = array_len(ids);
	assert_int_equal(connection_call(client, &m, &received, &reason), 0);
	assert_int_equal(received.message.op, PROTO_ERROR);
	assert_int_equal(received.message.error.status, PROTO_STATUS_TOO_LONG);
	wire_received_done(&received);
	m.request = 0;
	m.detokenize.n_ids = 65536;
	assert_int_equal(connection_call(client, &m, &received, &reason), 0);
	assert_int_equal(received.message.op, PROTO_DETOKENIZE_REPLY);
	wire_received_done(&received);
}

static size_t count_descriptors(void)
{
	char path[64];
	size_t n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)the_daemon.pid);
	dir = opendir(path);
	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static int raw_socket(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", the_daemon.socket);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* A header that announces a descriptor, with n of them. */
static void send_descriptors(int sock, const int *fds, size_t n)
{
	static const uint8_t header[PROTO_HEADER_BYTES] = {
		PROTO_HEADER_BYTES, 0, 0, 0, PROTO_HELLO, 0, PROTO_FLAG_MEMFD, 0, 1};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(253 * sizeof(int))];
	} control = {0};
	struct iovec io = {.iov_base = (void *)(uintptr_t)header, .iov_len = sizeof(header)};
	struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1};

	message.msg_control = &control;
	message.msg_controllen = CMSG_SPACE(n * sizeof(int));
	control.align.cmsg_level = SOL_SOCKET;
	control.align.cmsg_type = SCM_RIGHTS;
	control.align.cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(&control.align), fds, n * sizeof(int));
	assert_int_equal(sendmsg(sock, &message, 0), sizeof(header));
}

/* Sent descriptors do not stay: what they are, how many, and whether they keep still. */
static void test_descriptors_do_not_stay(void **state)
{
	static const size_t counts[] = {1, 2, 3, 253};
	int memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int kinds[] = {memfd, open("/dev/zero", O_RDWR | O_CLOEXEC), open("/", O_PATH | O_CLOEXEC),
		open("/proc/self/mem", O_RDONLY | O_CLOEXEC)};
	size_t before;

	(void)state;
	live_await_stat(admin, "connections", 2);
	before = count_descriptors();
	assert_int_equal(ftruncate(memfd, 4096), 0);
	for (size_t kind = 0; kind < array_len(kinds); kind++)
		for (size_t i = 0; i < array_len(counts); i++) {
			static struct wire_received reply;
			struct reason reason;
			int sock = raw_socket(), fds[253];

			for (size_t k = 0; k < counts[i]; k++)
				fds[k] = kinds[kind];
			send_descriptors(sock, fds, counts[i]);
			assert_int_equal(wire_receive(sock, &reply, &reason), 0);
			assert_int_equal(reply.message.op, PROTO_ERROR);
			assert_int_equal(reply.message.error.status, PROTO_STATUS_BAD_MESSAGE);
			wire_received_done(&reply);
			close(sock);
		}
	for (size_t i = 0; i < array_len(kinds); i++)
		close(kinds[i]);
	live_await_stat(admin, "connections", 2);
	for (int i = 0; i < 1000 && count_descriptors() != before; i++)
		usleep(1000);
	assert_int_equal(count_descriptors(), before);
}

/* A TCP socket whose close takes seconds, as nobody reads what it has sent. */
static int lingering_socket(int listener)
{
	const struct linger linger = {.l_onoff = 1, .l_linger = 10};
	struct sockaddr_in address;
	socklen_t n = sizeof(address);
	char bytes[65536] = {0};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, n), 0);
	while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	return fd;
}

static size_t count_threads(void)
{
	struct stat st;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task", (int)the_daemon.pid);
	assert_int_equal(stat(path, &st), 0);
	return st.st_nlink;
}

/* A connection with descriptors that take long to close: in a message, alone or the last of as many
 * as the kernel allows; or behind an empty packet behind a violation, which nobody reads any more.
 */
static int slow_connection(int listener, size_t n, bool behind)
{
	int sock = raw_socket(), slow = lingering_socket(listener), fds[253];

	for (size_t i = 0; i < n; i++)
		fds[i] = i + 1 < n ? STDERR_FILENO : slow;
	if (behind) {
		send_descriptors(sock, &(int){STDERR_FILENO}, 1);
		send(sock, "", 0, MSG_NOSIGNAL);
	}
	send_descriptors(sock, fds, n);
	close(slow);
	return sock;
}

/* The daemon serves others at once, without more threads; what it could not close yet counts as
 * connections of the one who sent it. */
static void test_slow_to_close(void **state)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), socks[4];
	size_t n_threads, n_descriptors;
	struct timespec begun, ended;

	(void)state;
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	/* Inherited by what it never accepts: a window that is soon full. */
	assert_int_equal(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &(int){1}, sizeof(int)), 0);
	assert_int_equal(listen(listener, 4), 0);
	live_await_stat(admin, "connections", 2);
	n_threads = count_threads();
	n_descriptors = count_descriptors();
	/* While it stands still, so that the last to close them is the daemon. */
	kill(the_daemon.pid, SIGSTOP);
	for (size_t i = 0; i < array_len(socks); i++)
		socks[i] = slow_connection(listener, (const size_t[]){1, 9, 253, 1}[i], i == 3);
	kill(the_daemon.pid, SIGCONT);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (size_t i = 0; i < array_len(socks); i++) {
		static struct wire_received reply;
		struct reason reason;

		assert_int_equal(wire_receive(socks[i], &reply, &reason), 0);
		assert_int_equal(reply.message.error.status, PROTO_STATUS_BAD_MESSAGE);
		wire_received_done(&reply);
		assert_int_equal(wire_receive(socks[i], &reply, &reason), WIRE_E_CLOSED);
		close(socks[i]);
	}
	assert_int_equal(live_stat(admin, "connections"), 2 + array_len(socks));
	assert_int_equal(count_threads(), n_threads);
	assert_in_range(count_descriptors(), n_descriptors, n_descriptors + 2 * array_len(socks));
	clock_gettime(CLOCK_MONOTONIC, &ended);
	assert_true(ended.tv_sec - begun.tv_sec < 5);
	/* Resets what lingers. */
	close(listener);
	live_await_stat(admin, "connections", 2);
	assert_int_equal(count_descriptors(), n_descriptors);
}

/* Time on the CPU in clock ticks, of which there are a hundred in a second. */
static unsigned long cpu_ticks(void)
{
	unsigned long user, system;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)the_daemon.pid);
	f = fopen(path, "re");
	assert_non_null(f);
	assert_int_equal(
		fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
			&system),
		2);
	fclose(f);
	return user + system;
}

/* Out of descriptors: the daemon neither spins nor ends, and goes on when there are some again. */
static void test_no_descriptors_left(void **state)
{
	int socks[16];
	struct rlimit before, few;
	unsigned long ticks;
	size_t n = 0;

	(void)state;
	assert_int_equal(prlimit(the_daemon.pid, RLIMIT_NOFILE, NULL, &before), 0);
	few = (struct rlimit){.rlim_cur = count_descriptors(), .rlim_max = before.rlim_max};
	assert_int_equal(prlimit(the_daemon.pid, RLIMIT_NOFILE, &few, NULL), 0);
	while (n < array_len(socks))
		socks[n++] = raw_socket();
	ticks = cpu_ticks();
	usleep(300000);
	assert_true(cpu_ticks() - ticks <= 10);
	assert_true(live_stat(admin, "connections") < 2 + n);
	assert_int_equal(prlimit(the_daemon.pid, RLIMIT_NOFILE, &before, NULL), 0);
	live_await_stat(admin, "connections", 2 + n);
	while (n)
		close(socks[--n]);
	live_await_stat(admin, "connections", 2);
}

/* A long message that comes then is not blamed for it. */
static void test_no_descriptor_for_a_message(void **state)
{
	static char words[2 * PROTO_MAX_PACKET];
	static struct wire_received reply;
	struct proto_message m = {.op = PROTO_TOKENIZE};
	struct connection *c = live_connect(&the_daemon);
	struct rlimit before, none;
	struct reason reason;
	int r;

	(void)state;
	memset(words, 'a', sizeof(words) - 1);
	m.tokenize.variant = proto_str("base");
	m.tokenize.text = proto_str(words);
	assert_int_equal(prlimit(the_daemon.pid, RLIMIT_NOFILE, NULL, &before), 0);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max};
	assert_int_equal(prlimit(the_daemon.pid, RLIMIT_NOFILE, &none, NULL), 0);
	r = connection_call(c, &m, &reply, &reason);
	assert_int_equal(prlimit(the_daemon.pid, RLIMIT_NOFILE, &before, NULL), 0);
	assert_int_equal(r, -EBUSY);
	connection_free(c);
	live_await_stat(admin, "connections", 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_long_replies_one_at_a_time),
		cmocka_unit_test(test_gone_with_long_replies),
		cmocka_unit_test(test_too_many_ids),
		cmocka_unit_test(test_descriptors_do_not_stay),
		cmocka_unit_test(test_slow_to_close),
		cmocka_unit_test(test_no_descriptor_for_a_message),
		cmocka_unit_test(test_no_descriptors_left),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
