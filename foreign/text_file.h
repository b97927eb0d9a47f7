/*
 * Small files of a model folder, read whole.
 */
#pragma once

#include "common/reason.h"

/* A file of the folder as a malloc'ed text of *ret_n bytes, not terminated. -ENOENT (with a reason)
 * if there is none, -EBADMSG if it is not a regular file of at most max_bytes. */
int text_file_load(const char *folder, const char *name, size_t max_bytes, char **ret,
	size_t *ret_n, struct reason *reason) _must_check_;
