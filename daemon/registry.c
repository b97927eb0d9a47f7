/*
 * States of an entry and who moves it:
 *
 *   absent, failed -> loading    begin_load: budget reserved, one load in flight, waiters allowed
 *   loading  -> resident         registry_finish_load: holders counted
 *   loading  -> failed           load_failed: reason kept, budget returned
 *   resident -> draining         drain: found by name no more, no new holders
 *   draining -> absent           leave_memory, at the last release: budget returned
 *
 * While one entry drains, another of the same name may be loaded; when the old one has left, its
 * counts are added to the new one's and it is freed.
 *
 * A replaced file is loaded beside the resident entry, which stays until that has succeeded: its
 * replacement is not found by name before, and is freed if it fails.
 */
#include "daemon/registry.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

struct registry {
	struct registry_backend backend;
	struct entry *entries;
	uint64_t budget_bytes;
	uint64_t last_id;
	uint64_t n_loads, n_failures, n_evictions;
};

static void file_done(struct registry_file *file)
{
	closep(&file->fd);
	*file = (struct registry_file){.fd = -1};
}

static bool file_same(const struct registry_file *a, const struct registry_file *b)
{
	return a->device == b->device && a->inode == b->inode && a->modified_ns == b->modified_ns &&
	       a->bytes == b->bytes;
}

int registry_new(
	const struct registry_backend *backend, uint64_t budget_bytes, struct registry **ret)
{
	struct registry *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->backend = *backend;
	r->budget_bytes = budget_bytes;
	*ret = r;
	return 0;
}

static void entry_free(struct registry *r, struct entry *e)
{
	struct entry **at = &r->entries;

	assert(!e->n_holders && !e->waiters);
	while (*at != e)
		at = &(*at)->next;
	*at = e->next;
	free(e);
}

struct registry *registry_free(struct registry *r)
{
	if (!r)
		return NULL;
	while (r->entries) {
		if (r->entries->loaded)
			r->backend.drop(r->backend.user, r->entries->loaded);
		entry_free(r, r->entries);
	}
	free(r);
	return NULL;
}

static struct entry *entry_find(const struct registry *r, const char *name)
{
	for (struct entry *e = r->entries; e; e = e->next)
		if (e->state != ENTRY_STATE_DRAINING && !e->replaces && strcmp(e->name, name) == 0)
			return e;
	return NULL;
}

/* The one that will take the place of `e`, or NULL. */
static struct entry *replacement_of(const struct registry *r, const struct entry *e)
{
	for (struct entry *next = r->entries; next; next = next->next)
		if (next->replaces == e && next->state != ENTRY_STATE_FAILED)
			return next;
	return NULL;
}

const struct entry *registry_find(const struct registry *r, const char *name)
{
	return entry_find(r, name);
}

const struct entry *registry_first(const struct registry *r)
{
	return r->entries;
}

static struct entry *entry_new(struct registry *r, const char *name)
{
	struct entry *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	snprintf(e->name, sizeof(e->name), "%s", name);
	e->next = r->entries;
	r->entries = e;
	return e;
}

static void waiter_add(struct entry *e, struct waiter *w)
{
	struct waiter **end = &e->waiters;

	assert(!w->entry);
	while (*end)
		end = &(*end)->next;
	w->next = NULL;
	w->entry = e;
	*end = w;
}

static struct waiter *waiter_pop(struct entry *e)
{
	struct waiter *w = e->waiters;

	e->waiters = w->next;
	w->next = NULL;
	return w;
}

void registry_forget(struct registry *r, struct waiter *waiter)
{
	struct waiter **at;

	(void)r;
	if (!waiter->entry)
		return;
	at = &waiter->entry->waiters;
	while (*at && *at != waiter)
		at = &(*at)->next;
	if (*at)
		*at = waiter->next;
	waiter->entry = NULL;
}

/* Memory, budget and those who waited for it. The entry may be gone afterwards. */
static void leave_memory(struct registry *r, struct entry *e)
{
	struct entry *successor;

	r->backend.drop(r->backend.user, take_ptr(e->loaded));
	e->charged_bytes = 0;
	e->memory_bytes = 0;
	while (e->waiters) {
		struct waiter *w = waiter_pop(e);

		w->entry = NULL;
		w->ready(w, 0, 0, NULL);
	}
	successor = entry_find(r, e->name);
	if (!successor) {
		e->state = ENTRY_STATE_ABSENT;
		return;
	}
	successor->n_requests += e->n_requests;
	successor->n_generated += e->n_generated;
	entry_free(r, e);
}

