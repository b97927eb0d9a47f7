#include "daemon/session.h"

#include "common/clock.h"
#include "daemon/log.h"
#include "daemon/ops.h"
#include "daemon/request.h"
#include "daemon/server.h"

#include <linux/sockios.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

/* Packets of one client before others get their turn. */
#define FAIR_SHARE 16
#define NS_PER_MS UINT64_C(1000000)
/* Nor more of them once they have taken this long. */
#define FAIR_NS (10 * NS_PER_MS)

struct queued_packet {
	struct queued_packet *next;
	struct wire_packet packet;
};

static uint64_t cost_of(const struct wire_packet *p)
{
	return p->n + p->n_body;
}

/* A long message is memory of ours until it is read, and the kernel counts but its header. So each
 * client has one of them on its way: the next is held until all before it has been read. */
static bool must_be_held(const struct session *s, const struct wire_packet *p)
{
	int n_unread;

	/* When the kernel tells that the last packet was read, it still counts one byte of it. */
	return p->fd >= 0 && ioctl(s->fd, SIOCOUTQ, &n_unread) == 0 && n_unread > 1;
}

struct op {
	op_fn *run;
	bool admin_only;
};

static const struct op ops[] = {
	[PROTO_HELLO] = {op_hello, false},
	[PROTO_MODELS] = {op_models, false},
	[PROTO_COMPLETE] = {op_complete, false},
	[PROTO_CANCEL] = {op_cancel, false},
	[PROTO_TOKENIZE] = {op_tokenize, false},
	[PROTO_DETOKENIZE] = {op_detokenize, false},
	[PROTO_LOAD] = {op_load, true},
	[PROTO_UNLOAD] = {op_unload, true},
	[PROTO_PIN] = {op_pin, true},
	[PROTO_UNPIN] = {op_unpin, true},
	[PROTO_PS] = {op_ps, true},
	[PROTO_LIST] = {op_list, true},
	[PROTO_SHOW] = {op_show, true},
	[PROTO_STATS] = {op_stats, true},
	[PROTO_RELOAD] = {op_reload, true},
	[PROTO_DRAIN] = {op_drain, true},
};

/* Until here it counts as a connection of its user. */
static void session_gone(struct session *s)
{
	charge_release(&s->connection);
	server_remove_session(s->server, s);
	free(s);
}

void session_on_closed(struct closing *closing)
{
	session_gone(container_of(closing, struct session, closing));
}

static void hang_up(struct session *s)
{
	if (wire_hang_up(s->fd) != WIRE_E_STRANGER) {
		session_gone(s);
		return;
	}
	s->closing = (struct closing){.fds = {s->fd, s->stranger}};
	closer_give(s->server->closer, &s->closing);
	server_check_drained(s->server);
}

static void session_free(void *user)
{
	struct session *s = user;

	loop_source_free(s->io);
	loop_source_free(s->stall);
	while (s->requests)
		request_abandon(s->requests);
	while (s->first) {
		struct queued_packet *q = s->first;

		s->first = q->next;
		wire_packet_done(&q->packet);
		free(q);
	}
	charge_release(&s->queued);
	hang_up(s);
}

void session_close(struct session *s, const char *why)
{
	if (s->closed)
		return;
	log_debug("connection of uid %u, pid %d ends: %s", s->peer.uid, s->peer.pid, why);
	s->closed = true;
	loop_defer(s->server->loop, &s->defer, session_free, s);
}

/* There is room to write while a packet is held, so only a change of it, which is that the client
 * has read something, is news. */
static int update_events(struct session *s)
{
	uint32_t events = (s->throttled ? 0u : EPOLLIN) | (s->first ? EPOLLOUT : 0u);
	int r;

	if (s->held)
		events = EPOLLOUT | EPOLLET;
	if (events == s->events)
		return 0;
	r = loop_source_set_events(s->io, events);
	if (r >= 0)
		s->events = events;
	return r;
}

/* Between the marks nothing changes, so that a job is not stopped and started for every packet. */
static void throttle(struct session *s)
{
	const struct config *config = s->server->config;

	if (!s->throttled && s->queued_bytes > config->queue_high) {
		s->throttled = true;
		s->throttled_ns = clock_ns();
		for (struct request *r = s->requests; r; r = r->next)
			request_pause(r);
	} else if (s->throttled && s->queued_bytes <= config->queue_low) {
		s->throttled = false;
		for (struct request *r = s->requests; r; r = r->next)
			request_resume(r);
	}
}

static int charge_queue(struct session *s)
{
	if (s->queued.account)
		return charge_set(&s->queued, s->queued_bytes);
	return acct_charge(
		s->server->acct, s->peer.uid, ACCT_KIND_QUEUED_BYTES, s->queued_bytes, &s->queued);
}

