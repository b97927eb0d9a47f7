/*
 * Packets and descriptors between two ends of a socket pair. Every test ends with as many open
 * descriptors as it began with.
 */
#include "client/wire.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <cmocka.h>

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

static int ends[2];
static size_t n_open;
static struct wire_received received;

static size_t open_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	size_t n = 0;

	assert_non_null(folder);
	while (readdir(folder))
		n++;
	closedir(folder);
	return n;
}

static int setup(void **state)
{
	(void)state;
	n_open = open_descriptors();
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
}

static int teardown(void **state)
{
	(void)state;
	wire_received_done(&received);
	closep(&ends[0]);
	closep(&ends[1]);
	return open_descriptors() == n_open ? 0 : -1;
}

static void close_end(size_t i)
{
	close(ends[i]);
	ends[i] = -1;
}

/* A packet with any number of descriptors, as only a stranger would send it. */
static void send_raw(const void *packet, size_t n, const int *fds, size_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(253 * sizeof(int))];
	} control = {0};
	struct iovec io = {.iov_base = (void *)(uintptr_t)packet, .iov_len = n};
	struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};

	if (n_fds > 0) {
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(&control.align), fds, n_fds * sizeof(int));
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
	}
	assert_int_equal(sendmsg(ends[0], &m, 0), n);
}

/* A header that says that its body is in a descriptor. */
static void send_header(enum proto_op op, const int *fds, size_t n_fds)
{
	const uint8_t header[PROTO_HEADER_BYTES] = {16, 0, 0, 0, op, 0, PROTO_FLAG_MEMFD, 0, 1};

	send_raw(header, sizeof(header), fds, n_fds);
}

static int memfd_with(const void *bytes, size_t n, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), n);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void expect_refusal(const char *words)
{
	struct reason reason = {0};

	assert_int_equal(wire_receive(ends[1], &received, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, words));
}

static void a_message_arrives(void **state)
{
	const struct proto_message m = {
		.op = PROTO_LOAD, .request = 7, .name = {proto_str("math")}};

	(void)state;
	assert_int_equal(wire_send_message(ends[0], &m), 0);
	assert_int_equal(wire_receive(ends[1], &received, NULL), 0);
	assert_int_equal(received.message.request, 7);
	assert_true(proto_str_equal(received.message.name.name, "math"));
}

static void a_long_message_arrives_through_a_memfd(void **state)
{
	static uint32_t ids[100000];
	const struct proto_message m = {
		.op = PROTO_TOKENIZE_REPLY, .request = 7, .ids = {array_len(ids), ids}};

	(void)state;
	for (size_t i = 0; i < array_len(ids); i++)
		ids[i] = (uint32_t)(i * 2654435761u);
	assert_int_equal(wire_send_message(ends[0], &m), 0);
	assert_int_equal(wire_receive(ends[1], &received, NULL), 0);
	assert_int_equal(received.header.length, PROTO_HEADER_BYTES);
	assert_int_equal(received.message.ids.n, array_len(ids));
	assert_memory_equal(received.message.ids.ids, ids, sizeof(ids));
}

static void the_largest_packet_needs_no_memfd(void **state)
{
	static char text[PROTO_MAX_PACKET];
	struct proto_message m = {.op = PROTO_DETOKENIZE_REPLY, .request = 1};
	struct wire_packet p;

	(void)state;
	memset(text, 'x', sizeof(text));
	m.text.text = (struct proto_str){text, PROTO_MAX_PACKET - PROTO_HEADER_BYTES - 4};
	assert_int_equal(wire_pack(&m, &p), 0);
	assert_int_equal(p.n, PROTO_MAX_PACKET);
	assert_int_equal(p.fd, -1);
	assert_int_equal(wire_send(ends[0], p.bytes, p.n, p.fd), 0);
	assert_int_equal(wire_receive(ends[1], &received, NULL), 0);
	wire_packet_done(&p);
	m.text.text.n++;
	assert_int_equal(wire_pack(&m, &p), 0);
	assert_int_equal(p.n, PROTO_HEADER_BYTES);
	assert_true(p.fd >= 0);
	assert_int_equal(fcntl(p.fd, F_GET_SEALS) & SEALS, SEALS);
	wire_packet_done(&p);
}

static void too_long_messages_are_not_made(void **state)
{
	struct proto_message m = {.op = PROTO_DETOKENIZE_REPLY, .request = 1};
	char *text = calloc(1, PROTO_MAX_BODY);
	struct wire_packet p;

	(void)state;
	assert_non_null(text);
	m.text.text = (struct proto_str){text, PROTO_MAX_BODY};
	assert_int_equal(wire_pack(&m, &p), -EMSGSIZE);
	free(text);
}

