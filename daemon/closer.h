/*
 * The closer: a thread that closes what strangers sent, as that may take as long as they like. What
 * it has not closed yet stays on its sender's account, so nobody gains by keeping it busy.
 */
#pragma once

#include "common/mailbox.h"

/* What is to be closed; a message to the closer and back. */
struct closing {
	struct mail mail;
	int fds[2]; /* owned; -1: none */
};

struct closer;

int closer_new(struct closer **ret) _must_check_;
/* Waits for nothing: where the thread is still at work, it is left to the end of the process. What
 * was not taken back belongs to it then. */
struct closer *closer_free(struct closer *c);

/* Cannot fail. */
void closer_give(struct closer *c, struct closing *closing);

/* Readable while something was closed. */
int closer_fd(const struct closer *c);
/* One that is closed, or NULL; the caller's again. */
struct closing *closer_take(struct closer *c);
