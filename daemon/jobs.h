/*
 * Numbers of the engine's jobs and the requests behind them. A number is used once: a late event of
 * a job that has gone finds nobody.
 */
#pragma once

#include "common/base.h"

struct jobs;
struct request;

int jobs_new(size_t n, struct jobs **ret) _must_check_;
struct jobs *jobs_free(struct jobs *j);

/* A number for the request; 0 if all n places are taken. */
uint64_t jobs_add(struct jobs *j, struct request *r);
struct request *jobs_find(const struct jobs *j, uint64_t job);
void jobs_remove(struct jobs *j, uint64_t job);

/* The request in place i < n, or NULL; to walk over all. */
struct request *jobs_at(const struct jobs *j, size_t i);
size_t jobs_places(const struct jobs *j);
