/*
 * Commands that ask a running daemon: its administration socket, one request, one reply.
 */
#pragma once

#include "client/connection.h"
#include "client/deltactl/command.h"

#include <jansson.h>

#define REMOTE_OPTIONS                                                                             \
	"  --socket PATH   the daemon's administration socket; else $DELTAD_ADMIN_SOCKET, else\n"  \
	"                  " REMOTE_ADMIN_SOCKET "\n"
#define REMOTE_JSON_OPTION "  --json          machine-readable output\n"
#define REMOTE_ADMIN_SOCKET "/run/deltad/admin.sock"

struct remote_options {
	const char *socket; /* as given, or the default */
	bool json;
	const char *name; /* the one argument, where the command has one */
};

/*
 * Takes --socket and --help, --json where `takes_json`, and one argument where `takes_name`.
 * Returns -1 to go on, else the exit code.
 */
int remote_parse(const struct command *command, int argc, char **argv, bool takes_json,
	bool takes_name, struct remote_options *ret);

struct remote {
	const struct command *command;
	struct connection *connection;
	struct wire_received reply;
};

/* These print what went wrong and return an exit code; EXIT_OK is success. */
int remote_open(struct remote *r, const struct command *command, const char *socket);
/* The reply, of op `expected`, is in r->reply until the next call or remote_done(). */
int remote_call(struct remote *r, struct proto_message *m, enum proto_op expected);
void remote_done(struct remote *r);

/* A command that sends one request with or without a name and gets OK: the daemon's words, if any,
 * go to stdout. */
int remote_simple(
	const struct command *command, int argc, char **argv, enum proto_op op, bool takes_name);

/* "deltactl NAME: WORDS" for an errno of the connection or of libdeltad. EXIT_NO_DAEMON where no
 * daemon could be reached, EXIT_REFUSED where it said no. */
int remote_fail(const struct command *command, int error, const char *words);

/* One JSON value a line on stdout; takes the reference. */
int remote_print_json(const struct command *command, json_t *value);
/* A borrowed string as JSON; bytes that are not UTF-8 make it null. */
json_t *remote_json_str(struct proto_str s);
