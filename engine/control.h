/*
 * What other threads ask of live jobs. A job has a slot from its submission to its end; requests
 * find it by id and leave a flag there, which the engine thread reads between steps. Nothing is
 * allocated, so a request cannot be lost.
 */
#pragma once

#include "common/base.h"

enum control_flag {
	CONTROL_CANCEL = 1 << 0,
	CONTROL_STOP = 1 << 1,
	CONTROL_PAUSE = 1 << 2,
};

struct control;

int control_new(uint32_t max_jobs, struct control **ret) _must_check_;
struct control *control_free(struct control *c);

/* Expected conditions. */
enum {
	CONTROL_E_FULL = 1, /* max_jobs are live */
};

/* A slot for a new job. */
int control_claim(struct control *c, uint64_t job, uint32_t *ret_slot) _must_check_;
void control_release(struct control *c, uint32_t slot);
uint32_t control_flags(const struct control *c, uint32_t slot);

/* Sets and clears flags of a live job; a job that is not live is none. */
void control_change(struct control *c, uint64_t job, uint32_t set, uint32_t clear);
