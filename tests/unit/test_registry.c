/*
 * The registry: states, waiters, holders, eviction under a budget, replaced files, kept failures.
 * Disk and loader are a table of functions here; a struct loaded is only an address to it.
 */
#include "daemon/registry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define N_FILES 8

struct file {
	const char *name;
	uint64_t bytes;
	uint64_t inode;
	bool is_base;
};

struct world {
	struct registry *registry;
	struct file files[N_FILES];
	uint64_t last_load; /* id */
	size_t n_loads, n_drops, n_finds;
	char dropped[N_FILES]; /* addresses that loads hand out; 1 where dropped */
	int load_error;
};

static uint64_t clock_ns;

static uint64_t tick(void)
{
	return ++clock_ns;
}

static int find(void *user, const char *name, struct registry_file *ret, struct reason *reason)
{
	struct world *w = user;

	(void)reason;
	w->n_finds++;
	for (size_t i = 0; i < N_FILES; i++) {
		if (!w->files[i].name || strcmp(w->files[i].name, name) != 0)
			continue;
		*ret = (struct registry_file){
			.fd = -1,
			.bytes = w->files[i].bytes,
			.memory_bytes = w->files[i].bytes,
			.inode = w->files[i].inode,
			.is_base = w->files[i].is_base,
		};
		return 0;
	}
	return -ENOENT;
}

static int load(void *user, uint64_t id, const char *name, struct registry_file *file)
{
	struct world *w = user;

	(void)name;
	(void)file;
	if (w->load_error)
		return w->load_error;
	w->last_load = id;
	w->n_loads++;
	return 0;
}

static void drop(void *user, struct loaded *loaded)
{
	struct world *w = user;

	w->n_drops++;
	w->dropped[(char *)loaded - w->dropped] = 1;
}

static int setup(void **state)
{
	static struct world world;
	struct registry_backend backend = {find, load, drop, tick, &world};

	world = (struct world){
		.files = {{"base", 1000, 1, true}, {"a", 40, 2, false}, {"b", 40, 3, false},
			{"c", 40, 4, false}, {"huge", 101, 5, false}},
	};
	*state = &world;
	return registry_new(&backend, 100, &world.registry);
}

static int teardown(void **state)
{
	struct world *w = *state;

	registry_free(w->registry);
	return 0;
}

struct call {
	struct waiter waiter;
	struct entry *entry;
	int n_calls;
	int condition, error;
	char words[64];
};

static void on_ready(struct waiter *waiter, int condition, int error, const struct reason *reason)
{
	struct call *c = container_of(waiter, struct call, waiter);

	c->n_calls++;
	c->condition = condition;
	c->error = error;
	c->entry = take_ptr(waiter->entry);
	snprintf(c->words, sizeof(c->words), "%.60s", reason ? reason->text : "");
}

#define CALL ((struct call){.waiter.ready = on_ready})

static int acquire(struct world *w, const char *name, struct call *c)
{
	struct reason reason = {""};
	int r;

	*c = CALL;
	r = registry_acquire(w->registry, name, false, &c->waiter, &c->entry, &reason);
	snprintf(c->words, sizeof(c->words), "%.60s", reason.text);
	return r;
}

static int acquire_fresh(struct world *w, const char *name, struct call *c)
{
	struct reason reason;

	*c = CALL;
	return registry_acquire(w->registry, name, true, &c->waiter, &c->entry, &reason);
}

static void finish(struct world *w, uint64_t memory)
{
	struct loaded *loaded = (struct loaded *)(void *)&w->dropped[w->n_loads - 1];

	registry_finish_load(w->registry, w->last_load, 0, &(struct reason){""}, loaded, memory);
}

static void finish_with(struct world *w, int error)
{
	struct reason reason;

	reason_set(&reason, 0, "the words of %d", error);
	registry_finish_load(w->registry, w->last_load, error, &reason, NULL, 0);
}

/* Loads and lets go: resident and idle. */
static void make_resident(struct world *w, const char *name)
{
	struct call c;

	assert_int_equal(acquire(w, name, &c), REGISTRY_E_WAIT);
	finish(w, 40);
	assert_int_equal(c.n_calls, 1);
	assert_int_equal(c.condition, 0);
	registry_release(w->registry, c.entry);
}

static enum entry_state state_of(struct world *w, const char *name)
{
	const struct entry *e = registry_find(w->registry, name);

	return e ? e->state : ENTRY_STATE_ABSENT;
}