static void missing_seals_are_refused(void **state)
{
	static const int weak[] = {0, F_SEAL_WRITE, F_SEAL_WRITE | F_SEAL_SHRINK,
		F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_WRITE | F_SEAL_GROW};

	(void)state;
	for (size_t i = 0; i < array_len(weak); i++) {
		int fd = memfd_with("\0\0\0\0", 4, weak[i]);

		send_header(PROTO_TOKENIZE_REPLY, &fd, 1);
		close(fd);
		expect_refusal("sealed");
	}
}

static void other_files_are_refused(void **state)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	(void)state;
	send_header(PROTO_TOKENIZE_REPLY, &fd, 1);
	close(fd);
	expect_refusal("sealed");
	send_header(PROTO_TOKENIZE_REPLY, &ends[0], 1);
	expect_refusal("sealed");
}

static void bodies_of_wrong_size_are_refused(void **state)
{
	int fd = memfd_with("", 0, SEALS);

	(void)state;
	send_header(PROTO_TOKENIZE_REPLY, &fd, 1);
	close(fd);
	expect_refusal("0 bytes");
	fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, (off_t)PROTO_MAX_BODY + 1), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	send_header(PROTO_TOKENIZE_REPLY, &fd, 1);
	close(fd);
	expect_refusal("expected 1 to");
}

static void descriptors_must_be_called_for(void **state)
{
	const uint8_t header[PROTO_HEADER_BYTES] = {16, 0, 0, 0, PROTO_MODELS, 0, 0, 0, 1};
	int fd = memfd_with("\0\0\0\0", 4, SEALS);

	(void)state;
	send_raw(header, sizeof(header), &fd, 1);
	expect_refusal("not called for");
	assert_int_equal(received.header.request, 1);
	send_header(PROTO_TOKENIZE_REPLY, NULL, 0);
	expect_refusal("missing");
	send_header(PROTO_TOKENIZE_REPLY, &fd, 1);
	assert_int_equal(wire_receive(ends[1], &received, NULL), 0);
	assert_int_equal(received.message.ids.n, 0);
	close(fd);
}

/* More than one descriptor is refused and none stays open, also past what the receiver takes. */
static void surplus_descriptors_are_closed(void **state)
{
	static const size_t counts[] = {2, 8, 9, 32};
	size_t before = open_descriptors();
	int fds[32];

	(void)state;
	for (size_t i = 0; i < array_len(fds); i++)
		fds[i] = STDERR_FILENO;
	for (size_t i = 0; i < array_len(counts); i++) {
		send_header(PROTO_TOKENIZE_REPLY, fds, counts[i]);
		expect_refusal("more than one");
		assert_int_equal(open_descriptors(), before);
	}
}

/* That is not the sender's fault. */
static void no_room_for_a_descriptor_is_told(void **state)
{
	int fd = memfd_with("\0\0\0\0", 4, SEALS), stranger = -1;
	struct rlimit before, none;
	struct reason reason;
	int looked, r;

	(void)state;
	send_header(PROTO_TOKENIZE_REPLY, &fd, 1);
	close(fd);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	looked = wire_look(ends[1], &stranger);
	r = wire_receive(ends[1], &received, &reason);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(looked, -EMFILE);
	assert_int_equal(r, -EMFILE);
}

static void one_memfd_is_no_stranger(void **state)
{
	int memfd = memfd_with("\0\0\0\0", 4, SEALS), copy = -1;
	size_t before = open_descriptors();

	(void)state;
	for (size_t n = 0; n < 2; n++) {
		send_header(PROTO_TOKENIZE_REPLY, &memfd, n);
		assert_int_equal(wire_look(ends[1], &copy), 0);
		assert_int_equal(open_descriptors(), before);
		assert_int_equal(wire_receive(ends[1], &received, NULL), n ? 0 : -EBADMSG);
	}
	assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(wire_look(ends[1], &copy), -EAGAIN);
	close_end(0);
	assert_int_equal(wire_look(ends[1], &copy), 0);
	assert_int_equal(wire_receive(ends[1], &received, NULL), WIRE_E_CLOSED);
	assert_int_equal(copy, -1);
	close(memfd);
}

