/*
 * Which jobs run and which rows make the next step. Jobs are admitted in the order of their
 * arrival, each when pages for its whole length are free; nobody overtakes.
 */
#pragma once

#include "engine/forward.h"
#include "engine/job.h"

struct sched {
	struct kv_pool *kv; /* borrowed */
	uint32_t max_rows, prompt_chunk, max_running;
	struct job *waiting, **waiting_end;
	uint32_t n_waiting;
	struct job **running; /* those of one variant are neighbours */
	struct job **by_age;  /* the same jobs in order of admission */
	uint32_t n_running;
};

/* The rows of a step and the jobs they come from. */
struct batch {
	struct batch_row *rows;
	uint32_t n_rows;
	struct job **jobs;
	uint32_t n_jobs;
};

int sched_init(struct sched *s, struct kv_pool *kv, uint32_t max_rows, uint32_t prompt_chunk,
	uint32_t max_jobs) _must_check_;
/* Nothing may run or wait any more. */
void sched_done(struct sched *s);

void sched_enqueue(struct sched *s, struct job *job);

/* Expected conditions. */
enum {
	SCHED_E_LATER = 1, /* nobody waits, or not enough pages or rows now */
};

/* Admits the job that has waited longest. A failure concerns *ret_job, which then neither waits nor
 * runs and is the caller's. */
int sched_admit(struct sched *s, struct job **ret_job) _must_check_;

/* Takes a job out, wherever it is; the caller's from then on. */
void sched_remove(struct sched *s, struct job *job);

/* Fills the batch: one row of every job that is not paused and lacks only its next token, then
 * chunks of prompts, the oldest job first, while there is room; the prompt of a job that has no
 * company takes all of it. Changes no queue. */
void sched_next_batch(struct sched *s, struct batch *ret);