static void on_queue_changed(struct session *s)
{
	if (charge_queue(s) != 0) {
		session_close(s, "its user has too many unread bytes");
		return;
	}
	throttle(s);
	if (update_events(s) < 0)
		session_close(s, "out of memory");
}

/* Sends what the kernel takes. */
static void flush_queue(struct session *s)
{
	s->held = false;
	while (s->first) {
		struct queued_packet *q = s->first;
		int r;

		s->held = must_be_held(s, &q->packet);
		if (s->held)
			break;
		r = wire_send(s->fd, q->packet.bytes, q->packet.n, q->packet.fd);
		if (r == -EAGAIN)
			break;
		if (r < 0) {
			session_close(s, "it does not listen any more");
			return;
		}
		s->progressed_ns = clock_ns();
		s->first = q->next;
		if (!s->first)
			s->end = &s->first;
		s->queued_bytes -= cost_of(&q->packet);
		wire_packet_done(&q->packet);
		free(q);
	}
	on_queue_changed(s);
	if (!s->first)
		server_check_drained(s->server);
}

static void enqueue(struct session *s, const struct proto_message *m)
{
	struct queued_packet *q = calloc(1, sizeof(*q));
	int r;

	if (!q) {
		session_close(s, "out of memory");
		return;
	}
	q->packet = WIRE_PACKET_INIT;
	r = wire_pack(m, &q->packet);
	if (r < 0) {
		free(q);
		log_error("cannot send a reply: %s", strerror(-r));
		session_close(s, "its reply could not be packed");
		return;
	}
	if (!s->first) {
		s->progressed_ns = clock_ns();
		if (loop_timer_set(s->stall, s->server->config->queue_stall) < 0)
			session_close(s, "out of memory");
	}
	*s->end = q;
	s->end = &q->next;
	s->queued_bytes += cost_of(&q->packet);
	on_queue_changed(s);
}

void session_send(struct session *s, const struct proto_message *m)
{
	uint8_t packet[1024];
	size_t n;
	int r;

	if (s->closed)
		return;
	/* The usual case, a token for a client that keeps up, takes no memory. */
	if (!s->first && proto_encode(m, packet, sizeof(packet), &n) == 0) {
		r = wire_send(s->fd, packet, n, -1);
		if (r == 0)
			return;
		if (r != -EAGAIN) {
			session_close(s, "it does not listen any more");
			return;
		}
	}
	enqueue(s, m);
	if (!s->closed && s->end == &s->first->next)
		flush_queue(s);
}

void session_send_error(
	struct session *s, uint64_t request, enum proto_status status, const struct reason *reason)
{
	struct proto_message m = {.op = PROTO_ERROR, .request = request};

	m.error.status = status;
	m.error.words = proto_str(reason ? reason->text : "");
	session_send(s, &m);
}

void session_send_ok(struct session *s, uint64_t request, const char *words)
{
	struct proto_message m = {.op = PROTO_OK, .request = request};

	m.ok.words = proto_str(words);
	session_send(s, &m);
}

static void refuse(struct session *s, uint64_t request, enum proto_status status, const char *words)
{
	struct reason reason;

	reason_set(&reason, 0, "%s", words);
	session_send_error(s, request, status, &reason);
}

static void dispatch(struct session *s, struct wire_received *received)
{
	const struct proto_message *m = &received->message;
	const struct op *op = (size_t)m->op < array_len(ops) ? &ops[m->op] : NULL;

	if (!op || !op->run) {
		refuse(s, m->request, PROTO_STATUS_BAD_MESSAGE, "a reply is not a request");
		session_close(s, "it sent a reply");
	} else if (!s->greeted && m->op != PROTO_HELLO) {
		refuse(s, m->request, PROTO_STATUS_BAD_MESSAGE, "the first message must be HELLO");
		session_close(s, "it did not say hello");
	} else if (op->admin_only && s->socket != PROTO_SOCKET_ADMIN) {
		refuse(s, m->request, PROTO_STATUS_NOT_PERMITTED,
			"this request needs the administration socket");
	} else {
		op->run(s, m);
	}
}

/* What is wrong with a message that could not be decoded. */
static void answer_violation(struct session *s, const struct wire_received *received, int error,
	const struct reason *reason)
{
	if (error == -EOPNOTSUPP) {
		session_send_error(s, received->header.request, PROTO_STATUS_NOT_SUPPORTED, reason);
		return;
	}
	if (error == -EMFILE) {
		session_send_error(s, 0, PROTO_STATUS_BUSY, reason);
		session_close(s, "no descriptor is left for its message");
		return;
	}
	if (error != -EBADMSG) {
		session_close(s, strerror(-error));
		return;
	}
	log_info("uid %u, pid %d broke the protocol: %s", s->peer.uid, s->peer.pid, reason->text);
	session_send_error(s, received->header.request, PROTO_STATUS_BAD_MESSAGE, reason);
	session_close(s, "it broke the protocol");
}