static void test_load_once_for_all_waiters(void **state)
{
	struct world *w = *state;
	struct call first, second, third;

	assert_int_equal(acquire(w, "a", &first), REGISTRY_E_WAIT);
	assert_int_equal(acquire(w, "a", &second), REGISTRY_E_WAIT);
	assert_int_equal(acquire(w, "a", &third), REGISTRY_E_WAIT);
	assert_int_equal(w->n_loads, 1);
	assert_int_equal(state_of(w, "a"), ENTRY_STATE_LOADING);
	registry_forget(w->registry, &second.waiter);
	finish(w, 40);
	assert_int_equal(first.n_calls, 1);
	assert_int_equal(second.n_calls, 0);
	assert_int_equal(third.n_calls, 1);
	assert_ptr_equal(first.entry, third.entry);
	assert_int_equal(first.entry->n_holders, 2);
	assert_int_equal(state_of(w, "a"), ENTRY_STATE_RESIDENT);
	registry_release(w->registry, first.entry);
	registry_release(w->registry, third.entry);
	assert_int_equal(acquire(w, "a", &first), 0);
	registry_release(w->registry, first.entry);
	assert_int_equal(w->n_finds, 1);
}

static void test_unknown(void **state)
{
	struct world *w = *state;
	struct call c;

	assert_int_equal(acquire(w, "nobody", &c), REGISTRY_E_UNKNOWN);
	assert_null(registry_first(w->registry));
}

static void test_eviction_takes_the_one_idle_longest(void **state)
{
	struct world *w = *state;
	struct registry_stats stats;
	struct call c;

	make_resident(w, "a");
	make_resident(w, "b");
	assert_int_equal(acquire(w, "a", &c), 0);
	registry_release(w->registry, c.entry);
	make_resident(w, "c");
	assert_int_equal(state_of(w, "b"), ENTRY_STATE_ABSENT);
	assert_int_equal(state_of(w, "a"), ENTRY_STATE_RESIDENT);
	assert_int_equal(w->dropped[1], 1);
	registry_stats(w->registry, &stats);
	assert_int_equal(stats.charged_bytes, 80);
	assert_int_equal(stats.n_evictions, 1);
}

static void test_budget_is_kept_and_nothing_evicted_in_vain(void **state)
{
	struct world *w = *state;
	struct call a, b, c;

	assert_int_equal(acquire(w, "huge", &a), REGISTRY_E_BUDGET);
	assert_non_null(strstr(a.words, "101"));
	make_resident(w, "b");
	assert_int_equal(acquire(w, "a", &a), REGISTRY_E_WAIT);
	finish(w, 40);
	/* a is held, b is idle: 40 would have to go for 61, which is too little. */
	w->files[3].bytes = 61;
	assert_int_equal(acquire(w, "c", &c), REGISTRY_E_BUDGET);
	assert_int_equal(state_of(w, "b"), ENTRY_STATE_RESIDENT);
	assert_int_equal(w->n_loads, 2);
	w->files[3].bytes = 60;
	assert_int_equal(acquire(w, "c", &c), REGISTRY_E_WAIT);
	assert_int_equal(state_of(w, "b"), ENTRY_STATE_ABSENT);
	/* A load that runs has its room reserved. */
	assert_int_equal(acquire(w, "b", &b), REGISTRY_E_BUDGET);
	finish(w, 60);
	registry_release(w->registry, a.entry);
	registry_release(w->registry, c.entry);
}

static void test_pinned_and_base_stay(void **state)
{
	struct world *w = *state;
	struct call c, base;

	assert_int_equal(acquire(w, "base", &base), REGISTRY_E_WAIT);
	finish(w, 1000);
	registry_release(w->registry, base.entry);
	make_resident(w, "a");
	assert_int_equal(acquire(w, "a", &c), 0);
	registry_pin(w->registry, c.entry);
	registry_release(w->registry, c.entry);
	make_resident(w, "b");
	assert_int_equal(registry_unload(w->registry, "a", &c.waiter), REGISTRY_E_PINNED);
	assert_int_equal(registry_unload(w->registry, "base", &c.waiter), REGISTRY_E_PINNED);
	make_resident(w, "c");
	assert_int_equal(state_of(w, "a"), ENTRY_STATE_RESIDENT);
	assert_int_equal(state_of(w, "b"), ENTRY_STATE_ABSENT);
	registry_set_budget(w->registry, 0);
	assert_int_equal(state_of(w, "a"), ENTRY_STATE_RESIDENT);
	assert_int_equal(state_of(w, "c"), ENTRY_STATE_ABSENT);
	assert_int_equal(state_of(w, "base"), ENTRY_STATE_RESIDENT);
	assert_int_equal(registry_unpin(w->registry, "a"), 0);
	assert_int_equal(state_of(w, "a"), ENTRY_STATE_ABSENT);
	assert_int_equal(registry_unpin(w->registry, "a"), REGISTRY_E_NOT_RESIDENT);
}

