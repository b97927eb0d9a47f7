/*
 * A folder of a test's own, in $TMPDIR, for files that it makes and breaks.
 */
#pragma once

#include <stddef.h>

/* malloc'ed path of a new empty folder; aborts the test program if there is none to be had. */
char *scratch_folder(void);
/* The folder and everything in it. */
void scratch_remove(const char *folder);
/* malloc'ed "folder/name". */
char *scratch_path(const char *folder, const char *name);
/* Writes (or replaces) a file and returns its malloc'ed path. */
char *scratch_write(const char *folder, const char *name, const void *bytes, size_t n);
/* The first n bytes of an open file, in memory: a descriptor of the caller's. */
int scratch_copy(int fd, size_t n);
