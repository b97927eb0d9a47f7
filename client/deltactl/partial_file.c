#include "client/deltactl/partial_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

/* A command that was killed takes seconds to give gigabytes back, and its lock with them. */
#define WAIT_STEPS 100
#define WAIT_STEP_NS 100000000

static bool lock_soon(int fd)
{
	const struct timespec step = {.tv_nsec = WAIT_STEP_NS};

	for (int i = 0; i < WAIT_STEPS; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return true;
		nanosleep(&step, NULL);
	}
	return false;
}

int partial_file_open(struct partial_file *p, const char *output, struct reason *reason)
{
	_cleanup_(freep) char *path = NULL;
	_cleanup_(closep) int fd = -1;
	struct stat st;

	if (asprintf(&path, "%s.partial", output) < 0) {
		path = NULL;
		return reason_set(reason, -ENOMEM, "%s: out of memory", output);
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (fd < 0 || fstat(fd, &st) < 0)
		return reason_set(reason, -errno, "%s: cannot open: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return reason_set(reason, -EINVAL, "%s: not a regular file", path);
	if (!lock_soon(fd))
		return reason_set(reason, -EBUSY, "%s: another command is at work on it", path);
	*p = (struct partial_file){.fd = take_fd(&fd), .path = take_ptr(path)};
	return 0;
}

void partial_file_remove(struct partial_file *p)
{
	if (p->path)
		unlink(p->path);
}

void partial_file_done(struct partial_file *p)
{
	closep(&p->fd);
	free(p->path);
	*p = PARTIAL_FILE_INIT;
}
