/*
 * A folder being made: it lives under a temporary name beside its final one until it is complete.
 * The counterpart of struct new_file, except that nothing existing is ever replaced.
 */
#pragma once

#include "common/reason.h"

struct new_folder {
	char *path;      /* final name; owned */
	char *temporary; /* where to write meanwhile; owned */
};

#define NEW_FOLDER_INIT ((struct new_folder){0})

/* -EEXIST if there is something under the final name. */
int new_folder_open(struct new_folder *f, const char *path, struct reason *reason) _must_check_;
/* Syncs the folder's entries, renames it and syncs its parent; the files in it are the writer's
 * business. */
int new_folder_commit(struct new_folder *f, struct reason *reason) _must_check_;
/* Removes the temporary folder, with what is in it, if it was not committed. */
void new_folder_done(struct new_folder *f);
