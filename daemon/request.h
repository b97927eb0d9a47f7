/*
 * One request that needs a variant: it is charged to its user, waits for the variant or holds it,
 * and may have a job in the engine. Runs on the loop's thread.
 *
 *   begun    request_begin(): charged; the variant is held, or waited for with the message kept
 *   ready    its function is called with the variant held; it answers and ends the request, or
 *   running  submits a job; the engine's events answer it, the last one ends it
 *
 * A request whose client has gone is abandoned: a waiting one ends, a running one is cancelled and
 * ends with its job.
 */
#pragma once

#include "client/wire.h"
#include "daemon/acct.h"
#include "daemon/registry.h"
#include "daemon/stream.h"
#include "engine/engine.h"

struct session;
struct server;
struct request;

typedef void request_fn(struct request *r, const struct proto_message *m);

struct request {
	struct request *next; /* of the session's list */
	struct server *server;
	struct session *session; /* NULL: abandoned */
	uint64_t number;         /* of the protocol */
	request_fn *ready;
	struct charge charge;
	struct waiter waiter;
	struct wire_received *message; /* owned; until the request runs */
	struct entry *entry;           /* held; NULL while waiting */
	uint64_t begun_ns, load_ns;

	/* Running. */
	uint64_t job; /* 0: not submitted */
	struct stream *stream;
	bool stopped;   /* its text has ended; the engine may not know yet */
	bool cancelled; /* by the client */
	bool paused;
	uint32_t n_sent; /* tokens */
	/* Text that ended with the stop token, not sent yet; in the stream's memory. */
	const char *rest;
	size_t n_rest;
};

/* Starts a request for a variant: charges the user, takes the session's message, and calls `ready`
 * when the variant is in memory, which may be at once. What prevents that is answered. `fresh` as
 * in registry_acquire(). */
void request_begin(struct session *s, const struct proto_message *m, struct proto_str variant,
	bool fresh, request_fn *ready);
/* The same for one that waits for a variant to leave memory. */
void request_begin_unload(struct session *s, const struct proto_message *m);

/* Gives the job to the engine; the request then runs. `spec` lacks only id and variant. Errors are
 * answered, and end the request. Takes the stream. */
void request_submit(struct request *r, struct job_spec *spec, struct stream *stream);

/* Answers with an error and ends the request. */
void request_fail(struct request *r, enum proto_status status, const struct reason *reason);
/* Releases everything; the answer has been sent. */
void request_end(struct request *r);

void request_cancel(struct request *r);
void request_abandon(struct request *r);
void request_pause(struct request *r);
void request_resume(struct request *r);

/* An event of its job. FINISHED ends the request. */
void request_on_event(struct request *r, const struct engine_event *event);
