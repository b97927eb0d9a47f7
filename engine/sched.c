#include "engine/sched.h"

#include <assert.h>
#include <string.h>

int sched_init(struct sched *s, struct kv_pool *kv, uint32_t max_rows, uint32_t prompt_chunk,
	uint32_t max_jobs)
{
	*s = (struct sched){
		.kv = kv,
		.max_rows = max_rows,
		.prompt_chunk = prompt_chunk,
		/* Every job that runs has its row in each step. */
		.max_running = (uint32_t)min_u64(max_rows, max_jobs),
		.running = calloc(max_jobs, sizeof(struct job *)),
		.by_age = calloc(max_jobs, sizeof(struct job *)),
	};
	if (s->running && s->by_age)
		return 0;
	sched_done(s);
	return -ENOMEM;
}

void sched_done(struct sched *s)
{
	assert(s->n_running == 0 && s->n_waiting == 0);
	free(s->running);
	free(s->by_age);
	*s = (struct sched){0};
}

void sched_enqueue(struct sched *s, struct job *job)
{
	if (!s->waiting)
		s->waiting_end = &s->waiting;
	job->next = NULL;
	*s->waiting_end = job;
	s->waiting_end = &job->next;
	s->n_waiting++;
}

static bool unlink_waiting(struct sched *s, struct job *job)
{
	for (struct job **at = &s->waiting; *at; at = &(*at)->next) {
		if (*at != job)
			continue;
		*at = job->next;
		if (s->waiting_end == &job->next)
			s->waiting_end = at;
		s->n_waiting--;
		return true;
	}
	return false;
}

static void insert_at(struct job **jobs, uint32_t n, uint32_t at, struct job *job)
{
	memmove(jobs + at + 1, jobs + at, (n - at) * sizeof(*jobs));
	jobs[at] = job;
}

static void remove_from(struct job **jobs, uint32_t n, const struct job *job)
{
	uint32_t at = 0;

	while (jobs[at] != job)
		at++;
	memmove(jobs + at, jobs + at + 1, (n - at - 1) * sizeof(*jobs));
}

/* Behind the last job of its variant. */
static uint32_t place_of(const struct sched *s, const struct variant *variant)
{
	for (uint32_t i = s->n_running; i-- > 0;)
		if (s->running[i]->variant == variant)
			return i + 1;
	return s->n_running;
}

int sched_admit(struct sched *s, struct job **ret_job)
{
	struct job *job = s->waiting;
	int r;

	if (!job || s->n_running == s->max_running)
		return SCHED_E_LATER;
	r = kv_seq_new(s->kv, job->n_prompt + job->max_tokens, &job->seq);
	if (r == KV_E_FULL)
		return SCHED_E_LATER;
	(void)unlink_waiting(s, job);
	*ret_job = job;
	if (r < 0)
		return r;
	insert_at(s->running, s->n_running, place_of(s, job->variant), job);
	insert_at(s->by_age, s->n_running, s->n_running, job);
	s->n_running++;
	return 0;
}

void sched_remove(struct sched *s, struct job *job)
{
	if (unlink_waiting(s, job))
		return;
	remove_from(s->running, s->n_running, job);
	remove_from(s->by_age, s->n_running, job);
	s->n_running--;
}

/* Most prompt rows of one job: all of a step, if that holds up nobody. */
static uint32_t chunk_of(const struct sched *s)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->n_running; i++)
		n += !s->running[i]->paused;
	return n > 1 ? s->prompt_chunk : s->max_rows;
}

/* How many rows each job gets. */
static void share_rows(struct sched *s)
{
	uint32_t left = s->max_rows, chunk = chunk_of(s);

	for (uint32_t i = 0; i < s->n_running; i++) {
		struct job *job = s->running[i];

		job->n_rows = !job->paused && job_pending(job) == 1;
		left -= job->n_rows;
	}
	for (uint32_t i = 0; i < s->n_running; i++) {
		struct job *job = s->by_age[i];

		if (job->paused || job_pending(job) == 1)
			continue;
		job->n_rows = (uint32_t)min_u64(left, min_u64(job_pending(job), chunk));
		left -= job->n_rows;
	}
}

static void add_rows(struct batch *b, const struct job *job)
{
	for (uint32_t i = 0; i < job->n_rows; i++) {
		uint32_t position = job->n_done + i;

		b->rows[b->n_rows++] = (struct batch_row){
			.variant = job->variant,
			.seq = job->seq,
			.token = job->tokens[position],
			.position = position,
			.want_logits = position + 1 == job->n_tokens,
		};
	}
}

void sched_next_batch(struct sched *s, struct batch *ret)
{
	ret->n_rows = 0;
	ret->n_jobs = 0;
	share_rows(s);
	for (uint32_t i = 0; i < s->n_running; i++) {
		struct job *job = s->running[i];

		if (job->n_rows == 0)
			continue;
		ret->jobs[ret->n_jobs++] = job;
		add_rows(ret, job);
	}
}