static void test_unload_waits_for_holders(void **state)
{
	struct world *w = *state;
	struct call holder, unload = CALL, again;

	assert_int_equal(
		registry_unload(w->registry, "a", &unload.waiter), REGISTRY_E_NOT_RESIDENT);
	assert_int_equal(acquire(w, "a", &holder), REGISTRY_E_WAIT);
	assert_int_equal(
		registry_unload(w->registry, "a", &unload.waiter), REGISTRY_E_NOT_RESIDENT);
	finish(w, 40);
	holder.entry->n_requests = 3;
	assert_int_equal(registry_unload(w->registry, "a", &unload.waiter), REGISTRY_E_WAIT);
	assert_int_equal(holder.entry->state, ENTRY_STATE_DRAINING);
	assert_null(registry_find(w->registry, "a"));
	/* A new request is served by a new load, beside the old one. */
	assert_int_equal(acquire(w, "a", &again), REGISTRY_E_WAIT);
	assert_int_equal(w->n_loads, 2);
	assert_int_equal(unload.n_calls, 0);
	registry_release(w->registry, holder.entry);
	assert_int_equal(unload.n_calls, 1);
	assert_int_equal(unload.condition, 0);
	assert_int_equal(w->n_drops, 1);
	finish(w, 40);
	assert_int_equal(again.entry->n_requests, 3);
	registry_release(w->registry, again.entry);
	unload = CALL;
	assert_int_equal(registry_unload(w->registry, "a", &unload.waiter), 0);
	assert_int_equal(w->n_drops, 2);
}

static void test_failures_are_kept(void **state)
{
	struct world *w = *state;
	struct call first, second;
	struct registry_stats stats;

	assert_int_equal(acquire(w, "a", &first), REGISTRY_E_WAIT);
	assert_int_equal(acquire(w, "a", &second), REGISTRY_E_WAIT);
	finish_with(w, -EBADMSG);
	assert_int_equal(first.condition, REGISTRY_E_FAILED);
	assert_int_equal(second.error, -EBADMSG);
	assert_string_equal(second.words, "the words of -74");
	registry_stats(w->registry, &stats);
	assert_int_equal(stats.charged_bytes, 0);
	/* The same bytes are not read again, unless that is asked for. */
	assert_int_equal(acquire(w, "a", &first), REGISTRY_E_FAILED);
	assert_string_equal(first.words, "the words of -74");
	assert_int_equal(w->n_loads, 1);
	assert_int_equal(acquire_fresh(w, "a", &first), REGISTRY_E_WAIT);
	finish_with(w, -ENOMEM);
	/* Want of memory may have passed. */
	assert_int_equal(acquire(w, "a", &first), REGISTRY_E_WAIT);
	finish_with(w, -EBADMSG);
	/* Other bytes are worth a try. */
	w->files[1].inode = 99;
	assert_int_equal(acquire(w, "a", &first), REGISTRY_E_WAIT);
	finish(w, 40);
	registry_release(w->registry, first.entry);
	assert_int_equal(state_of(w, "a"), ENTRY_STATE_RESIDENT);
}

static void test_replaced_file(void **state)
{
	struct world *w = *state;
	struct call old, new, same, late;

	make_resident(w, "a");
	assert_int_equal(acquire(w, "a", &old), 0);
	assert_int_equal(acquire_fresh(w, "a", &same), 0);
	registry_release(w->registry, same.entry);
	registry_pin(w->registry, old.entry);
	w->files[1].inode = 99;
	assert_int_equal(acquire_fresh(w, "a", &new), REGISTRY_E_WAIT);
	assert_int_equal(acquire_fresh(w, "a", &late), REGISTRY_E_WAIT);
	/* Meanwhile the old one serves. */
	assert_int_equal(acquire(w, "a", &same), 0);
	assert_ptr_equal(same.entry, old.entry);
	registry_release(w->registry, same.entry);
	finish(w, 40);
	assert_int_equal(old.entry->state, ENTRY_STATE_DRAINING);
	assert_ptr_not_equal(new.entry, old.entry);
	assert_ptr_equal(new.entry, late.entry);
	assert_ptr_equal(new.entry, registry_find(w->registry, "a"));
	assert_true(new.entry->pinned);
	assert_int_equal(registry_unpin(w->registry, "a"), 0);
	registry_release(w->registry, old.entry);
	assert_int_equal(w->n_drops, 1);
	registry_release(w->registry, new.entry);
	registry_release(w->registry, late.entry);
	/* A file that was removed does not take away what is in memory. */
	w->files[1].name = NULL;
	assert_int_equal(acquire_fresh(w, "a", &new), 0);
	registry_release(w->registry, new.entry);
	assert_int_equal(registry_unload(w->registry, "a", &new.waiter), 0);
	assert_int_equal(acquire(w, "a", &new), REGISTRY_E_UNKNOWN);
}

