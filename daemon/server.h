/*
 * The daemon as a whole: everything that the loop's thread owns, built in order and torn down in
 * reverse.
 */
#pragma once

#include "client/wire.h"
#include "daemon/acct.h"
#include "daemon/closer.h"
#include "daemon/config.h"
#include "daemon/events.h"
#include "daemon/jobs.h"
#include "daemon/listener.h"
#include "daemon/loader.h"
#include "daemon/loop.h"
#include "daemon/registry.h"
#include "kernels/kernels.h"
#include "store/catalog.h"

/* The variant without a delta. A file base.delta cannot be asked for. */
#define SERVER_BASE_NAME "base"

/* What the command line says; it outranks the configuration file. NULL: nothing. Borrowed. */
struct server_options {
	const char *config_path;
	const char *store_folder;
	const char *base;
	const char *inference_socket;
	const char *admin_socket;
};

struct server {
	struct server_options options;
	struct config *config;
	struct loop *loop;
	struct acct *acct;
	struct catalog *catalog;
	struct kernels kernels;
	struct loader *loader;
	struct closer *closer;
	struct registry *registry;
	struct events *events;
	struct jobs *jobs;
	struct engine *engine; /* once the base is in memory */

	struct loop_source *loader_io, *closer_io, *events_io;
	struct loop_source *on_sigterm, *on_sigint, *on_sighup;
	struct loop_source *drain_timer, *status_timer, *watchdog_timer;
	bool status_pending;           /* the status timer runs */
	struct listener *listeners[2]; /* by enum proto_socket */

	struct waiter base_waiter;
	struct entry *base; /* held from the time it is loaded to the end */
	uint64_t kv_positions;
	bool io_uring_told, registration_told;

	struct session *sessions;
	uint64_t n_sessions;
	struct wire_received *received; /* where the next message goes; requests may take it */

	uint64_t n_requests, n_paused;
	uint64_t idle_ns; /* when the watchdog last saw the engine without work */
	bool stuck;       /* it has told that the engine makes no progress */
	bool draining;
	bool cancelling; /* the time for draining is over */
	bool drained;
	int error; /* why the loop was stopped, if it was not asked to */
	uint64_t started_ns;
};

/* The configuration that is in force: file, then options. */
int server_read_config(const struct server_options *options, struct config **ret,
	struct reason *reason) _must_check_;

/* Takes the configuration. Sockets answer when this returns, while the base is being loaded. */
int server_new(const struct server_options *options, struct config *config, struct server **ret,
	struct reason *reason) _must_check_;
/* Until the daemon has been told to end, and has drained. 0, or why it could not go on (told to the
 * log already). */
int server_run(struct server *server) _must_check_;
struct server *server_free(struct server *server);

/* For sessions and requests. */
struct wire_received *server_message_buffer(struct server *server); /* NULL: no memory */
void server_add_session(struct server *server, struct session *s);
void server_remove_session(struct server *server, struct session *s);
/* Positions that all KV pages together hold. */
uint64_t server_kv_positions(const struct server *server);

/* Takes no new connections and requests; the running ones may end, for as long as the configuration
 * says. A second call cancels them. */
void server_drain(struct server *server);
/* Called whenever a request has ended or a queue is empty. */
void server_check_drained(struct server *server);

/* Starts telling the service manager's watchdog, if there is one, that work goes on. */
int server_start_watchdog(struct server *server) _must_check_;

/* The limits that may change while the daemon runs, from the configuration in force. */
void server_apply_limits(struct server *server);

/* Reads the configuration again and applies what can change. Nothing changes if it is wrong.
 * `words` says what changed, or what is wrong. */
int server_reload(struct server *server, struct reason *words) _must_check_;

static inline void server_freep(struct server **s)
{
	server_free(*s);
}
