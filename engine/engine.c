/*
 * The engine thread. Between steps it takes its mail, obeys what was asked of its jobs, admits who
 * waits, and builds a batch; with nothing to compute it sleeps on its mailbox.
 *
 * Other threads reach it in two ways only: a job is a message, and everything else is a flag in the
 * control table, followed by the nudge, a message that the engine owns and that is in the box at
 * most once.
 */
#include "engine/engine.h"
#include "common/clock.h"
#include "common/thread.h"
#include "engine/control.h"
#include "engine/forward.h"
#include "engine/job.h"
#include "engine/sched.h"

#include <stdatomic.h>
#include <string.h>

struct counters {
	_Atomic uint64_t n_running, n_waiting, n_steps, n_prompt_tokens, n_generated_tokens;
	_Atomic uint64_t kv_pages_free, last_step_ns;
	atomic_bool idle;
};

struct engine {
	const struct model *model;
	engine_emit_fn *emit;
	void *user;
	struct pool *pool;
	struct kv_pool *kv;
	struct forward *forward;
	struct sched sched;
	struct batch batch;
	struct job **sampling; /* jobs of the batch that have logits */
	uint32_t n_sampling;
	struct control *control;
	struct mailbox *box;
	struct mail nudge;
	atomic_bool nudged; /* the nudge is in the box */
	atomic_bool stop;
	struct counters counters;
	pthread_t thread;
	bool started;
};

static void wake(struct engine *e)
{
	if (!atomic_exchange(&e->nudged, true))
		mailbox_post(e->box, &e->nudge);
}

static void take_mail(struct engine *e)
{
	struct mail *next;

	for (struct mail *m = mailbox_take(e->box); m; m = next) {
		next = m->next;
		if (m == &e->nudge)
			atomic_store(&e->nudged, false);
		else
			sched_enqueue(&e->sched, container_of(m, struct job, mail));
	}
}

static void publish(struct engine *e)
{
	e->counters.n_running = e->sched.n_running;
	e->counters.n_waiting = e->sched.n_waiting;
	e->counters.kv_pages_free = kv_pool_free_pages(e->kv);
}

/* The event goes out last: when it is seen, slot and pages are free again, and counted so. */
static void finish(struct engine *e, struct job *job, enum finish_reason reason, int error)
{
	struct engine_event event = job_finished_event(job, reason, error);

	control_release(e->control, job->slot);
	job_free(job);
	publish(e);
	e->emit(e->user, &event);
}

static void remove_and_finish(struct engine *e, struct job *job, enum finish_reason reason)
{
	sched_remove(&e->sched, job);
	finish(e, job, reason, 0);
}

/* True if the job is over. */
static bool obey_flags(struct engine *e, struct job *job)
{
	uint32_t flags = control_flags(e->control, job->slot);

	job->paused = flags & CONTROL_PAUSE;
	if (flags & CONTROL_CANCEL)
		remove_and_finish(e, job, FINISH_CANCELLED);
	else if (flags & CONTROL_STOP)
		remove_and_finish(e, job, FINISH_STOP);
	return flags & (CONTROL_CANCEL | CONTROL_STOP);
}

static void obey(struct engine *e)
{
	struct job *next;

	for (uint32_t i = 0; i < e->sched.n_running;)
		if (!obey_flags(e, e->sched.running[i]))
			i++;
	for (struct job *job = e->sched.waiting; job; job = next) {
		next = job->next;
		(void)obey_flags(e, job);
	}
}

static void admit(struct engine *e)
{
	struct job *job;
	int r;

	while ((r = sched_admit(&e->sched, &job)) != SCHED_E_LATER) {
		if (r < 0) {
			finish(e, job, FINISH_ERROR, r);
			continue;
		}
		job->admitted_ns = clock_ns();
		if (job->max_tokens == 0)
			remove_and_finish(e, job, FINISH_LENGTH);
	}
}

static void sample_job(void *arg, size_t piece, size_t worker)
{
	struct engine *e = arg;
	struct job *job = e->sampling[piece];

	(void)worker;
	sampler_pick(job->sampler, job->logits, &job->sampled);
}

