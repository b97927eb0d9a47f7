#include "tests/scripted_daemon.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>

struct scripted_daemon {
	pthread_t thread;
	void (*run)(struct script *s);
	struct script script;
};

static void must(bool so, const char *what)
{
	if (so)
		return;
	fprintf(stderr, "script: %s\n", what);
	abort();
}

static void *follow(void *arg)
{
	struct scripted_daemon *d = arg;

	d->run(&d->script);
	wire_received_done(&d->script.in);
	close(d->script.sock);
	return NULL;
}

struct scripted_daemon *scripted_daemon_new(void (*script)(struct script *s), int *ret_sock)
{
	struct scripted_daemon *d = calloc(1, sizeof(*d));
	int ends[2];

	must(d != NULL, "memory");
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
	d->run = script;
	d->script.sock = ends[0];
	must(pthread_create(&d->thread, NULL, follow, d) == 0, "thread");
	*ret_sock = ends[1];
	return d;
}

struct scripted_daemon *scripted_daemon_connect(
	void (*script)(struct script *s), struct deltad **ret)
{
	struct scripted_daemon *d;
	int sock;

	d = scripted_daemon_new(script, &sock);
	must(deltad_connect_fd(sock, ret) == 0, "no connection");
	return d;
}

void scripted_daemon_done(struct scripted_daemon *d)
{
	pthread_join(d->thread, NULL);
	free(d);
}

void script_check(bool so)
{
	must(so, "a check failed");
}

const struct proto_message *script_expect(struct script *s, enum proto_op op)
{
	wire_received_done(&s->in);
	must(wire_receive(s->sock, &s->in, NULL) == 0, "no valid message");
	must(s->in.message.op == op, "another op than expected");
	return &s->in.message;
}

void script_send(struct script *s, const struct proto_message *m)
{
	must(wire_send_message(s->sock, m) == 0, "cannot send");
}

void script_hello(struct script *s)
{
	const struct proto_message *hello = script_expect(s, PROTO_HELLO);
	const struct proto_message m = {
		.op = PROTO_HELLO_REPLY,
		.request = hello->request,
		.hello_reply = {.version = PROTO_VERSION, .server = proto_str("script 1")},
	};

	script_send(s, &m);
}

void script_token(struct script *s, uint64_t request, uint32_t token, const char *text)
{
	const struct proto_message m = {
		.op = PROTO_TOKEN,
		.request = request,
		.token = {.token = token, .logprob = -1, .text = proto_str(text)},
	};

	script_send(s, &m);
}

void script_finish(struct script *s, uint64_t request, enum proto_finish finish)
{
	const struct proto_message m = {
		.op = PROTO_DONE, .request = request, .done = {.finish = finish}};

	script_send(s, &m);
}

void script_expect_end(struct script *s)
{
	wire_received_done(&s->in);
	must(wire_receive(s->sock, &s->in, NULL) == WIRE_E_CLOSED, "more than expected");
}
