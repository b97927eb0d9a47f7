/*
 * A base image, with or without a delta, ready to compute in this process: what the commands that
 * need no daemon stand on.
 */
#pragma once

#include "engine/model.h"

struct offline_model {
	struct base *base;
	struct delta *delta; /* or NULL */
	struct kernels kernels;
	struct pool *pool;
	struct model *model;
	struct variant *variant;
};

/* `delta` may be NULL; n_threads 0: what the process may use. DELTAD_ISA chooses the kernels. On
 * failure nothing is held. The struct must stay where it is, its model points to its kernels. */
int offline_model_open(const char *base, const char *delta, uint32_t n_threads,
	struct offline_model *ret, struct reason *reason) _must_check_;
void offline_model_done(struct offline_model *m);
