/*
 * Messages between threads: a mutex, a list and an eventfd. Whoever posts gives the message away;
 * whoever takes owns it. The eventfd is written only when the box was empty, so a busy receiver
 * costs its senders no system call.
 */
#pragma once

#include "common/base.h"

/* First member of every message. */
struct mail {
	struct mail *next;
};

struct mailbox;

int mailbox_new(struct mailbox **ret) _must_check_;
/* Messages still inside are handed to `drop`, which may be NULL if the box is known to be empty. */
struct mailbox *mailbox_free(struct mailbox *box, void (*drop)(struct mail *));

/* Readable while messages wait; for an event loop. The box keeps it. */
int mailbox_fd(const struct mailbox *box);

void mailbox_post(struct mailbox *box, struct mail *mail);
/* All waiting messages, oldest first, linked by `next`; NULL if there are none. Clears the fd. */
struct mail *mailbox_take(struct mailbox *box);
/* Sleeps until a message waits or timeout_ms (-1: for ever) has passed. */
void mailbox_wait(struct mailbox *box, int timeout_ms);
