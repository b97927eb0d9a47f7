/*
 * A client's end of a connection: hello, numbered requests, and replies that wait for whoever asks
 * for them. The library and deltactl stand on it. One thread at a time.
 */
#pragma once

#include "client/wire.h"

struct connection;

/* Connects to `path` and says hello; blocks until the daemon has answered. `reason` tells what the
 * daemon said where it refused. */
int connection_open(const char *path, const char *program, struct connection **ret,
	struct reason *reason) _must_check_;
/* The same over a connected socket, which it takes, also on failure. */
int connection_adopt(int sock, const char *program, struct connection **ret, struct reason *reason)
	_must_check_;
struct connection *connection_free(struct connection *c);

static inline void connection_freep(struct connection **c)
{
	connection_free(*c);
}

int connection_fd(const struct connection *c);
const char *connection_server(const struct connection *c);

/* Numbers the message, unless it has a number, and sends it; m->request tells the number. While the
 * daemon's buffer is full, arriving messages are put aside. */
int connection_send(struct connection *c, struct proto_message *m, struct reason *reason)
	_must_check_;

/*
 * The oldest message that belongs to `request`, or to any if that is 0; others are put aside.
 * timeout_ms -1 waits for ever; -ETIMEDOUT. -ECONNRESET when the daemon is gone; messages that came
 * before are handed out first. -EPROTO, and again from then on, if it broke the protocol; what an
 * ERROR about the connection says (-EPROTO where we broke it, -EBUSY where there are too many). The
 * caller ends *ret with wire_received_done().
 */
int connection_receive(struct connection *c, uint64_t request, int timeout_ms,
	struct wire_received *ret, struct reason *reason) _must_check_;

/* Sends and waits for the reply; ERROR arrives as message too. */
int connection_call(struct connection *c, struct proto_message *m, struct wire_received *ret,
	struct reason *reason) _must_check_;

/* The errno for a status of the daemon: what the library returns for it. 0 for OK. */
int status_errno(uint32_t status);
