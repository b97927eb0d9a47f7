/*
 * The loader: a thread that makes variants of files, and frees them again, because both take their
 * time. Orders are carried out one after the other. The base comes first and stays until the end.
 */
#pragma once

#include "common/mailbox.h"
#include "daemon/loaded.h"

/* The end of a load; a message to the loop. */
struct load_result {
	struct mail mail;
	uint64_t id;
	int error; /* 0 or negative */
	struct reason reason;
	struct loaded *loaded; /* whoever takes the message owes the loader a loader_drop() */
};

struct loader;

/* `kernels` is borrowed. Starts the thread. */
int loader_new(const struct kernels *kernels, struct loader **ret) _must_check_;
/* Cancels the loads, then frees the base: all other variants must have been dropped. Results that
 * nobody took are freed. */
struct loader *loader_free(struct loader *l);

/* Reads `fd`, which it takes on success; `name` goes into the reasons. The first load is that of
 * the base. */
int loader_load(struct loader *l, uint64_t id, const char *name, int fd, bool is_base) _must_check_;
/* Takes a variant back and frees it on the loader's thread (the base: at the end). Cannot fail. */
void loader_drop(struct loader *l, struct loaded *loaded);

/* Readable while results wait. */
int loader_fd(const struct loader *l);
/* One result, or NULL; free() it. */
struct load_result *loader_take(struct loader *l);

/* The load that is running: how many of its bytes are in. False if it is not this one. */
bool loader_progress(const struct loader *l, uint64_t id, uint64_t *ret_done, uint64_t *ret_total);
