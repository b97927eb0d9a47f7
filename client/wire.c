#include "client/wire.h"

#include "common/file.h"

#include <endian.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define HEADER_FLAGS_AT 6

/* More packets than a socket's buffer holds. An empty packet reads like the end, so there is no
 * other way to know that all have been read. */
#define MAX_UNREAD 1024

/* Room for more descriptors than are allowed, so that a surplus is seen; the kernel closes the
 * rest. */
#define CONTROL_DESCRIPTORS 2

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(CONTROL_DESCRIPTORS * sizeof(int))];
};

/* Takes the descriptors of one control message: keeps the first one ever, closes the others.
 * Returns how many there were. */
static size_t take_descriptors(const struct cmsghdr *control, int *kept)
{
	size_t n = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);

	for (size_t i = 0; i < n; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(fd));
		if (*kept < 0)
			*kept = fd;
		else
			close(fd);
	}
	return n;
}

static ssize_t receive(int sock, struct msghdr *message, int flags)
{
	bool reset = false;

	for (;;) {
		ssize_t n = recvmsg(sock, message, flags | MSG_CMSG_CLOEXEC);

		if (n >= 0)
			return n;
		/* The kernel tells once that the peer has closed without reading all; what the peer
		 * had said before that is still there. */
		if (errno == ECONNRESET && !reset)
			reset = true;
		else if (errno != EINTR)
			return -errno;
	}
}

int wire_recv(int sock, void *packet, size_t room, size_t *ret_n, int *ret_fd)
{
	_cleanup_(closep) int fd = -1;
	union control control;
	struct iovec io = {.iov_base = packet, .iov_len = room};
	struct msghdr message = {
		.msg_iov = &io,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	size_t n_fds = 0;
	ssize_t n;

	n = receive(sock, &message, 0);
	if (n < 0)
		return n == -ECONNRESET ? WIRE_E_CLOSED : (int)n;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			n_fds += take_descriptors(c, &fd);
	/* There was room for more, so it is us who may have no more. */
	if ((message.msg_flags & MSG_CTRUNC) && n_fds < CONTROL_DESCRIPTORS)
		return -EMFILE;
	if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || n_fds > 1)
		return -EBADMSG;
	if (n == 0)
		return n_fds == 0 ? WIRE_E_CLOSED : -EBADMSG;
	*ret_n = (size_t)n;
	*ret_fd = take_fd(&fd);
	return 0;
}

/* To drop a file at its last reference, or a descriptor of it at any time, may take as long as the
 * sender likes: a socket that lingers, a file system that is a program of theirs. So the packet
 * keeps its references, and the copy of the descriptor is closed only if it is of a memfd, which is
 * known to close at once. */
int wire_look(int sock, int *ret_stranger)
{
	union control control;
	struct msghdr message = {
		.msg_control = &control,
		/* Exactly one: CMSG_SPACE() would be rounded up to two. */
		.msg_controllen = CMSG_LEN(sizeof(int)),
	};
	const struct cmsghdr *c;
	bool surplus;
	ssize_t n;
	int fd = -1;

	n = receive(sock, &message, MSG_PEEK);
	if (n < 0)
		return n == -ECONNRESET ? WIRE_E_CLOSED : (int)n;
	surplus = message.msg_flags & MSG_CTRUNC;
	c = CMSG_FIRSTHDR(&message);
	if (c)
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	if (surplus && fd < 0)
		return -EMFILE;
	if (!surplus && (fd < 0 || fcntl(fd, F_GET_SEALS) >= 0)) {
		closep(&fd);
		return 0;
	}
	*ret_stranger = fd;
	return WIRE_E_STRANGER;
}

/* Without room for control data the kernel makes no copies of descriptors, it only tells that there
 * are some. */
static bool brings_descriptors(int sock)
{
	struct msghdr message = {0};

	return receive(sock, &message, MSG_PEEK) >= 0 && (message.msg_flags & MSG_CTRUNC);
}

int wire_hang_up(int sock)
{
	struct msghdr ignored = {0};

	shutdown(sock, SHUT_RDWR);
	for (size_t i = 0; i < MAX_UNREAD; i++) {
		if (brings_descriptors(sock))
			return WIRE_E_STRANGER;
		if (receive(sock, &ignored, MSG_DONTWAIT) < 0)
			break;
	}
	close(sock);
	return 0;
}

