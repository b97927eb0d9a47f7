/*
 * Which base images and delta files lie in a store folder. The folder is held open, and files are
 * opened beneath it by name alone: no client's string ever becomes a path, and no link leads out.
 *
 * A file belongs to the catalog if it is called NAME.base or NAME.delta with a name of 1 to 64
 * characters A-Z a-z 0-9 . _ - that does not begin with a dot, and is a regular file. NAME is the
 * alias under which a client asks for it.
 */
#pragma once

#include "common/reason.h"
#include "store/image.h"

#define CATALOG_MAX_NAME 64u

/* Expected conditions of catalog_open_file(). */
enum catalog_condition {
	CATALOG_E_ABSENT = 1, /* no such file, or not a regular one */
	CATALOG_E_BAD_NAME,
};

struct catalog;

struct catalog_entry {
	char name[CATALOG_MAX_NAME + 1];
	uint64_t n_bytes;
	int64_t modified_ns; /* since the epoch */
};

/* -errno with the folder's name in the reason if it cannot be opened. */
int catalog_new(const char *folder, struct catalog **ret, struct reason *reason) _must_check_;
struct catalog *catalog_free(struct catalog *catalog);

bool catalog_name_valid(const char *name);

/* Opens NAME.base or NAME.delta for reading; the caller closes it. 0, a catalog_condition or
 * -errno. */
int catalog_open_file(const struct catalog *catalog, enum image_kind kind, const char *name,
	int *ret_fd) _must_check_;

static inline _must_check_ int catalog_open_delta(
	const struct catalog *catalog, const char *name, int *ret_fd)
{
	return catalog_open_file(catalog, IMAGE_KIND_DELTA, name, ret_fd);
}

static inline _must_check_ int catalog_open_base(
	const struct catalog *catalog, const char *name, int *ret_fd)
{
	return catalog_open_file(catalog, IMAGE_KIND_BASE, name, ret_fd);
}

/* What the folder has now, sorted by name; *ret is the caller's to free. */
int catalog_list(const struct catalog *catalog, enum image_kind kind, struct catalog_entry **ret,
	size_t *ret_n) _must_check_;