/* What cannot be loaded, or not beside it, takes nothing away from what is in memory. */
static void test_replacement_that_fails(void **state)
{
	struct world *w = *state;
	struct registry_stats stats;
	struct call old, new;

	make_resident(w, "a");
	assert_int_equal(acquire(w, "a", &old), 0);
	registry_pin(w->registry, old.entry);
	registry_release(w->registry, old.entry);
	w->files[1].inode = 99;
	assert_int_equal(acquire_fresh(w, "a", &new), REGISTRY_E_WAIT);
	finish_with(w, -EBADMSG);
	assert_int_equal(new.condition, REGISTRY_E_FAILED);
	assert_string_equal(new.words, "the words of -74");
	w->files[1].bytes = 61;
	assert_int_equal(acquire_fresh(w, "a", &new), REGISTRY_E_BUDGET);
	w->load_error = -ENOMEM;
	w->files[1].bytes = 40;
	assert_int_equal(acquire_fresh(w, "a", &new), -ENOMEM);
	assert_ptr_equal(registry_find(w->registry, "a"), old.entry);
	assert_ptr_equal(registry_first(w->registry), old.entry);
	assert_null(old.entry->next);
	assert_int_equal(old.entry->state, ENTRY_STATE_RESIDENT);
	assert_true(old.entry->pinned);
	registry_stats(w->registry, &stats);
	assert_int_equal(stats.charged_bytes, 40);
	assert_int_equal(w->n_drops, 0);
}

/* Nobody in need of memory evicts what is about to be replaced. Unloading it does not end the load.
 */
static void test_unload_while_replaced(void **state)
{
	struct world *w = *state;
	struct call new, other;

	make_resident(w, "a");
	w->files[1].inode = 99;
	assert_int_equal(acquire_fresh(w, "a", &new), REGISTRY_E_WAIT);
	assert_int_equal(acquire(w, "b", &other), REGISTRY_E_BUDGET);
	assert_int_equal(registry_unload(w->registry, "a", &other.waiter), 0);
	assert_int_equal(w->n_drops, 1);
	assert_int_equal(state_of(w, "a"), ENTRY_STATE_LOADING);
	assert_int_equal(acquire(w, "a", &other), REGISTRY_E_WAIT);
	finish(w, 40);
	assert_ptr_equal(new.entry, other.entry);
	registry_release(w->registry, new.entry);
	registry_release(w->registry, other.entry);
	assert_int_equal(state_of(w, "a"), ENTRY_STATE_RESIDENT);
}

static void test_loader_refuses(void **state)
{
	struct world *w = *state;
	struct registry_stats stats;
	struct call c;

	w->load_error = -ENOMEM;
	assert_int_equal(acquire(w, "a", &c), -ENOMEM);
	registry_stats(w->registry, &stats);
	assert_int_equal(stats.charged_bytes, 0);
	w->load_error = 0;
	assert_int_equal(acquire(w, "a", &c), REGISTRY_E_WAIT);
	finish(w, 40);
	registry_release(w->registry, c.entry);
}

/* More in memory than on disk is charged as what it is. */
static void test_actual_memory_counts(void **state)
{
	struct world *w = *state;
	struct call c;

	assert_int_equal(acquire(w, "a", &c), REGISTRY_E_WAIT);
	finish(w, 70);
	assert_int_equal(acquire(w, "b", &(struct call){.n_calls = 0}), REGISTRY_E_BUDGET);
	registry_release(w->registry, c.entry);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_load_once_for_all_waiters),
		TEST(test_unknown),
		TEST(test_eviction_takes_the_one_idle_longest),
		TEST(test_budget_is_kept_and_nothing_evicted_in_vain),
		TEST(test_pinned_and_base_stay),
		TEST(test_unload_waits_for_holders),
		TEST(test_failures_are_kept),
		TEST(test_replaced_file),
		TEST(test_replacement_that_fails),
		TEST(test_unload_while_replaced),
		TEST(test_loader_refuses),
		TEST(test_actual_memory_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
