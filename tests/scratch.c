#include "tests/scratch.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void require(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

char *scratch_folder(void)
{
	const char *root = getenv("TMPDIR");
	char *path;

	require(asprintf(&path, "%s/deltad-test.XXXXXX", root ? root : "/tmp") >= 0, "asprintf");
	require(mkdtemp(path) != NULL, path);
	return path;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

void scratch_remove(const char *folder)
{
	require(nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0, folder);
}

char *scratch_path(const char *folder, const char *name)
{
	char *path;

	require(asprintf(&path, "%s/%s", folder, name) >= 0, "asprintf");
	return path;
}

char *scratch_write(const char *folder, const char *name, const void *bytes, size_t n)
{
	char *path = scratch_path(folder, name);
	FILE *file = fopen(path, "we");

	require(file != NULL, path);
	require(fwrite(bytes, 1, n, file) == n && fclose(file) == 0, path);
	return path;
}

int scratch_copy(int fd, size_t n)
{
	char *bytes = malloc(n + 1);
	int copy = memfd_create("copy", MFD_CLOEXEC);

	require(bytes != NULL && copy >= 0, "copy");
	require(pread(fd, bytes, n, 0) == (ssize_t)n, "read");
	require(write(copy, bytes, n) == (ssize_t)n, "write");
	free(bytes);
	return copy;
}
