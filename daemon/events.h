/*
 * The way back from the engine: its events as messages to the loop. Messages are used again and
 * again, so that a running daemon allocates none.
 */
#pragma once

#include "engine/engine.h"

struct events;

/* Made ready for `n` events on their way at once; more are possible. */
int events_new(size_t n, struct events **ret) _must_check_;
struct events *events_free(struct events *e);

/* An engine_emit_fn whose `user` is the struct events; for the engine's thread. */
void events_emit(void *events, const struct engine_event *event);

/* For the loop: readable while events wait. */
int events_fd(const struct events *e);
/* Copies the oldest event out; false if there is none. */
bool events_take(struct events *e, struct engine_event *ret);
