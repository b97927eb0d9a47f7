#include "store/catalog.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct catalog {
	int folder;
};

static inline void catalogp(struct catalog **c)
{
	catalog_free(*c);
}

static inline void closedirp(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

int catalog_new(const char *folder, struct catalog **ret, struct reason *reason)
{
	_cleanup_(catalogp) struct catalog *c = calloc(1, sizeof(*c));

	if (!c)
		return reason_set(reason, -ENOMEM, "%s: out of memory", folder);
	c->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->folder < 0)
		return reason_set(reason, -errno, "%s: cannot open the store folder: %s", folder,
			strerror(errno));
	*ret = take_ptr(c);
	return 0;
}

struct catalog *catalog_free(struct catalog *catalog)
{
	if (!catalog)
		return NULL;
	if (catalog->folder >= 0)
		close(catalog->folder);
	free(catalog);
	return NULL;
}

static const char *suffix_of(enum image_kind kind)
{
	return kind == IMAGE_KIND_BASE ? ".base" : ".delta";
}

/* Not isalnum(): what is allowed must not depend on the locale. */
static bool character_valid(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '_' || c == '-';
}

bool catalog_name_valid(const char *name)
{
	size_t n = strnlen(name, CATALOG_MAX_NAME + 1);

	if (n == 0 || n > CATALOG_MAX_NAME || name[0] == '.')
		return false;
	for (size_t i = 0; i < n; i++)
		if (!character_valid(name[i]))
			return false;
	return true;
}

/* A valid name has no '/', so it lies in the folder. Not openat2(): filters of system calls that
 * watch the flags of an open must refuse it. Not blocking: opening a pipe must not wait for its
 * other end. */
static int open_inside(int folder, const char *file)
{
	int fd = openat(folder, file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW);

	return fd < 0 ? -errno : fd;
}

int catalog_open_file(
	const struct catalog *catalog, enum image_kind kind, const char *name, int *ret_fd)
{
	char file[CATALOG_MAX_NAME + 8];
	_cleanup_(closep) int fd = -1;
	struct stat st;

	if (!catalog_name_valid(name))
		return CATALOG_E_BAD_NAME;
	snprintf(file, sizeof(file), "%s%s", name, suffix_of(kind));
	fd = open_inside(catalog->folder, file);
	if (fd == -ENOENT || fd == -ELOOP || fd == -ENXIO)
		return CATALOG_E_ABSENT;
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return CATALOG_E_ABSENT;
	/* Back to waiting: reads of the file itself must. */
	if (fcntl(fd, F_SETFL, 0) < 0)
		return -errno;
	*ret_fd = take_fd(&fd);
	return 0;
}

/* True if the file called `file` belongs to the catalog. */
static bool read_entry(int folder, const char *file, const char *suffix, struct catalog_entry *ret)
{
	size_t n = strlen(file), n_suffix = strlen(suffix);
	struct catalog_entry e = {0};
	struct stat st;

	if (n <= n_suffix || n - n_suffix > CATALOG_MAX_NAME ||
		strcmp(file + n - n_suffix, suffix) != 0)
		return false;
	memcpy(e.name, file, n - n_suffix);
	if (!catalog_name_valid(e.name))
		return false;
	/* A file that was removed meanwhile is not there; that is no error. */
	if (fstatat(folder, file, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return false;
	e.n_bytes = (uint64_t)st.st_size;
	e.modified_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	*ret = e;
	return true;
}

static int append(struct catalog_entry **entries, size_t *n, const struct catalog_entry *e)
{
	/* Grows at powers of two. */
	if ((*n & (*n - 1)) == 0) {
		size_t room = *n ? 2 * *n : 1;
		struct catalog_entry *grown = reallocarray(*entries, room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		*entries = grown;
	}
	(*entries)[(*n)++] = *e;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(
		((const struct catalog_entry *)a)->name, ((const struct catalog_entry *)b)->name);
}

/* A descriptor of its own for reading the folder: one descriptor has one position. */
static DIR *open_listing(int folder)
{
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir && fd >= 0)
		close(fd);
	return dir;
}

int catalog_list(const struct catalog *catalog, enum image_kind kind, struct catalog_entry **ret,
	size_t *ret_n)
{
	_cleanup_(freep) struct catalog_entry *entries = NULL;
	_cleanup_(closedirp) DIR *dir = open_listing(catalog->folder);
	struct catalog_entry e;
	struct dirent *found;
	size_t n = 0;

	if (!dir)
		return -errno;
	while (errno = 0, found = readdir(dir)) {
		if (!read_entry(catalog->folder, found->d_name, suffix_of(kind), &e))
			continue;
		if (append(&entries, &n, &e) < 0)
			return -ENOMEM;
	}
	if (errno)
		return -errno;
	if (n > 1)
		qsort(entries, n, sizeof(*entries), by_name);
	*ret = take_ptr(entries);
	*ret_n = n;
	return 0;
}