/* Whatever else a packet brings stays in the socket, which is then left open, too. */
static void strangers_stay_in_the_socket(void **state)
{
	static const size_t counts[] = {1, 2, 3, 253};
	int fds[253];

	(void)state;
	for (size_t i = 0; i < array_len(fds); i++)
		fds[i] = STDERR_FILENO;
	for (size_t i = 0; i < array_len(counts); i++) {
		size_t before = open_descriptors();
		int copy = -1;

		send_header(PROTO_TOKENIZE_REPLY, fds, counts[i]);
		assert_int_equal(wire_look(ends[1], &copy), WIRE_E_STRANGER);
		assert_int_equal(open_descriptors(), before + 1);
		assert_int_equal(wire_hang_up(ends[1]), WIRE_E_STRANGER);
		assert_true(fcntl(ends[1], F_GETFD) >= 0);
		close(copy);
		close_end(0);
		close_end(1);
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	}
}

/* Also behind an empty packet, which reads like the end. */
static void hanging_up_reads_what_came(void **state)
{
	(void)state;
	send_raw("unread", 6, NULL, 0);
	send_raw("", 0, NULL, 0);
	send_header(PROTO_TOKENIZE_REPLY, &(int){STDERR_FILENO}, 1);
	assert_int_equal(wire_hang_up(ends[1]), WIRE_E_STRANGER);
	close_end(0);
	close_end(1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	send_raw("unread", 6, NULL, 0);
	send_raw("", 0, NULL, 0);
	assert_int_equal(wire_hang_up(ends[1]), 0);
	ends[1] = -1;
	assert_int_equal(recv(ends[0], &(char){0}, 1, 0), 0);
}

static void received_descriptors_are_close_on_exec(void **state)
{
	int fd = memfd_with("x", 1, SEALS), got;
	char byte;
	size_t n;

	(void)state;
	assert_int_equal(wire_send(ends[0], "p", 1, fd), 0);
	assert_int_equal(wire_recv(ends[1], &byte, 1, &n, &got), 0);
	assert_int_equal(n, 1);
	assert_true(fcntl(got, F_GETFD) & FD_CLOEXEC);
	close(got);
	close(fd);
}

static void cut_packets_are_refused(void **state)
{
	static uint8_t big[PROTO_MAX_PACKET + 1];

	(void)state;
	send_raw(big, sizeof(big), NULL, 0);
	expect_refusal("too long");
	send_raw("short", 5, NULL, 0);
	expect_refusal("header");
	assert_int_equal(received.header.request, 0);
}

static void closing_and_emptiness_are_told_apart(void **state)
{
	struct proto_message m = {.op = PROTO_MODELS, .request = 1};

	(void)state;
	assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(wire_receive(ends[1], &received, NULL), -EAGAIN);
	assert_int_equal(wire_send_message(ends[0], &m), 0);
	close_end(0);
	assert_int_equal(wire_receive(ends[1], &received, NULL), 0);
	assert_int_equal(wire_receive(ends[1], &received, NULL), WIRE_E_CLOSED);
	assert_int_equal(wire_send_message(ends[1], &m), -EPIPE);
}

/* Its last words count, even if it closed without having heard ours. */
static void words_before_a_reset_arrive(void **state)
{
	struct proto_message m = {.op = PROTO_MODELS, .request = 1};

	(void)state;
	assert_int_equal(wire_send_message(ends[1], &m), 0);
	assert_int_equal(wire_send_message(ends[0], &m), 0);
	close_end(0);
	assert_int_equal(wire_receive(ends[1], &received, NULL), 0);
	assert_int_equal(wire_receive(ends[1], &received, NULL), WIRE_E_CLOSED);
}

static void a_full_buffer_is_reported(void **state)
{
	struct proto_message m = {.op = PROTO_MODELS, .request = 1};
	int r = 0;

	(void)state;
	assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
	for (size_t i = 0; i < 1000000 && r == 0; i++)
		r = wire_send_message(ends[0], &m);
	assert_int_equal(r, -EAGAIN);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_message_arrives),
		TEST(a_long_message_arrives_through_a_memfd),
		TEST(the_largest_packet_needs_no_memfd),
		TEST(too_long_messages_are_not_made),
		TEST(missing_seals_are_refused),
		TEST(other_files_are_refused),
		TEST(bodies_of_wrong_size_are_refused),
		TEST(descriptors_must_be_called_for),
		TEST(surplus_descriptors_are_closed),
		TEST(no_room_for_a_descriptor_is_told),
		TEST(one_memfd_is_no_stranger),
		TEST(strangers_stay_in_the_socket),
		TEST(hanging_up_reads_what_came),
		TEST(received_descriptors_are_close_on_exec),
		TEST(cut_packets_are_refused),
		TEST(closing_and_emptiness_are_told_apart),
		TEST(words_before_a_reset_arrive),
		TEST(a_full_buffer_is_reported),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
