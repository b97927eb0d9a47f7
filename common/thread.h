/*
 * Threads of ours.
 */
#pragma once

#include "common/base.h"

#include <pthread.h>

/* Starts one that no signal is delivered to but faults, which are its own: the others stay with the
 * threads that expect them. `name` is what tools show, at most 15 characters, or NULL. */
int thread_start(pthread_t *ret, const char *name, void *(*run)(void *arg), void *arg) _must_check_;