/* After a step: which positions are in the pages now, and whose logits are there. */
static void advance(struct engine *e)
{
	uint32_t row = 0;

	e->n_sampling = 0;
	for (uint32_t i = 0; i < e->batch.n_jobs; i++) {
		struct job *job = e->batch.jobs[i];

		row += job->n_rows;
		if (job->n_done < job->n_prompt)
			e->counters.n_prompt_tokens += job->n_rows;
		job->n_done += job->n_rows;
		if (job_pending(job))
			continue;
		job->logits = forward_logits(e->forward, row - 1);
		e->sampling[e->n_sampling++] = job;
	}
}

static void deliver(struct engine *e, struct job *job)
{
	struct engine_event event = {
		.kind = ENGINE_EVENT_TOKEN, .job = job->id, .sampled = job->sampled};

	if (!job->first_token_ns)
		job->first_token_ns = clock_ns();
	if (job_ends_at(job, job->sampled.token)) {
		remove_and_finish(e, job, FINISH_STOP);
		return;
	}
	job->tokens[job->n_tokens++] = job->sampled.token;
	e->counters.n_generated_tokens++;
	e->emit(e->user, &event);
	if (job->n_tokens == job->n_prompt + job->max_tokens)
		remove_and_finish(e, job, FINISH_LENGTH);
}

static void step(struct engine *e)
{
	forward_step(e->forward, e->batch.rows, e->batch.n_rows);
	advance(e);
	pool_run(e->pool, sample_job, e, e->n_sampling);
	for (uint32_t i = 0; i < e->n_sampling; i++)
		deliver(e, e->sampling[i]);
	e->counters.n_steps++;
	e->counters.last_step_ns = clock_ns();
}

static void finish_all(struct engine *e)
{
	while (e->sched.n_running)
		remove_and_finish(e, e->sched.running[0], FINISH_SHUTDOWN);
	while (e->sched.waiting)
		remove_and_finish(e, e->sched.waiting, FINISH_SHUTDOWN);
}

static void sleep_on_mail(struct engine *e)
{
	e->counters.idle = true;
	mailbox_wait(e->box, -1);
	e->counters.idle = false;
}

static void *engine_main(void *arg)
{
	struct engine *e = arg;

	e->counters.idle = false;
	while (!atomic_load(&e->stop)) {
		take_mail(e);
		obey(e);
		admit(e);
		publish(e);
		sched_next_batch(&e->sched, &e->batch);
		if (e->batch.n_rows)
			step(e);
		else
			sleep_on_mail(e);
	}
	take_mail(e);
	finish_all(e);
	return NULL;
}

static int check_settings(const struct engine_settings *s, struct reason *reason)
{
	if (s->max_batch_rows == 0 || s->max_batch_rows > 1u << 16)
		return reason_set(reason, -EINVAL, "%u rows in a batch, expected 1 to 65536",
			s->max_batch_rows);
	if (s->prompt_chunk == 0)
		return reason_set(reason, -EINVAL, "a prompt chunk of 0 rows");
	if (s->max_jobs == 0 || s->max_jobs > 1u << 20)
		return reason_set(
			reason, -EINVAL, "%u jobs at most, expected 1 to 1048576", s->max_jobs);
	return 0;
}

static int allocate(struct engine *e, const struct engine_settings *s, struct reason *reason)
{
	int r;

	e->batch.rows = calloc(s->max_batch_rows, sizeof(*e->batch.rows));
	e->batch.jobs = calloc(s->max_batch_rows, sizeof(*e->batch.jobs));
	e->sampling = calloc(s->max_batch_rows, sizeof(*e->sampling));
	if (!e->batch.rows || !e->batch.jobs || !e->sampling)
		return reason_set(reason, -ENOMEM, "no memory for batches");
	r = sched_init(&e->sched, e->kv, s->max_batch_rows, s->prompt_chunk, s->max_jobs);
	if (r < 0)
		return reason_set(reason, r, "no memory for the scheduler");
	r = control_new(s->max_jobs, &e->control);
	if (r < 0)
		return reason_set(reason, r, "no memory for %u jobs", s->max_jobs);
	r = mailbox_new(&e->box);
	return r < 0 ? reason_set(reason, r, "cannot make the engine's mailbox") : 0;
}

static int start(struct engine *e, struct reason *reason)
{
	int r = thread_start(&e->thread, NULL, engine_main, e);

	if (r < 0)
		return reason_set(reason, r, "cannot start the engine thread");
	e->started = true;
	return 0;
}

static inline void enginep(struct engine **engine)
{
	engine_free(*engine);
}

