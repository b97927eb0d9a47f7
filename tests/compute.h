/*
 * What computes, set up for a group of tests: functions for cmocka_run_group_tests().
 */
#pragma once

#include "engine/pool.h"

/* BLAS on one thread. */
int compute_load(void **state);

/* The same, and a pool of two threads. */
extern struct pool *compute_pool;
int compute_start(void **state);
int compute_stop(void **state);
