/*
 * The engine thread: jobs in, tokens out. Owns the scheduler, KV pages, batches and scratch; runs
 * rows of several variants in one step, prompts in chunks. Knows ids of jobs, not who asked.
 *
 * A job belongs to the engine from engine_submit() until its ENGINE_EVENT_FINISHED.
 */
#pragma once

#include "engine/kv.h"
#include "engine/model.h"
#include "engine/sampler.h"

struct engine;

struct engine_settings {
	uint32_t n_threads;      /* 0: what the process may use */
	uint32_t max_batch_rows; /* of one step, prompt rows included */
	uint32_t prompt_chunk;   /* most prompt rows of one job in a step that others wait for */
	uint32_t max_jobs;       /* running and waiting; more are refused */
	enum kv_type kv_type;
	uint64_t kv_bytes;
};

enum finish_reason {
	FINISH_STOP,   /* an end-of-text id, or the caller said so through engine_stop() */
	FINISH_LENGTH, /* max_tokens */
	FINISH_CANCELLED,
	FINISH_SHUTDOWN,
	FINISH_ERROR, /* out of memory while starting; `error` has the errno */
};

struct job_spec {
	uint64_t id;                   /* chosen by the caller, unique among live jobs */
	const struct variant *variant; /* must stay until the finished event */
	const uint32_t *prompt;        /* copied; 1 .. tokens, all below the variant's vocabulary */
	uint32_t n_prompt;
	uint32_t max_tokens; /* n_prompt + max_tokens <= max_positions */
	bool ignore_eos;
	struct sampler_settings sampling;
};

enum engine_event_kind {
	ENGINE_EVENT_TOKEN,
	ENGINE_EVENT_FINISHED,
};

struct engine_event {
	enum engine_event_kind kind;
	uint64_t job;
	struct sampled sampled; /* TOKEN; the end-of-text id itself is not sent */
	/* FINISHED */
	enum finish_reason reason;
	int error;
	uint32_t n_prompt;
	uint32_t n_generated;
	uint64_t queue_ns, prompt_ns, decode_ns;
};

/* Called on the engine thread for each event; must not block (it posts to a mailbox). */
typedef void engine_emit_fn(void *user, const struct engine_event *event);

int engine_new(const struct model *model, const struct engine_settings *settings,
	engine_emit_fn *emit, void *user, struct engine **ret, struct reason *reason) _must_check_;
/* Ends running jobs with FINISH_SHUTDOWN, joins the thread. */
struct engine *engine_free(struct engine *engine);

enum {
	ENGINE_E_BUSY = 1,     /* max_jobs reached */
	ENGINE_E_TOO_LONG = 2, /* prompt + max_tokens exceed the model or all KV pages */
};

/* Callable from any thread; none of these blocks. */
int engine_submit(struct engine *engine, const struct job_spec *spec) _must_check_;
void engine_cancel(struct engine *engine, uint64_t job);
/* Ends the job as FINISH_STOP: a stop string was found in its text. */
void engine_stop(struct engine *engine, uint64_t job);
/* Back-pressure: a paused job keeps its pages and makes no tokens. */
void engine_pause(struct engine *engine, uint64_t job);
void engine_resume(struct engine *engine, uint64_t job);

struct engine_stats {
	uint64_t n_running, n_waiting;
	uint64_t n_steps;
	uint64_t n_prompt_tokens, n_generated_tokens;
	uint64_t kv_pages, kv_pages_free;
	uint64_t scratch_bytes, kv_bytes;
	/* For the watchdog: */
	bool idle;             /* it sleeps, as no job can go on */
	uint64_t last_step_ns; /* CLOCK_MONOTONIC at the end of the last step */
};
void engine_stats(const struct engine *engine, struct engine_stats *ret);
