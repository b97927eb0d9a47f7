/*
 * The event loop of the daemon's first thread: a thin layer over sd-event, which no other file but
 * notify.c knows. Everything here runs on the loop's thread.
 *
 * A callback that returns a negative errno ends the loop with it; what concerns one client only is
 * answered by closing that client, and the callback returns 0.
 */
#pragma once

#include "common/base.h"

struct loop;
struct loop_source; /* one descriptor, timer, signal or deferred call */

typedef int loop_fn(void *user);
typedef int loop_io_fn(void *user, uint32_t epoll_events);

int loop_new(struct loop **ret) _must_check_;
struct loop *loop_free(struct loop *loop);

/* Runs until loop_stop() or an error of a callback, which it returns. */
int loop_run(struct loop *loop) _must_check_;
void loop_stop(struct loop *loop);

/* Level-triggered. The descriptor stays the caller's. */
int loop_add_io(struct loop *loop, int fd, uint32_t epoll_events, loop_io_fn *fn, void *user,
	struct loop_source **ret) _must_check_;
int loop_source_set_events(struct loop_source *source, uint32_t epoll_events) _must_check_;

/* A timer that is off until loop_timer_set(); it fires once. */
int loop_add_timer(struct loop *loop, loop_fn *fn, void *user, struct loop_source **ret)
	_must_check_;
int loop_timer_set(struct loop_source *source, uint64_t after_ms) _must_check_;

/* Blocks the signal for the calling thread; threads started later inherit that. */
int loop_add_signal(struct loop *loop, int signal, loop_fn *fn, void *user,
	struct loop_source **ret) _must_check_;

/* Removes the source: its callback is not called again. NULL is fine. Returns NULL. */
struct loop_source *loop_source_free(struct loop_source *source);

/* Calls fn(user) once, when the running callback has returned: how an object frees itself without
 * pulling the ground from under its callers. Cannot fail: `defer` is embedded in the object. */
struct loop_defer {
	struct loop_defer *next;
	void (*fn)(void *user);
	void *user;
};
void loop_defer(struct loop *loop, struct loop_defer *defer, void (*fn)(void *user), void *user);

/* Makes the calls that are due; for tearing down, when the loop does not run any more. */
void loop_run_deferred(struct loop *loop);
