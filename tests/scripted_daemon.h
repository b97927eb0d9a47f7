/*
 * The other end of a client's connection, in a thread that follows a test's script. A script that
 * is disappointed aborts the program.
 */
#pragma once

#include "client/deltad.h"
#include "client/wire.h"

struct scripted_daemon;

struct script {
	int sock;
	struct wire_received in;
};

/* Starts the script over one end of a socket pair; the other end goes to *ret_sock. */
struct scripted_daemon *scripted_daemon_new(void (*script)(struct script *s), int *ret_sock);
/* The same with the library at the other end, past its hello. */
struct scripted_daemon *scripted_daemon_connect(
	void (*script)(struct script *s), struct deltad **ret);
/* Joins the thread. */
void scripted_daemon_done(struct scripted_daemon *d);

/* For scripts, which run in a thread where cmocka's own checks cannot stop the test. */
void script_check(bool so);
const struct proto_message *script_expect(struct script *s, enum proto_op op);
void script_send(struct script *s, const struct proto_message *m);
/* Takes HELLO and answers it. */
void script_hello(struct script *s);
void script_token(struct script *s, uint64_t request, uint32_t token, const char *text);
void script_finish(struct script *s, uint64_t request, enum proto_finish finish);
/* Waits until the client has closed. */
void script_expect_end(struct script *s);
