/*
 * Whole reads and writes, and files that appear complete or not at all.
 */
#pragma once

#include "common/base.h"
#include "common/reason.h"

#include <fcntl.h>
#include <sys/types.h>

/* Read or write exactly n bytes at an offset, continuing after short transfers and signals.
 * A file that ends early is -ENODATA. */
int file_read_at(int fd, void *ret_bytes, size_t n, uint64_t offset) _must_check_;
int file_write_at(int fd, const void *bytes, size_t n, uint64_t offset) _must_check_;

/* What makes a file in memory the same for everybody and for ever, with F_SEAL_SEAL. */
#define MEMORY_FILE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
/* Adds them. -EBUSY where a writable mapping is left; somebody who holds a page for a moment only,
 * as the kernel does after direct reads and when it looks for idle pages, is waited for. */
int memory_file_seal(int fd) _must_check_;

/* A whole file as a malloc'ed text of *ret_n bytes, not terminated. The reason begins with the
 * path; -ENOENT if there is none, -EBADMSG if it is not a regular file of at most max_bytes. */
int file_load(const char *path, uint64_t max_bytes, char **ret, size_t *ret_n,
	struct reason *reason) _must_check_;

/*
 * A file being made: it lives under a temporary name in the folder of its final name, and
 * new_file_commit() syncs it, renames it over `path` and syncs the folder. A crash leaves the old
 * file or the new one; new_file_done() without commit removes the temporary. Only files are
 * replaced: -EEXIST where `path` is a folder, device or pipe, before anything is computed for it.
 */
struct new_file {
	int fd;     /* open for reading and writing; owned */
	char *path; /* final name; owned */
	char *temporary;
};

#define NEW_FILE_INIT ((struct new_file){.fd = -1})

int new_file_open(struct new_file *f, const char *path, struct reason *reason) _must_check_;
int new_file_commit(struct new_file *f, struct reason *reason) _must_check_;
void new_file_done(struct new_file *f);
