#include "client/deltactl/new_folder.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_OPEN_FOLDERS 8

/* Without slashes at the end, so that a suffix makes a sibling. */
static char *plain_path(const char *path)
{
	size_t n = strlen(path);

	while (n > 1 && path[n - 1] == '/')
		n--;
	return strndup(path, n);
}

int new_folder_open(struct new_folder *f, const char *path, struct reason *reason)
{
	_cleanup_(freep) char *final_path = plain_path(path), *temporary = NULL;
	struct stat st;
	mode_t mask;

	if (!final_path || asprintf(&temporary, "%s.XXXXXX", final_path) < 0)
		return reason_set(reason, -ENOMEM, "%s: out of memory", path);
	if (lstat(final_path, &st) == 0)
		return reason_set(reason, -EEXIST, "%s: exists already", final_path);
	if (!mkdtemp(temporary))
		return reason_set(
			reason, -errno, "%s: cannot create: %s", temporary, strerror(errno));
	mask = umask(0);
	umask(mask);
	*f = (struct new_folder){take_ptr(final_path), take_ptr(temporary)};
	if (chmod(f->temporary, 0777 & ~mask) < 0)
		return reason_set(
			reason, -errno, "%s: cannot set mode: %s", f->temporary, strerror(errno));
	return 0;
}

static int sync_folder(const char *path)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int sync_parent(const char *path)
{
	_cleanup_(freep) char *parent = strdup(path);
	char *slash;

	if (!parent)
		return -ENOMEM;
	slash = strrchr(parent, '/');
	if (!slash)
		return sync_folder(".");
	slash[slash == parent] = '\0';
	return sync_folder(parent);
}

int new_folder_commit(struct new_folder *f, struct reason *reason)
{
	int r = sync_folder(f->temporary);

	if (r < 0)
		return reason_set(reason, r, "%s: cannot sync: %s", f->temporary, strerror(-r));
	if (renameat2(AT_FDCWD, f->temporary, AT_FDCWD, f->path, RENAME_NOREPLACE) < 0)
		return reason_set(
			reason, -errno, "%s: cannot rename to it: %s", f->path, strerror(errno));
	free(take_ptr(f->temporary));
	r = sync_parent(f->path);
	if (r < 0)
		return reason_set(
			reason, r, "%s: cannot sync its folder: %s", f->path, strerror(-r));
	return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

void new_folder_done(struct new_folder *f)
{
	if (f->temporary)
		nftw(f->temporary, remove_entry, MAX_OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
	free(f->temporary);
	free(f->path);
	*f = NEW_FOLDER_INIT;
}