int wire_send(int sock, const void *packet, size_t n, int fd)
{
	union control control = {0};
	struct iovec io = {.iov_base = (void *)(uintptr_t)packet, .iov_len = n};
	struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1};
	ssize_t sent;

	if (fd >= 0) {
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(sizeof(int));
	}
	do
		sent = sendmsg(sock, &message, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

static int write_all(int fd, const uint8_t *bytes, size_t n)
{
	while (n > 0) {
		ssize_t written = write(fd, bytes, n);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return -errno;
		bytes += written;
		n -= (size_t)written;
	}
	return 0;
}

/* A sealed memfd with these bytes. */
static int body_memfd(const uint8_t *bytes, size_t n, int *ret_fd)
{
	_cleanup_(closep) int fd = memfd_create("deltad-message", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	r = write_all(fd, bytes, n);
	if (r < 0)
		return r;
	r = memory_file_seal(fd);
	if (r < 0)
		return r;
	*ret_fd = take_fd(&fd);
	return 0;
}

/* Turns a long message into a header that says where its body is. */
static int move_body(struct wire_packet *p)
{
	const uint32_t length = htole32(PROTO_HEADER_BYTES);
	const uint16_t flags = htole16(PROTO_FLAG_MEMFD);
	uint8_t *header;
	int r;

	r = body_memfd(p->bytes + PROTO_HEADER_BYTES, p->n - PROTO_HEADER_BYTES, &p->fd);
	if (r < 0)
		return r;
	memcpy(p->bytes, &length, sizeof(length));
	memcpy(p->bytes + HEADER_FLAGS_AT, &flags, sizeof(flags));
	p->n_body = p->n - PROTO_HEADER_BYTES;
	p->n = PROTO_HEADER_BYTES;
	/* The packet may wait long in a queue; the body is not kept twice. */
	header = realloc(p->bytes, p->n);
	if (header)
		p->bytes = header;
	return 0;
}

static void packet_done(struct wire_packet *p)
{
	wire_packet_done(p);
}

int wire_pack(const struct proto_message *m, struct wire_packet *ret)
{
	_cleanup_(packet_done) struct wire_packet p = WIRE_PACKET_INIT;
	int r;

	r = proto_encode(m, NULL, 0, &p.n);
	if (r < 0 && r != -ENOBUFS)
		return r;
	p.bytes = malloc(p.n);
	if (!p.bytes)
		return -ENOMEM;
	r = proto_encode(m, p.bytes, p.n, &p.n);
	if (r < 0)
		return r;
	if (p.n > PROTO_MAX_PACKET) {
		r = move_body(&p);
		if (r < 0)
			return r;
	}
	*ret = (struct wire_packet){
		.bytes = take_ptr(p.bytes), .n = p.n, .fd = take_fd(&p.fd), .n_body = p.n_body};
	return 0;
}

void wire_packet_done(struct wire_packet *p)
{
	free(p->bytes);
	closep(&p->fd);
	*p = WIRE_PACKET_INIT;
}

int wire_send_message(int sock, const struct proto_message *m)
{
	_cleanup_(packet_done) struct wire_packet p = WIRE_PACKET_INIT;
	int r;

	r = wire_pack(m, &p);
	if (r < 0)
		return r;
	return wire_send(sock, p.bytes, p.n, p.fd);
}

/* Maps the body that came as a descriptor. Its seals promise that it neither changes nor shrinks
 * under the mapping, whatever the sender does. */
static int map_body(int fd, void **ret_map, size_t *ret_n, struct reason *reason)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	void *map;

	if (seals < 0 || (seals & MEMORY_FILE_SEALS) != MEMORY_FILE_SEALS)
		return reason_set(reason, -EBADMSG,
			"descriptor: not a memfd sealed against writing, shrinking and growing");
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size <= 0 || (uint64_t)st.st_size > PROTO_MAX_BODY)
		return reason_set(reason, -EBADMSG, "descriptor: %lld bytes, expected 1 to %u",
			(long long)st.st_size, PROTO_MAX_BODY);
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	*ret_map = map;
	*ret_n = (size_t)st.st_size;
	return 0;
}

/* Where the body is; takes no ownership of the descriptor. */
static int find_body(
	struct wire_received *r, int fd, const uint8_t **ret, size_t *ret_n, struct reason *reason)
{
	int error;

	if (!(r->header.flags & PROTO_FLAG_MEMFD)) {
		if (fd >= 0)
			return reason_set(reason, -EBADMSG, "descriptor: not called for");
		*ret = r->packet + PROTO_HEADER_BYTES;
		*ret_n = r->header.length - PROTO_HEADER_BYTES;
		return 0;
	}
	if (fd < 0)
		return reason_set(reason, -EBADMSG, "descriptor: missing");
	error = map_body(fd, &r->map, &r->n_map, reason);
	if (error < 0)
		return error;
	*ret = r->map;
	*ret_n = r->n_map;
	return 0;
}

int wire_receive(int sock, struct wire_received *ret, struct reason *reason)
{
	_cleanup_(closep) int fd = -1;
	const uint8_t *body = NULL;
	size_t n = 0;
	int r;

	ret->header = (struct proto_header){0};
	ret->message = (struct proto_message){0};
	ret->map = NULL;
	ret->n_map = 0;
	r = wire_recv(sock, ret->packet, sizeof(ret->packet), &n, &fd);
	if (r == -EBADMSG)
		return reason_set(reason, r, "packet: too long, or with more than one descriptor");
	if (r == -EMFILE)
		return reason_set(
			reason, r, "packet: no room for its descriptor, too many files are open");
	if (r != 0)
		return r;
	r = proto_decode_header(ret->packet, n, &ret->header);
	if (r < 0)
		return reason_set(reason, r, "header: not valid in a packet of %zu bytes", n);
	r = find_body(ret, fd, &body, &n, reason);
	if (r < 0)
		return r;
	r = proto_decode(&ret->header, body, n, &ret->message, reason);
	if (r < 0)
		wire_received_done(ret);
	return r;
}

void wire_received_done(struct wire_received *r)
{
	proto_message_done(&r->message);
	if (r->map)
		munmap(r->map, r->n_map);
	r->map = NULL;
}
