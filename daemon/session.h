/*
 * One client: its connection, what it asked for, what it has not read yet. Runs on the loop's
 * thread. Closing only marks a session; it goes when the running callback has returned, so whoever
 * holds a pointer to it may go on and find that sending does nothing.
 */
#pragma once

#include "client/wire.h"
#include "daemon/acct.h"
#include "daemon/closer.h"
#include "daemon/listener.h"
#include "daemon/loop.h"

struct server;
struct request;

struct session {
	struct session *next, *previous; /* of the server's list */
	struct server *server;
	struct loop_source *io;
	struct loop_source *stall;
	struct loop_defer defer;
	struct closing closing;
	int fd;
	int stranger; /* -1, or a descriptor it sent that may take long to close */
	enum proto_socket socket;
	struct peer peer;
	bool greeted;   /* HELLO has come */
	bool throttled; /* above the high mark: its jobs are paused, its packets not read */
	bool closed;
	struct charge connection;
	struct charge queued;
	struct queued_packet *first, **end; /* not yet taken by the kernel */
	bool held;                          /* the first waits until all before it is read */
	uint32_t events;                    /* what the loop watches for */
	uint64_t queued_bytes;
	uint64_t progressed_ns; /* when the kernel last took something */
	uint64_t throttled_ns;  /* when it was throttled */
	struct request *requests;
};

/* Takes `fd`. Refuses by itself, with a message to the client, where a limit is reached. */
void session_new(struct server *server, enum proto_socket socket, int fd, const struct peer *peer);

/* Never blocks; what the kernel does not take is queued. A client that is gone, or past its limit,
 * is closed. */
void session_send(struct session *s, const struct proto_message *m);
void session_send_error(
	struct session *s, uint64_t request, enum proto_status status, const struct reason *reason);
void session_send_ok(struct session *s, uint64_t request, const char *words);

/* `why` is for the log. */
void session_close(struct session *s, const char *why);

/* The closer has closed what the session left to it. */
void session_on_closed(struct closing *closing);
