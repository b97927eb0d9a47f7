#include "common/file.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define SEAL_ATTEMPTS 100u /* each waits in the kernel as well: some 15 seconds in all */

int memory_file_seal(int fd)
{
	const struct timespec pause = {.tv_nsec = 10000000};

	/* The kernel waits a tenth of a second itself, which on a loaded machine is too short. */
	for (unsigned int attempt = 0;; attempt++) {
		if (fcntl(fd, F_ADD_SEALS, MEMORY_FILE_SEALS | F_SEAL_SEAL) == 0)
			return 0;
		if (errno != EBUSY || attempt == SEAL_ATTEMPTS)
			return -errno;
		(void)nanosleep(&pause, NULL);
	}
}

int file_read_at(int fd, void *ret_bytes, size_t n, uint64_t offset)
{
	uint8_t *at = ret_bytes;

	while (n > 0) {
		ssize_t got = pread(fd, at, n, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return -ENODATA;
		at += got;
		offset += (uint64_t)got;
		n -= (size_t)got;
	}
	return 0;
}

int file_write_at(int fd, const void *bytes, size_t n, uint64_t offset)
{
	const uint8_t *at = bytes;

	while (n > 0) {
		ssize_t put = pwrite(fd, at, n, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		at += put;
		offset += (uint64_t)put;
		n -= (size_t)put;
	}
	return 0;
}

int file_load(
	const char *path, uint64_t max_bytes, char **ret, size_t *ret_n, struct reason *reason)
{
	_cleanup_(closep) int fd = -1;
	_cleanup_(freep) char *text = NULL;
	struct stat st;
	int r;

	/* Not blocking, so that a FIFO cannot hold us. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return reason_set(reason, -errno, "%s: cannot open: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return reason_set(reason, -EBADMSG, "%s: not a regular file", path);
	if ((uint64_t)st.st_size > max_bytes)
		return reason_set(reason, -EBADMSG, "%s: %llu bytes, expected at most %llu", path,
			(unsigned long long)st.st_size, (unsigned long long)max_bytes);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return reason_set(reason, -ENOMEM, "%s: out of memory", path);
	r = file_read_at(fd, text, (size_t)st.st_size, 0);
	if (r < 0)
		return reason_set(reason, r, "%s: cannot read: %s", path, strerror(-r));
	*ret_n = (size_t)st.st_size;
	*ret = take_ptr(text);
	return 0;
}

int new_file_open(struct new_file *f, const char *path, struct reason *reason)
{
	_cleanup_(freep) char *final_path = NULL;
	_cleanup_(freep) char *temporary = NULL;
	struct stat st;
	mode_t mask;
	int fd;

	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return reason_set(
			reason, -EEXIST, "%s: there is something that is not a regular file", path);
	final_path = strdup(path);
	if (!final_path || asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return reason_set(reason, -ENOMEM, "%s: out of memory", path);
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return reason_set(
			reason, -errno, "%s: cannot create: %s", temporary, strerror(errno));
	mask = umask(0);
	umask(mask);
	if (fchmod(fd, 0666 & ~mask) < 0) {
		int error = -errno;

		close(fd);
		unlink(temporary);
		return reason_set(
			reason, error, "%s: cannot set mode: %s", temporary, strerror(-error));
	}
	*f = (struct new_file){
		.fd = fd, .path = take_ptr(final_path), .temporary = take_ptr(temporary)};
	return 0;
}

/* Makes a rename durable: the folder's entry itself must reach the disk. */
static int sync_folder_of(const char *path)
{
	_cleanup_(freep) char *folder = strdup(path);
	_cleanup_(closep) int fd = -1;
	char *slash;

	if (!folder)
		return -ENOMEM;
	slash = strrchr(folder, '/');
	if (slash == folder)
		slash[1] = '\0';
	else if (slash)
		*slash = '\0';
	fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

int new_file_commit(struct new_file *f, struct reason *reason)
{
	int r;

	if (fsync(f->fd) < 0)
		return reason_set(reason, -errno, "%s: cannot sync: %s", f->path, strerror(errno));
	if (rename(f->temporary, f->path) < 0)
		return reason_set(
			reason, -errno, "%s: cannot rename: %s", f->path, strerror(errno));
	free(take_ptr(f->temporary));
	r = sync_folder_of(f->path);
	if (r < 0)
		return reason_set(
			reason, r, "%s: cannot sync its folder: %s", f->path, strerror(-r));
	return 0;
}

void new_file_done(struct new_file *f)
{
	if (f->temporary)
		unlink(f->temporary);
	if (f->fd >= 0)
		close(f->fd);
	free(f->temporary);
	free(f->path);
	*f = NEW_FILE_INIT;
}
