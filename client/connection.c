/*
 * Messages that nobody has asked for yet wait in the order of their arrival. A connection that
 * failed stays failed: `error` is what every later call returns once the waiting messages are gone.
 */
#include "client/connection.h"

#include "common/clock.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define NEVER UINT64_MAX

struct waiting {
	struct waiting *next;
	struct proto_header header;
	void *map; /* as in struct wire_received */
	size_t n_map;
	uint8_t packet[];
};

struct connection {
	int sock;
	int error;
	uint64_t last_request;
	struct waiting *first, **end;
	char server[PROTO_MAX_NAME + 1];
	struct wire_received aside; /* what arrives while we send */
};

static uint64_t now_ms(void)
{
	return clock_ns() / 1000000;
}

static uint64_t deadline_in(int timeout_ms)
{
	return timeout_ms < 0 ? NEVER : now_ms() + (uint64_t)timeout_ms;
}

/* Waits until the socket is ready for one of `events` or has failed. */
static int wait_ready(int sock, short events, uint64_t deadline)
{
	for (;;) {
		struct pollfd p = {.fd = sock, .events = events};
		uint64_t now = now_ms();
		int left = deadline == NEVER ? -1 : (int)(deadline > now ? deadline - now : 0);
		int n = poll(&p, 1, left);

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static int fail(struct connection *c, int error)
{
	c->error = error;
	return error;
}

static int fail_closed(struct connection *c, struct reason *reason)
{
	fail(c, -ECONNRESET);
	return reason_set(reason, c->error, "the daemon has closed the connection");
}

int status_errno(uint32_t status)
{
	static const int errors[] = {
		[PROTO_STATUS_OK] = 0,
		[PROTO_STATUS_BAD_MESSAGE] = -EPROTO,
		[PROTO_STATUS_BAD_VERSION] = -EPROTONOSUPPORT,
		[PROTO_STATUS_NOT_SUPPORTED] = -EOPNOTSUPP,
		[PROTO_STATUS_NOT_PERMITTED] = -EPERM,
		[PROTO_STATUS_BAD_ARGUMENT] = -EINVAL,
		[PROTO_STATUS_UNKNOWN_VARIANT] = -ENXIO,
		[PROTO_STATUS_LOAD_FAILED] = -EIO,
		[PROTO_STATUS_WRONG_BASE] = -EMEDIUMTYPE,
		[PROTO_STATUS_NOT_RESIDENT] = -ENODATA,
		[PROTO_STATUS_BUDGET] = -ENOSPC,
		[PROTO_STATUS_BUSY] = -EBUSY,
		[PROTO_STATUS_TOO_LONG] = -E2BIG,
		[PROTO_STATUS_NO_CHAT_FORMAT] = -ENOMSG,
		[PROTO_STATUS_SHUTTING_DOWN] = -ESHUTDOWN,
		[PROTO_STATUS_INTERNAL] = -EREMOTEIO,
	};

	return status < array_len(errors) ? errors[status] : -EREMOTEIO;
}

/* One message, if there is one; -EAGAIN if not. */
static int read_message(struct connection *c, struct wire_received *ret, struct reason *reason)
{
	int r;

	if (c->error)
		return reason_set(reason, c->error, "the connection has failed before");
	r = wire_receive(c->sock, ret, reason);
	if (r == -EAGAIN)
		return r;
	if (r == WIRE_E_CLOSED)
		return fail_closed(c, reason);
	if (r != 0)
		return fail(c, r == -EBADMSG || r == -EOPNOTSUPP ? -EPROTO : r);
	if (ret->message.request != 0)
		return 0;
	reason_set(
		reason, 0, "%.*s", (int)ret->message.error.words.n, ret->message.error.words.bytes);
	r = status_errno(ret->message.error.status);
	wire_received_done(ret);
	return fail(c, r);
}

static int put_aside(struct connection *c, struct wire_received *in)
{
	struct waiting *w = malloc(sizeof(*w) + in->header.length);

	if (!w) {
		wire_received_done(in);
		return fail(c, -ENOMEM);
	}
	w->next = NULL;
	w->header = in->header;
	w->map = take_ptr(in->map);
	w->n_map = in->n_map;
	memcpy(w->packet, in->packet, in->header.length);
	wire_received_done(in);
	*c->end = w;
	c->end = &w->next;
	return 0;
}

static struct waiting *take_waiting(struct connection *c, uint64_t request)
{
	for (struct waiting **at = &c->first; *at; at = &(*at)->next) {
		struct waiting *w = *at;

		if (request != 0 && w->header.request != request)
			continue;
		*at = w->next;
		if (!*at)
			c->end = at;
		return w;
	}
	return NULL;
}

/* The message again, as wire_receive() had given it. */
static int unpack_waiting(struct waiting *w, struct wire_received *ret, struct reason *reason)
{
	const void *body = ret->packet + PROTO_HEADER_BYTES;
	size_t n = w->header.length - PROTO_HEADER_BYTES;
	int r;

	memcpy(ret->packet, w->packet, w->header.length);
	ret->header = w->header;
	ret->map = w->map;
	ret->n_map = w->n_map;
	if (ret->map) {
		body = ret->map;
		n = ret->n_map;
	}
	free(w);
	r = proto_decode(&ret->header, body, n, &ret->message, reason);
	if (r < 0) {
		ret->message.owned = NULL;
		wire_received_done(ret);
	}
	return r;
}

int connection_receive(struct connection *c, uint64_t request, int timeout_ms,
	struct wire_received *ret, struct reason *reason)
{
	struct waiting *w = take_waiting(c, request);
	uint64_t deadline = deadline_in(timeout_ms);

	if (w)
		return unpack_waiting(w, ret, reason);
	for (;;) {
		int r = read_message(c, ret, reason);

		if (r == 0 && (request == 0 || ret->header.request == request))
			return 0;
		if (r == 0)
			r = put_aside(c, ret);
		else if (r == -EAGAIN)
			r = wait_ready(c->sock, POLLIN, deadline);
		if (r < 0)
			return r;
	}
}

/* The daemon's buffer is full. It may be waiting for us to read, so read. */
static int make_room(struct connection *c, struct reason *reason)
{
	int r = read_message(c, &c->aside, reason);

	if (r == 0)
		return put_aside(c, &c->aside);
	if (r == -EAGAIN)
		return wait_ready(c->sock, POLLIN | POLLOUT, NEVER);
	return r;
}

/* The daemon takes nothing more; what it said before is put aside. Never 0. */
static int drain_closed(struct connection *c, struct reason *reason)
{
	int r;

	do {
		r = read_message(c, &c->aside, reason);
		if (r == 0)
			r = put_aside(c, &c->aside);
	} while (r == 0);
	return r == -EAGAIN ? fail_closed(c, reason) : r;
}

static void packet_done(struct wire_packet *p)
{
	wire_packet_done(p);
}

int connection_send(struct connection *c, struct proto_message *m, struct reason *reason)
{
	_cleanup_(packet_done) struct wire_packet p = WIRE_PACKET_INIT;
	int r;

	if (c->error)
		return reason_set(reason, c->error, "the connection has failed before");
	if (m->request == 0)
		m->request = ++c->last_request;
	r = wire_pack(m, &p);
	if (r == -EMSGSIZE || r == -EINVAL)
		return reason_set(reason, r,
			r == -EINVAL
				? "request: a value or a length that the protocol does not have"
				: "request: larger than the protocol allows");
	if (r < 0)
		return r;
	for (;;) {
		r = wire_send(c->sock, p.bytes, p.n, p.fd);
		if (r == 0)
			return 0;
		if (r == -EPIPE || r == -ECONNRESET)
			return drain_closed(c, reason);
		if (r != -EAGAIN)
			return fail(c, r);
		r = make_room(c, reason);
		if (r < 0)
			return r;
	}
}

int connection_call(struct connection *c, struct proto_message *m, struct wire_received *ret,
	struct reason *reason)
{
	int r = connection_send(c, m, reason);

	return r < 0 ? r : connection_receive(c, m->request, -1, ret, reason);
}

static int take_hello(struct connection *c, const struct proto_message *m, struct reason *reason)
{
	if (m->op == PROTO_ERROR)
		return reason_set(reason, status_errno(m->error.status), "%s: %.*s",
			proto_status_name(m->error.status), (int)m->error.words.n,
			m->error.words.bytes);
	if (m->op != PROTO_HELLO_REPLY)
		return reason_set(reason, -EPROTO, "op %u: not an answer to hello", m->op);
	if (m->hello_reply.version != PROTO_VERSION)
		return reason_set(reason, -EPROTONOSUPPORT,
			"the daemon speaks protocol version %u, this program %u",
			m->hello_reply.version, PROTO_VERSION);
	memcpy(c->server, m->hello_reply.server.bytes, m->hello_reply.server.n);
	return 0;
}

static int say_hello(struct connection *c, const char *program, struct reason *reason)
{
	struct proto_message m = {
		.op = PROTO_HELLO,
		/* A name for the journal: a longer one is cut. */
		.hello = {.version = PROTO_VERSION,
			.client = {.bytes = program,
				.n = (uint32_t)strnlen(program, PROTO_MAX_NAME)}},
	};
	int r = connection_call(c, &m, &c->aside, reason);

	if (r < 0)
		return r;
	r = take_hello(c, &c->aside.message, reason);
	wire_received_done(&c->aside);
	return r;
}

int connection_adopt(int sock, const char *program, struct connection **ret, struct reason *reason)
{
	_cleanup_(connection_freep) struct connection *c = calloc(1, sizeof(*c));
	int flags = fcntl(sock, F_GETFL);
	int r;

	if (!c) {
		close(sock);
		return -ENOMEM;
	}
	c->sock = sock;
	c->end = &c->first;
	if (flags < 0 || fcntl(sock, F_SETFL, flags | O_NONBLOCK) < 0)
		return reason_set(reason, -errno, "socket: %m");
	r = say_hello(c, program, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(c);
	return 0;
}

/* While many wait for the daemon to take them, connecting waits too. On a Unix socket a signal ends
 * that without a trace. */
static int connect_to(int sock, const struct sockaddr_un *address)
{
	int r;

	do
		r = connect(sock, (const struct sockaddr *)address, sizeof(*address));
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

int connection_open(
	const char *path, const char *program, struct connection **ret, struct reason *reason)
{
	_cleanup_(closep) int sock = -1;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int r;

	/* As an address it would be one that anybody may take. */
	if (path[0] == '\0')
		return reason_set(reason, -ENOENT, "an empty path: no socket");
	if (strlen(path) >= sizeof(address.sun_path))
		return reason_set(reason, -ENAMETOOLONG, "%s: too long for a socket", path);
	memcpy(address.sun_path, path, strlen(path));
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return reason_set(reason, -errno, "socket: %m");
	r = connect_to(sock, &address);
	if (r < 0)
		return reason_set(reason, r, "%s: %s", path, strerror(-r));
	return connection_adopt(take_fd(&sock), program, ret, reason);
}

struct connection *connection_free(struct connection *c)
{
	if (!c)
		return NULL;
	while (c->first) {
		struct wire_received *in = &c->aside;
		struct waiting *w = take_waiting(c, 0);

		*in = (struct wire_received){.map = w->map, .n_map = w->n_map};
		wire_received_done(in);
		free(w);
	}
	close(c->sock);
	free(c);
	return NULL;
}

int connection_fd(const struct connection *c)
{
	return c->sock;
}

const char *connection_server(const struct connection *c)
{
	return c->server;
}
