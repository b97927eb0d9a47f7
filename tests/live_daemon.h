/*
 * The real daemon, started by a test in a folder of its own, and clients of it. The daemon dies
 * with the test; everything that is waited for has a limit of time. All of these fail the running
 * test if something goes wrong.
 */
#pragma once

#include "client/connection.h"

#include <sys/types.h>

#define LIVE_TIMEOUT_MS 20000

/* A store, made once for a test program: base.base, and the deltas red.delta, which brings a chat
 * format, and blue.delta. */
struct live_store {
	char *folder;
};
void live_store_make(struct live_store *s);
void live_store_remove(struct live_store *s);
/* Copies NAME.delta to OTHER.delta of the same store. */
void live_store_copy(const struct live_store *s, const char *name, const char *other);

struct live_options {
	const char *yaml;  /* more sections of the configuration, after store and sockets */
	bool pass_sockets; /* as a service manager does */
	int watchdog_ms;   /* 0: none */
	bool do_not_wait;  /* for READY=1 */
};

struct live_manager;

struct live_daemon {
	pid_t pid;
	char *folder; /* configuration, sockets, log */
	char *config, *log;
	char *socket, *admin;
	bool passed;                  /* the sockets are the test's */
	struct live_manager *manager; /* hears what it tells the service manager */
};

void live_daemon_start(
	struct live_daemon *d, const struct live_store *store, const struct live_options *options);
/* Writes the configuration again, with other sections. */
void live_daemon_configure(struct live_daemon *d, const struct live_store *store, const char *yaml);
/* Waits until the daemon has told the service manager a line that begins so. */
void live_daemon_await(const struct live_daemon *d, const char *line);
void live_daemon_await_times(const struct live_daemon *d, const char *line, size_t n);
/* How often it has told such a line until now. */
size_t live_daemon_told(const struct live_daemon *d, const char *line);
/* The exit code of a daemon that is ending. */
int live_daemon_wait(struct live_daemon *d);
/* SIGKILL; its sockets stay. Then it can be started again with the same configuration. */
void live_daemon_kill(struct live_daemon *d);
void live_daemon_restart(struct live_daemon *d);
/* Runs a second one with the configuration of the first to its end; the exit code. */
int live_daemon_run_again(struct live_daemon *d);
/* SIGTERM, exit code 0, and no socket or other file is left. */
void live_daemon_stop(struct live_daemon *d);

struct connection *live_connect(const struct live_daemon *d);
struct connection *live_connect_admin(const struct live_daemon *d);

/* One finished request. */
struct answer {
	enum proto_status status; /* of an ERROR, or of DONE */
	enum proto_finish finish;
	uint32_t n_tokens, n_prompt;
	uint32_t tokens[2048];
	float logprobs[2048];
	char text[16384];
	char stop[PROTO_MAX_STOP_BYTES + 1];
	char words[PROTO_MAX_WORDS + 1];
	uint64_t load_ns;
};

/* A text prompt to a variant, greedy, that ignores the end of text. */
struct proto_message live_complete(const char *variant, const char *prompt, uint32_t max_tokens);
/* Sends; returns the request's number. */
uint64_t live_send(struct connection *c, struct proto_message *m);
void live_collect(struct connection *c, uint64_t request, struct answer *ret);
void live_ask(struct connection *c, const char *variant, const char *prompt, uint32_t max_tokens,
	struct answer *ret);

/* An administrator's request by name, or without one (NULL). Returns the status; `words`, which may
 * be NULL, gets what was said. */
enum proto_status live_order(struct connection *c, enum proto_op op, const char *name,
	char words[static PROTO_MAX_WORDS + 1]);
uint64_t live_stat(struct connection *admin, const char *name);
void live_await_stat(struct connection *admin, const char *name, uint64_t value);
enum proto_residency live_residency(struct connection *admin, const char *name);
