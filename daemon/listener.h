/*
 * A listening socket: passed by the service manager, or made (and removed again) by us.
 */
#pragma once

#include "client/proto.h"
#include "daemon/loop.h"

#include <sys/types.h>

struct listener;

/* Who is at the other end, as the kernel says. */
struct peer {
	uid_t uid;
	gid_t gid;
	pid_t pid;
};

/* A client has connected; the callee takes `fd`, which is non-blocking and close-on-exec. */
typedef void listener_fn(void *user, enum proto_socket socket, int fd, const struct peer *peer);

/* Over a passed socket, which it takes on success. */
int listener_new_passed(struct loop *loop, enum proto_socket socket, int fd, listener_fn *fn,
	void *user, struct listener **ret) _must_check_;
/* Makes the socket. One that a dead daemon left behind is replaced; -EADDRINUSE if a living one
 * answers there. The file is removed by listener_free() if it is still ours. */
int listener_new_path(struct loop *loop, enum proto_socket socket, const char *path, mode_t mode,
	listener_fn *fn, void *user, struct listener **ret, struct reason *reason) _must_check_;
struct listener *listener_free(struct listener *l);