static void drain(struct registry *r, struct entry *e)
{
	struct entry *next = replacement_of(r, e);

	if (next)
		next->replaces = NULL;
	e->state = ENTRY_STATE_DRAINING;
	e->pinned = false;
	if (!e->n_holders)
		leave_memory(r, e);
}

static bool may_evict(const struct registry *r, const struct entry *e)
{
	return e->state == ENTRY_STATE_RESIDENT && !e->pinned && !e->file.is_base &&
	       !e->n_holders && !e->waiters && !replacement_of(r, e);
}

static uint64_t charged(const struct registry *r)
{
	uint64_t sum = 0;

	for (const struct entry *e = r->entries; e; e = e->next)
		sum += e->charged_bytes;
	return sum;
}

static struct entry *idle_longest(const struct registry *r)
{
	struct entry *oldest = NULL;

	for (struct entry *e = r->entries; e; e = e->next)
		if (may_evict(r, e) && (!oldest || e->used_ns < oldest->used_ns))
			oldest = e;
	return oldest;
}

/* Evicts until `bytes` more fit, but nothing at all if they cannot. */
static int make_room(struct registry *r, uint64_t bytes, struct reason *reason)
{
	uint64_t kept = charged(r);

	for (const struct entry *e = r->entries; e; e = e->next)
		if (may_evict(r, e))
			kept -= e->charged_bytes;
	if (kept > r->budget_bytes || bytes > r->budget_bytes - kept)
		return reason_set(reason, REGISTRY_E_BUDGET,
			"needs %llu bytes; of the budget of %llu, %llu are pinned, in use or "
			"loading",
			(unsigned long long)bytes, (unsigned long long)r->budget_bytes,
			(unsigned long long)kept);
	while (charged(r) > r->budget_bytes || bytes > r->budget_bytes - charged(r)) {
		r->n_evictions++;
		drain(r, idle_longest(r));
	}
	return 0;
}

static int begin_load(
	struct registry *r, struct entry *e, struct registry_file *file, struct reason *reason)
{
	uint64_t bytes = file->is_base ? 0 : file->memory_bytes;
	int error;

	error = make_room(r, bytes, reason);
	if (error != 0)
		return error;
	error = r->backend.load(r->backend.user, r->last_id + 1, e->name, file);
	if (error < 0)
		return error;
	e->file = *file;
	e->id = ++r->last_id;
	e->state = ENTRY_STATE_LOADING;
	e->charged_bytes = bytes;
	e->begun_ns = r->backend.now_ns();
	r->n_loads++;
	return 0;
}

/* Bytes on disk do not change by themselves; want of memory may pass. */
static bool failure_is_lasting(int error)
{
	return error == -EBADMSG || error == -EOPNOTSUPP || error == -EMEDIUMTYPE;
}

static int hold(struct registry *r, struct entry *e, struct entry **ret)
{
	e->n_holders++;
	e->used_ns = r->backend.now_ns();
	*ret = e;
	return 0;
}

/* What the disk says makes the next step: nothing, a load, a load of a replacement. */
static int acquire_from_disk(struct registry *r, struct entry *e, const char *name, bool fresh,
	struct waiter *waiter, struct entry **ret, struct registry_file *file,
	struct reason *reason)
{
	struct entry *replaced = NULL;
	int error;

	if (e && e->state == ENTRY_STATE_RESIDENT) {
		if (file_same(&e->file, file))
			return hold(r, e, ret);
		replaced = take_ptr(e);
	}
	if (e && e->state == ENTRY_STATE_FAILED && !fresh && failure_is_lasting(e->error) &&
		file_same(&e->file, file))
		return reason_set(reason, REGISTRY_E_FAILED, "%s", e->reason.text);
	if (!e)
		e = entry_new(r, name);
	if (!e)
		return -ENOMEM;
	e->replaces = replaced;
	error = begin_load(r, e, file, reason);
	if (error != 0) {
		if (replaced)
			entry_free(r, e);
		return error;
	}
	waiter_add(e, waiter);
	return REGISTRY_E_WAIT;
}

int registry_acquire(struct registry *r, const char *name, bool fresh, struct waiter *waiter,
	struct entry **ret, struct reason *reason)
{
	struct entry *e = entry_find(r, name);
	struct entry *loading = e && fresh ? replacement_of(r, e) : NULL;
	struct registry_file file = {.fd = -1};
	int error;