int engine_new(const struct model *model, const struct engine_settings *settings,
	engine_emit_fn *emit, void *user, struct engine **ret, struct reason *reason)
{
	_cleanup_(enginep) struct engine *e = NULL;
	int r = check_settings(settings, reason);

	if (r < 0)
		return r;
	e = calloc(1, sizeof(*e));
	if (!e)
		return reason_set(reason, -ENOMEM, "no memory for the engine");
	e->model = model;
	e->emit = emit;
	e->user = user;
	r = pool_new(settings->n_threads, &e->pool, reason);
	if (r < 0)
		return r;
	r = kv_pool_new(model_config(model), settings->kv_type, settings->kv_bytes, &e->kv, reason);
	if (r < 0)
		return r;
	r = forward_new(model, e->pool, settings->max_batch_rows, &e->forward, reason);
	if (r < 0)
		return r;
	r = allocate(e, settings, reason);
	if (r < 0)
		return r;
	e->counters.kv_pages_free = kv_pool_free_pages(e->kv);
	e->counters.idle = true;
	r = start(e, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(e);
	return 0;
}

static void drop_mail(struct mail *mail)
{
	/* The thread took all jobs before it ended; only the nudge can be left. */
	(void)mail;
}

struct engine *engine_free(struct engine *e)
{
	if (!e)
		return NULL;
	if (e->started) {
		atomic_store(&e->stop, true);
		wake(e);
		pthread_join(e->thread, NULL);
	}
	if (e->box)
		mailbox_free(e->box, drop_mail);
	control_free(e->control);
	sched_done(&e->sched);
	free(e->sampling);
	free(e->batch.jobs);
	free(e->batch.rows);
	forward_free(e->forward);
	kv_pool_free(e->kv);
	pool_free(e->pool);
	free(e);
	return NULL;
}

static int check_spec(const struct engine *e, const struct job_spec *spec)
{
	uint64_t n_positions = (uint64_t)spec->n_prompt + spec->max_tokens;
	uint32_t vocab = variant_config(spec->variant)->vocab;

	if (spec->n_prompt == 0)
		return -EINVAL;
	for (uint32_t i = 0; i < spec->n_prompt; i++)
		if (spec->prompt[i] >= vocab)
			return -EINVAL;
	if (n_positions > model_config(e->model)->max_positions ||
		div_up(n_positions, KV_PAGE_TOKENS) > kv_pool_pages(e->kv))
		return ENGINE_E_TOO_LONG;
	return sampler_settings_check(&spec->sampling, NULL);
}

int engine_submit(struct engine *e, const struct job_spec *spec)
{
	_cleanup_(jobp) struct job *job = NULL;
	int r = check_spec(e, spec);

	if (r != 0)
		return r;
	r = job_new(spec, &job);
	if (r < 0)
		return r;
	r = control_claim(e->control, spec->id, &job->slot);
	if (r == CONTROL_E_FULL)
		return ENGINE_E_BUSY;
	mailbox_post(e->box, &take_ptr(job)->mail);
	return 0;
}

static void request(struct engine *e, uint64_t job, uint32_t set, uint32_t clear)
{
	control_change(e->control, job, set, clear);
	wake(e);
}

void engine_cancel(struct engine *e, uint64_t job)
{
	request(e, job, CONTROL_CANCEL, 0);
}

void engine_stop(struct engine *e, uint64_t job)
{
	request(e, job, CONTROL_STOP, 0);
}

void engine_pause(struct engine *e, uint64_t job)
{
	request(e, job, CONTROL_PAUSE, 0);
}

void engine_resume(struct engine *e, uint64_t job)
{
	request(e, job, 0, CONTROL_PAUSE);
}

void engine_stats(const struct engine *e, struct engine_stats *ret)
{
	*ret = (struct engine_stats){
		.n_running = e->counters.n_running,
		.n_waiting = e->counters.n_waiting,
		.n_steps = e->counters.n_steps,
		.n_prompt_tokens = e->counters.n_prompt_tokens,
		.n_generated_tokens = e->counters.n_generated_tokens,
		.kv_pages = kv_pool_pages(e->kv),
		.kv_pages_free = e->counters.kv_pages_free,
		.scratch_bytes = forward_bytes(e->forward),
		.kv_bytes = kv_pool_pages(e->kv) *
			    kv_page_bytes(model_config(e->model), kv_pool_type(e->kv)),
		.idle = e->counters.idle,
		.last_step_ns = e->counters.last_step_ns,
	};
}
