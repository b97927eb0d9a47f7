#include "daemon/listener.h"

#include "daemon/log.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* Connections taken before others get their turn. */
#define FAIR_SHARE 16
/* How long to wait when the process is out of descriptors. */
#define PAUSE_MS 500

struct listener {
	struct loop_source *io;
	struct loop_source *pause;
	enum proto_socket socket;
	int fd;
	listener_fn *fn;
	void *user;
	/* Of a socket that we made. */
	char *path;
	dev_t device;
	ino_t inode;
};

struct listener *listener_free(struct listener *l)
{
	struct stat st;

	if (!l)
		return NULL;
	loop_source_free(l->io);
	loop_source_free(l->pause);
	if (l->path && lstat(l->path, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode)
		unlink(l->path);
	closep(&l->fd);
	free(l->path);
	free(l);
	return NULL;
}

static inline void listener_freep(struct listener **l)
{
	listener_free(*l);
}

static int accept_one(struct listener *l)
{
	_cleanup_(closep) int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred who;
	socklen_t n = sizeof(who);

	if (fd < 0)
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) < 0)
		return 0;
	l->fn(l->user, l->socket, take_fd(&fd),
		&(struct peer){.uid = who.uid, .gid = who.gid, .pid = who.pid});
	return 0;
}

static bool is_out_of_resources(int error)
{
	return error == -EMFILE || error == -ENFILE || error == -ENOMEM || error == -ENOBUFS;
}

static int on_readable(void *user, uint32_t events)
{
	struct listener *l = user;
	int r = 0;

	(void)events;
	for (int i = 0; i < FAIR_SHARE && r >= 0; i++)
		r = accept_one(l);
	if (!is_out_of_resources(r))
		return 0;
	/* The connection stays in the queue; without a pause the loop would spin on it. */
	log_warning("cannot accept connections for the moment: %s", strerror(-r));
	r = loop_source_set_events(l->io, 0);
	if (r < 0)
		return r;
	return loop_timer_set(l->pause, PAUSE_MS);
}

static int on_pause_over(void *user)
{
	struct listener *l = user;

	return loop_source_set_events(l->io, EPOLLIN);
}

int listener_new_passed(struct loop *loop, enum proto_socket socket, int fd, listener_fn *fn,
	void *user, struct listener **ret)
{
	_cleanup_(listener_freep) struct listener *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->fd = -1;
	l->socket = socket;
	l->fn = fn;
	l->user = user;
	r = loop_add_timer(loop, on_pause_over, l, &l->pause);
	if (r < 0)
		return r;
	r = loop_add_io(loop, fd, EPOLLIN, on_readable, l, &l->io);
	if (r < 0)
		return r;
	l->fd = fd;
	*ret = take_ptr(l);
	return 0;
}

/* Does anybody listen there? */
static bool is_alive(const struct sockaddr_un *address)
{
	_cleanup_(closep) int fd =
		socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
	       errno != ECONNREFUSED;
}

static int bind_socket(int fd, const struct sockaddr_un *address, mode_t mode)
{
	struct stat st;

	/* The file is born with the mode of the descriptor, so that it is never more open. */
	if (fchmod(fd, mode) < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return -errno;
	if (lstat(address->sun_path, &st) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	if (is_alive(address))
		return -EADDRINUSE;
	if (unlink(address->sun_path) < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		return -errno;
	return 0;
}

static int make_socket(const char *path, mode_t mode, struct reason *reason)
{
	_cleanup_(closep) int fd =
		socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int r;

	if (fd < 0)
		return reason_set(reason, -errno, "%s: %s", path, strerror(errno));
	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >=
		(int)sizeof(address.sun_path))
		return reason_set(reason, -ENAMETOOLONG, "%s: too long for a socket", path);
	r = bind_socket(fd, &address, mode);
	if (r == -EADDRINUSE)
		return reason_set(reason, r, "%s: another process listens there", path);
	if (r == -EEXIST)
		return reason_set(reason, r, "%s: there is a file, not a socket", path);
	if (r < 0)
		return reason_set(reason, r, "%s: %s", path, strerror(-r));
	/* The process's umask took bits away. */
	if (chmod(path, mode) < 0 || listen(fd, SOMAXCONN) < 0)
		return reason_set(reason, -errno, "%s: %s", path, strerror(errno));
	return take_fd(&fd);
}

int listener_new_path(struct loop *loop, enum proto_socket socket, const char *path, mode_t mode,
	listener_fn *fn, void *user, struct listener **ret, struct reason *reason)
{
	_cleanup_(listener_freep) struct listener *l = NULL;
	_cleanup_(closep) int fd = make_socket(path, mode, reason);
	struct stat st;
	int r;

	if (fd < 0)
		return fd;
	r = listener_new_passed(loop, socket, fd, fn, user, &l);
	if (r < 0)
		return r;
	take_fd(&fd);
	l->path = strdup(path);
	if (!l->path || lstat(path, &st) < 0)
		return reason_set(reason, -ENOMEM, "%s: out of memory", path);
	l->device = st.st_dev;
	l->inode = st.st_ino;
	*ret = take_ptr(l);
	return 0;
}