	if (e && e->state == ENTRY_STATE_LOADING)
		loading = e;
	if (loading) {
		waiter_add(loading, waiter);
		return REGISTRY_E_WAIT;
	}
	if (e && e->state == ENTRY_STATE_RESIDENT && (!fresh || e->file.is_base))
		return hold(r, e, ret);
	error = r->backend.find(r->backend.user, name, &file, reason);
	if (error == -ENOENT && e && e->state == ENTRY_STATE_RESIDENT)
		return hold(r, e, ret);
	if (error == -ENOENT) {
		if (e)
			entry_free(r, e);
		return REGISTRY_E_UNKNOWN;
	}
	if (error < 0)
		return error;
	error = acquire_from_disk(r, e, name, fresh, waiter, ret, &file, reason);
	file_done(&file);
	return error;
}

void registry_release(struct registry *r, struct entry *entry)
{
	assert(entry->n_holders > 0);
	entry->n_holders--;
	entry->used_ns = r->backend.now_ns();
	if (!entry->n_holders && entry->state == ENTRY_STATE_DRAINING)
		leave_memory(r, entry);
}

static void load_failed(struct registry *r, struct entry *e, int error, const struct reason *reason)
{
	e->state = ENTRY_STATE_FAILED;
	e->pinned = false;
	e->charged_bytes = 0;
	e->error = error;
	e->reason = *reason;
	r->n_failures++;
	while (e->waiters) {
		struct waiter *w = waiter_pop(e);

		w->entry = NULL;
		w->ready(w, REGISTRY_E_FAILED, error, reason);
	}
	if (e->replaces)
		entry_free(r, e);
}

void registry_finish_load(struct registry *r, uint64_t id, int error, const struct reason *reason,
	struct loaded *loaded, uint64_t memory_bytes)
{
	struct entry *e = r->entries;

	while (e->id != id || e->state != ENTRY_STATE_LOADING)
		e = e->next;
	if (error < 0) {
		load_failed(r, e, error, reason);
		return;
	}
	e->state = ENTRY_STATE_RESIDENT;
	e->loaded = loaded;
	e->memory_bytes = memory_bytes;
	e->charged_bytes = e->file.is_base ? 0 : memory_bytes;
	e->used_ns = r->backend.now_ns();
	e->load_ns = e->used_ns - e->begun_ns;
	if (e->replaces) {
		e->pinned = e->replaces->pinned;
		drain(r, e->replaces);
	}
	/* A waiter that is called may let go at once, and others with it; while some are left, or
	 * this hold is, the entry stays. */
	e->n_holders++;
	while (e->waiters) {
		struct waiter *w = waiter_pop(e);

		e->n_holders++;
		w->ready(w, 0, 0, NULL);
	}
	registry_release(r, e);
}

int registry_unload(struct registry *r, const char *name, struct waiter *waiter)
{
	struct entry *e = entry_find(r, name);

	if (!e || e->state != ENTRY_STATE_RESIDENT)
		return REGISTRY_E_NOT_RESIDENT;
	if (e->pinned || e->file.is_base)
		return REGISTRY_E_PINNED;
	if (e->n_holders)
		waiter_add(e, waiter);
	drain(r, e);
	return waiter->entry ? REGISTRY_E_WAIT : 0;
}

void registry_pin(struct registry *r, struct entry *entry)
{
	(void)r;
	if (entry->state == ENTRY_STATE_RESIDENT)
		entry->pinned = true;
}

int registry_unpin(struct registry *r, const char *name)
{
	struct entry *e = entry_find(r, name);

	if (!e || !e->pinned)
		return REGISTRY_E_NOT_RESIDENT;
	e->pinned = false;
	registry_set_budget(r, r->budget_bytes);
	return 0;
}

void registry_set_budget(struct registry *r, uint64_t budget_bytes)
{
	struct entry *e;

	r->budget_bytes = budget_bytes;
	while (charged(r) > budget_bytes && (e = idle_longest(r))) {
		r->n_evictions++;
		drain(r, e);
	}
}

void registry_stats(const struct registry *r, struct registry_stats *ret)
{
	*ret = (struct registry_stats){
		.budget_bytes = r->budget_bytes,
		.charged_bytes = charged(r),
		.n_loads = r->n_loads,
		.n_failures = r->n_failures,
		.n_evictions = r->n_evictions,
	};
	for (const struct entry *e = r->entries; e; e = e->next) {
		ret->memory_bytes += e->memory_bytes;
		ret->n_resident += e->state == ENTRY_STATE_RESIDENT;
	}
}