static int receive_message(struct session *s, struct wire_received *received, struct reason *reason)
{
	int r = wire_look(s->fd, &s->stranger);

	if (r == 0)
		return wire_receive(s->fd, received, reason);
	if (r == -EMFILE)
		return reason_set(reason, r, "too many files are open to take a long message");
	if (r != WIRE_E_STRANGER)
		return r;
	received->header = (struct proto_header){0};
	return reason_set(reason, -EBADMSG, "packet: brings more than one memfd");
}

/* False: nothing more for now. */
static bool receive_one(struct session *s)
{
	struct wire_received *received = server_message_buffer(s->server);
	struct reason reason = {""};
	int r;

	if (!received) {
		session_close(s, "out of memory");
		return false;
	}
	r = receive_message(s, received, &reason);
	if (r == -EAGAIN)
		return false;
	if (r == WIRE_E_CLOSED) {
		session_close(s, "it has closed the connection");
		return false;
	}
	if (r < 0) {
		answer_violation(s, received, r, &reason);
		return !s->closed;
	}
	dispatch(s, received);
	/* A request that waits has taken the message with it. */
	if (s->server->received == received)
		wire_received_done(received);
	return !s->closed && !s->throttled && !s->held;
}

static int on_io(void *user, uint32_t events)
{
	struct session *s = user;
	uint64_t begun_ns = clock_ns();

	if (s->closed)
		return 0;
	if (events & EPOLLOUT)
		flush_queue(s);
	if (events & EPOLLIN) {
		for (int i = 0; i < FAIR_SHARE && !s->closed && receive_one(s); i++)
			if (clock_ns() - begun_ns > FAIR_NS)
				break;
	} else if (events & (EPOLLHUP | EPOLLERR)) {
		session_close(s, "it has closed the connection");
	}
	return 0;
}

/* A paused job holds memory for keys and values that others wait for, so to read a little now and
 * then is not enough. */
static int on_stall(void *user)
{
	struct session *s = user;
	uint64_t limit_ns = s->server->config->queue_stall * NS_PER_MS;
	uint64_t progressed_ns =
		s->throttled ? min_u64(s->progressed_ns, s->throttled_ns) : s->progressed_ns;
	uint64_t since_ns = clock_ns() - progressed_ns;

	if (s->closed || !s->first)
		return 0;
	if (since_ns < limit_ns)
		return loop_timer_set(s->stall, (limit_ns - since_ns) / NS_PER_MS + 1);
	log_info("uid %u, pid %d has read %s for %llu ms: disconnected", s->peer.uid, s->peer.pid,
		s->throttled ? "too little" : "nothing",
		(unsigned long long)(since_ns / NS_PER_MS));
	session_close(s, "it does not read");
	return 0;
}

static bool admit(struct session *s, struct reason *reason)
{
	const struct server *server = s->server;
	int r;

	if (server->n_sessions > server->config->limits_connections) {
		reason_set(reason, 0, "the daemon has %llu connections, the most it takes",
			(unsigned long long)server->config->limits_connections);
		return false;
	}
	r = acct_charge(s->server->acct, s->peer.uid, ACCT_KIND_CONNECTIONS, 1, &s->connection);
	if (r == ACCT_E_LIMIT)
		reason_set(reason, 0, "user %u has %llu connections, the most one may have",
			s->peer.uid,
			(unsigned long long)server->config->limits_connections_per_user);
	else if (r < 0)
		reason_set(reason, 0, "%s", strerror(-r));
	return r == 0;
}

void session_new(struct server *server, enum proto_socket socket, int fd, const struct peer *peer)
{
	struct session *s = calloc(1, sizeof(*s));
	struct reason reason;

	if (!s) {
		close(fd);
		return;
	}
	s->server = server;
	s->fd = fd;
	s->stranger = -1;
	s->socket = socket;
	s->peer = *peer;
	s->end = &s->first;
	s->events = EPOLLIN;
	server_add_session(server, s);
	if (loop_add_timer(server->loop, on_stall, s, &s->stall) < 0 ||
		loop_add_io(server->loop, fd, EPOLLIN, on_io, s, &s->io) < 0) {
		session_close(s, "out of memory");
	} else if (!admit(s, &reason)) {
		log_warning("connection refused: %s", reason.text);
		session_send_error(s, 0, PROTO_STATUS_BUSY, &reason);
		session_close(s, "a limit is reached");
	} else {
		log_debug("connection of uid %u, pid %d", peer->uid, peer->pid);
	}
}
