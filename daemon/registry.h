/*
 * The registry: from names of variants to what is in memory. It decides what is loaded, who waits
 * for it, who holds it and what goes when room is needed; reading and freeing are done elsewhere,
 * through the backend. Runs on the loop's thread.
 */
#pragma once

#include "common/reason.h"

#define REGISTRY_MAX_NAME 128

struct loaded; /* what a load made: daemon/loader.h */

enum entry_state {
	ENTRY_STATE_ABSENT,
	ENTRY_STATE_LOADING,
	ENTRY_STATE_RESIDENT,
	ENTRY_STATE_DRAINING,
	ENTRY_STATE_FAILED,
};

/* A name's file as it is on disk now. Device, inode, time and size together tell a replaced file.
 */
struct registry_file {
	int fd; /* owned; -1 once the load has it */
	uint64_t bytes;
	uint64_t memory_bytes; /* what it will take when loaded, by its own word */
	uint64_t device, inode, modified_ns;
	bool is_base; /* outside the budget, never unloaded */
};

struct registry_backend {
	/* Fills *ret; -ENOENT if no variant has this name. */
	int (*find)(void *user, const char *name, struct registry_file *ret, struct reason *reason);
	/* Begins a load that ends in registry_finish_load(id), later. Takes file->fd on success. */
	int (*load)(void *user, uint64_t id, const char *name, struct registry_file *file);
	/* Takes what a load made. */
	void (*drop)(void *user, struct loaded *loaded);
	uint64_t (*now_ns)(void);
	void *user;
};

/* Expected conditions. */
enum registry_condition {
	REGISTRY_E_WAIT = 1,     /* not yet: the waiter will be called */
	REGISTRY_E_UNKNOWN,      /* no such name */
	REGISTRY_E_FAILED,       /* its load failed; entry->error and the reason say why */
	REGISTRY_E_BUDGET,       /* does not fit, whatever may be evicted */
	REGISTRY_E_NOT_RESIDENT, /* not in memory */
	REGISTRY_E_PINNED,       /* pinned, or the base */
};

struct waiter;

/* `condition` is 0 (the waiter now holds waiter->entry, or its entry has left memory if that was
 * waited for) or REGISTRY_E_FAILED with `error` and `reason` of the load. */
typedef void waiter_fn(struct waiter *w, int condition, int error, const struct reason *reason);

/* Embedded in whatever waits. */
struct waiter {
	struct waiter *next;
	struct entry *entry; /* NULL: not waiting */
	waiter_fn *ready;
};

struct entry {
	struct entry *next;
	uint64_t id; /* of the current load */
	enum entry_state state;
	bool pinned;
	struct entry *replaces; /* the resident one whose place it takes when it is loaded */
	char name[REGISTRY_MAX_NAME + 1];
	struct registry_file file; /* as loaded, or as it failed */
	struct loaded *loaded;     /* RESIDENT and DRAINING */
	uint64_t charged_bytes;    /* of the budget: LOADING, RESIDENT, DRAINING; 0 for the base */
	uint64_t memory_bytes;     /* RESIDENT, DRAINING */
	size_t n_holders;
	struct waiter *waiters; /* LOADING: for the load's end; DRAINING: for the memory's */
	int error;              /* FAILED */
	struct reason reason;
	uint64_t begun_ns, load_ns, used_ns;
	uint64_t n_streams, n_requests, n_generated; /* counted by the operations */
};

struct registry;

int registry_new(const struct registry_backend *backend, uint64_t budget_bytes,
	struct registry **ret) _must_check_;
/* Drops what is loaded. Nobody may hold or wait any more. */
struct registry *registry_free(struct registry *r);

/*
 * Holds the entry of that name: 0 sets *ret. REGISTRY_E_WAIT if it is being loaded now, perhaps
 * because of this call; the hold is then given with the waiter's call. Other conditions as above,
 * with words in `reason`. `fresh` looks at the disk again: a file that was replaced is loaded
 * beside the old one, which serves until that has succeeded, and one that failed is tried again.
 */
int registry_acquire(struct registry *r, const char *name, bool fresh, struct waiter *waiter,
	struct entry **ret, struct reason *reason) _must_check_;
void registry_release(struct registry *r, struct entry *entry);
/* The waiter gives up; fine if it does not wait. */
void registry_forget(struct registry *r, struct waiter *waiter);

/* The end of a load. Takes `loaded`, which is NULL where `error` is negative. */
void registry_finish_load(struct registry *r, uint64_t id, int error, const struct reason *reason,
	struct loaded *loaded, uint64_t memory_bytes);

/* Lets nobody new in. 0: it has left memory; REGISTRY_E_WAIT: it is still held, the waiter is
 * called when it has left; REGISTRY_E_NOT_RESIDENT (also while it is being loaded);
 * REGISTRY_E_PINNED. */
int registry_unload(struct registry *r, const char *name, struct waiter *waiter) _must_check_;

/* Of an entry that the caller holds. */
void registry_pin(struct registry *r, struct entry *entry);
/* REGISTRY_E_NOT_RESIDENT if there is nothing pinned of that name. */
int registry_unpin(struct registry *r, const char *name) _must_check_;

/* A smaller budget evicts at once what it can. */
void registry_set_budget(struct registry *r, uint64_t budget_bytes);

/* The entry that a request for this name would use, or NULL. Borrowed until the next change. */
const struct entry *registry_find(const struct registry *r, const char *name);
/* All entries, draining ones included, linked by `next`. */
const struct entry *registry_first(const struct registry *r);

struct registry_stats {
	uint64_t budget_bytes, charged_bytes, memory_bytes;
	uint64_t n_resident, n_loads, n_failures, n_evictions;
};
void registry_stats(const struct registry *r, struct registry_stats *ret);
