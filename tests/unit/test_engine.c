/*
 * The engine thread: the same tokens alone and in any company, and what becomes of jobs that are
 * cancelled, paused, refused, kept waiting or caught by the end.
 */
#include "engine/engine.h"
#include "engine/sched.h"
#include "engine/score.h"
#include "tests/imported_base.h"
#include "tests/random_delta.h"
#include "tests/small_image.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define N_VARIANTS 4
#define N_JOBS 9
#define MAX_TOKENS 24
#define MAX_PROMPT 90
#define TIMEOUT_S 60

static struct base *base;
static struct delta *deltas[N_VARIANTS];
static struct kernels kernels;
static struct model *model;
static struct variant *variants[N_VARIANTS];

/* What the engine said, job by job; ids are indices. */
struct record {
	uint32_t tokens[512];
	size_t n;
	bool finished;
	struct engine_event end;
	size_t place; /* how many finished before */
};

struct listener {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct record jobs[N_JOBS];
	size_t n_finished;
};

static int open_models(void **state)
{
	(void)state;
	base = imported_base("tests/golden/data/tiny/llama-gqa");
	assert_int_equal(kernels_select(&kernels, NULL, NULL), 0);
	assert_int_equal(model_new(base, &kernels, &model, NULL), 0);
	for (uint32_t i = 0; i < N_VARIANTS; i++) {
		if (i)
			deltas[i] = random_delta(base, i, i == 2 ? 5 : 0);
		assert_int_equal(variant_new(model, deltas[i], &variants[i], NULL), 0);
	}
	return 0;
}

static int close_models(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < N_VARIANTS; i++) {
		variant_free(variants[i]);
		delta_free(deltas[i]);
	}
	model_free(model);
	base_free(base);
	return 0;
}

static void listen(void *user, const struct engine_event *event)
{
	struct listener *l = user;
	struct record *job = &l->jobs[event->job];

	pthread_mutex_lock(&l->lock);
	if (event->kind == ENGINE_EVENT_TOKEN) {
		job->tokens[job->n++] = event->sampled.token;
	} else {
		job->finished = true;
		job->end = *event;
		job->place = l->n_finished++;
	}
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

static void listener_open(struct listener *l)
{
	memset(l, 0, sizeof(*l));
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
}

/* Waits until a job has n tokens or is finished. */
static void wait_tokens(struct listener *l, size_t job, size_t n)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += TIMEOUT_S;
	pthread_mutex_lock(&l->lock);
	while (!l->jobs[job].finished && l->jobs[job].n < n)
		if (pthread_cond_timedwait(&l->changed, &l->lock, &end) != 0)
			fail_msg("job %zu has %zu tokens after %d s", job, l->jobs[job].n,
				TIMEOUT_S);
	pthread_mutex_unlock(&l->lock);
}

static void wait_finished(struct listener *l, size_t job)
{
	wait_tokens(l, job, SIZE_MAX);
}

static size_t tokens_so_far(struct listener *l, size_t job)
{
	size_t n;

	pthread_mutex_lock(&l->lock);
	n = l->jobs[job].n;
	pthread_mutex_unlock(&l->lock);
	return n;
}

static struct engine *engine_open(const struct engine_settings *settings, struct listener *l)
{
	struct reason reason = {0};
	struct engine *engine;

	listener_open(l);
	if (engine_new(model, settings, listen, l, &engine, &reason) < 0)
		fail_msg("%s", reason.text);
	return engine;
}

static struct engine_settings settings_of(uint32_t n_pages)
{
	return (struct engine_settings){
		.n_threads = 2,
		.max_batch_rows = 48,
		.prompt_chunk = 16,
		.max_jobs = N_JOBS,
		.kv_type = KV_TYPE_F32,
		.kv_bytes = n_pages * kv_page_bytes(model_config(model), KV_TYPE_F32),
	};
}

/* Prompts of 1 to MAX_PROMPT tokens; every third job draws its tokens, with penalties. */
static struct job_spec spec_of(uint64_t id, uint32_t prompt[static MAX_PROMPT])
{
	uint32_t random = (uint32_t)id * 31 + 5;
	struct job_spec spec = {
		.id = id,
		.variant = variants[id % N_VARIANTS],
		.prompt = prompt,
		.n_prompt = (uint32_t)(1 + id * 37 % MAX_PROMPT),
		.max_tokens = MAX_TOKENS,
		.ignore_eos = true,
		.sampling = sampler_defaults,
	};

	for (uint32_t i = 0; i < spec.n_prompt; i++)
		prompt[i] = random_u32(&random) % model_config(model)->vocab;
	if (id % 3 == 2) {
		spec.sampling.temperature = 0.9f;
		spec.sampling.top_p = 0.95f;
		spec.sampling.repetition_penalty = 1.1f;
		spec.sampling.frequency_penalty = 0.2f;
		spec.sampling.seed = id;
	}
	return spec;
}

static void submit(struct engine *engine, uint64_t id)
{
	uint32_t prompt[MAX_PROMPT];
	struct job_spec spec = spec_of(id, prompt);

	assert_int_equal(engine_submit(engine, &spec), 0);
}

static void submit_long(struct engine *engine, uint64_t id, uint32_t max_tokens)
{
	uint32_t prompt[MAX_PROMPT];
	struct job_spec spec = spec_of(id, prompt);

	spec.max_tokens = max_tokens;
	assert_int_equal(engine_submit(engine, &spec), 0);
}

/* A job that needs n_pages, whatever its prompt. */
static void submit_filling(struct engine *engine, uint64_t id, uint32_t n_pages)
{
	uint32_t prompt[MAX_PROMPT];

	submit_long(engine, id, n_pages * KV_PAGE_TOKENS - spec_of(id, prompt).n_prompt);
}

/* Each job on an engine of its own. */
static void run_alone(struct record ret[static N_JOBS])
{
	for (uint64_t id = 0; id < N_JOBS; id++) {
		struct engine_settings settings = settings_of(8);
		struct listener l;
		struct engine *engine;

		settings.n_threads = 1;
		engine = engine_open(&settings, &l);
		submit(engine, id);
		wait_finished(&l, id);
		engine_free(engine);
		ret[id] = l.jobs[id];
	}
}

static void expect_same(const struct record *got, const struct record *expected, size_t id)
{
	assert_int_equal(got->end.reason, FINISH_LENGTH);
	assert_int_equal(got->n, MAX_TOKENS);
	for (size_t i = 0; i < MAX_TOKENS; i++)
		if (got->tokens[i] != expected->tokens[i])
			fail_msg("job %zu: token %zu is %u in company, %u alone", id, i,
				got->tokens[i], expected->tokens[i]);
}

static void run_together(const struct record alone[static N_JOBS], uint32_t n_threads,
	uint32_t max_rows, uint32_t chunk)
{
	struct engine_settings settings = settings_of(64);
	struct engine_stats stats;
	struct listener l;
	struct engine *engine;

	settings.n_threads = n_threads;
	settings.max_batch_rows = max_rows;
	settings.prompt_chunk = chunk;
	engine = engine_open(&settings, &l);
	for (uint64_t id = 0; id < N_JOBS; id++)
		submit(engine, id);
	for (uint64_t id = 0; id < N_JOBS; id++) {
		wait_finished(&l, id);
		expect_same(&l.jobs[id], &alone[id], id);
	}
	engine_stats(engine, &stats);
	assert_int_equal(stats.kv_pages_free, stats.kv_pages);
	assert_int_equal(stats.n_generated_tokens, N_JOBS * MAX_TOKENS);
	assert_int_equal(stats.n_running + stats.n_waiting, 0);
	engine_free(engine);
}

static void test_company(void **state)
{
	static const struct {
		uint32_t n_threads, max_rows, chunk;
	} cases[] = {{1, 48, 16}, {2, 48, 16}, {3, 300, 300}, {4, 17, 1}, {2, 3, 7}, {1, 1, 1}};
	static struct record alone[N_JOBS];

	(void)state;
	run_alone(alone);
	for (size_t i = 0; i < array_len(cases); i++)
		run_together(alone, cases[i].n_threads, cases[i].max_rows, cases[i].chunk);
}

/* The greedy jobs agree with the scorer, which knows nothing of engines. */
static void test_greedy(void **state)
{
	static struct record alone[N_JOBS];
	struct pool *pool;
	struct scorer *scorer;

	(void)state;
	run_alone(alone);
	assert_int_equal(pool_new(1, &pool, NULL), 0);
	assert_int_equal(scorer_new(model, pool, 256, &scorer, NULL), 0);
	for (uint64_t id = 0; id < N_JOBS; id++) {
		uint32_t prompt[MAX_PROMPT], greedy[MAX_TOKENS];
		struct job_spec spec = spec_of(id, prompt);
		size_t n;

		if (spec.sampling.temperature > 0)
			continue;
		scorer_begin(scorer, spec.variant);
		for (uint32_t i = 0; i < spec.n_prompt; i++)
			assert_int_equal(scorer_push(scorer, &prompt[i], 1, NULL), 0);
		assert_int_equal(score_greedy(scorer, MAX_TOKENS, true, greedy, &n, NULL), 0);
		assert_int_equal(n, MAX_TOKENS);
		assert_memory_equal(greedy, alone[id].tokens, sizeof(greedy));
	}
	scorer_free(scorer);
	pool_free(pool);
}

static void test_end_of_text(void **state)
{
	struct engine_settings settings = settings_of(16);
	uint32_t prompt[MAX_PROMPT];
	struct job_spec spec = spec_of(0, prompt);
	struct listener l;
	struct engine *engine = engine_open(&settings, &l);

	(void)state;
	assert_true(model_config(model)->n_eos > 0);
	spec.sampling.n_logit_bias = 1;
	spec.sampling.logit_bias[0] =
		(struct logit_bias){(uint32_t)model_config(model)->eos[0], 1000};
	spec.ignore_eos = false;
	assert_int_equal(engine_submit(engine, &spec), 0);
	spec.id = 1;
	spec.ignore_eos = true;
	assert_int_equal(engine_submit(engine, &spec), 0);
	spec.id = 2;
	spec.max_tokens = 0;
	assert_int_equal(engine_submit(engine, &spec), 0);
	for (size_t id = 0; id < 3; id++)
		wait_finished(&l, id);
	assert_int_equal(l.jobs[0].end.reason, FINISH_STOP);
	assert_int_equal(l.jobs[0].n, 0);
	assert_int_equal(l.jobs[1].end.reason, FINISH_LENGTH);
	assert_int_equal(l.jobs[1].n, MAX_TOKENS);
	assert_int_equal(l.jobs[2].end.reason, FINISH_LENGTH);
	assert_int_equal(l.jobs[2].n, 0);
	engine_free(engine);
}

static void test_cancel_and_stop(void **state)
{
	struct engine_settings settings = settings_of(64);
	struct listener l;
	struct engine *engine = engine_open(&settings, &l);

	(void)state;
	for (uint64_t id = 0; id < 4; id++)
		submit_long(engine, id, 380);
	wait_tokens(&l, 0, 3);
	engine_cancel(engine, 0);
	wait_tokens(&l, 1, 3);
	engine_stop(engine, 1);
	engine_cancel(engine, 77);
	wait_finished(&l, 0);
	wait_finished(&l, 1);
	assert_int_equal(l.jobs[0].end.reason, FINISH_CANCELLED);
	assert_int_equal(l.jobs[1].end.reason, FINISH_STOP);
	assert_int_equal(l.jobs[0].end.n_generated, l.jobs[0].n);
	for (size_t id = 2; id < 4; id++) {
		wait_finished(&l, id);
		assert_int_equal(l.jobs[id].end.reason, FINISH_LENGTH);
		assert_int_equal(l.jobs[id].n, 380);
	}
	engine_free(engine);
}

static void test_pause(void **state)
{
	struct engine_settings settings = settings_of(64);
	struct listener l;
	struct engine *engine = engine_open(&settings, &l);
	struct engine_stats stats;
	size_t n;

	(void)state;
	submit_long(engine, 0, 380);
	wait_tokens(&l, 0, 2);
	engine_pause(engine, 0);
	/* The step at hand may still bring a token; another job shows that the engine is past it.
	 */
	submit(engine, 1);
	wait_tokens(&l, 1, 2);
	n = tokens_so_far(&l, 0);
	wait_finished(&l, 1);
	assert_int_equal(tokens_so_far(&l, 0), n);
	engine_stats(engine, &stats);
	for (int i = 0; i < 2000 && !stats.idle; i++) {
		usleep(1000);
		engine_stats(engine, &stats);
	}
	assert_true(stats.idle);
	assert_int_equal(stats.n_running, 1);
	assert_true(stats.kv_pages_free < stats.kv_pages);
	engine_resume(engine, 0);
	wait_finished(&l, 0);
	assert_int_equal(l.jobs[0].n, 380);
	engine_free(engine);
}

/* Pages for one job at a time: the others wait in their order. */
static void test_pages_are_waited_for(void **state)
{
	struct engine_settings settings = settings_of(3);
	struct listener l;
	struct engine *engine = engine_open(&settings, &l);

	(void)state;
	for (uint64_t id = 2; id < 6; id++)
		submit_filling(engine, id, 3);
	engine_cancel(engine, 4);
	for (size_t id = 2; id < 6; id++)
		wait_finished(&l, id);
	assert_int_equal(l.jobs[4].end.reason, FINISH_CANCELLED);
	assert_true(l.jobs[2].place < l.jobs[3].place);
	assert_true(l.jobs[3].place < l.jobs[5].place);
	assert_true(l.jobs[5].end.queue_ns > l.jobs[2].end.queue_ns);
	engine_free(engine);
}

static void test_refusals(void **state)
{
	struct engine_settings settings = settings_of(4);
	uint32_t prompt[MAX_PROMPT];
	struct job_spec spec = spec_of(5, prompt);
	struct listener l;
	struct engine *engine;

	(void)state;
	settings.max_jobs = 1;
	engine = engine_open(&settings, &l);
	spec.max_tokens = 4 * KV_PAGE_TOKENS + 1 - spec.n_prompt;
	assert_int_equal(engine_submit(engine, &spec), ENGINE_E_TOO_LONG);
	spec.max_tokens = UINT32_MAX;
	assert_int_equal(engine_submit(engine, &spec), ENGINE_E_TOO_LONG);
	spec.max_tokens = 1;
	spec.sampling.temperature = -1;
	assert_int_equal(engine_submit(engine, &spec), -EBADMSG);
	spec.sampling.temperature = 0;
	prompt[0] = variant_config(spec.variant)->vocab;
	assert_int_equal(engine_submit(engine, &spec), -EINVAL);
	prompt[0] = 1;
	spec.n_prompt = 0;
	assert_int_equal(engine_submit(engine, &spec), -EINVAL);

	submit_long(engine, 0, 100);
	engine_pause(engine, 0);
	spec.n_prompt = 1;
	assert_int_equal(engine_submit(engine, &spec), ENGINE_E_BUSY);
	engine_cancel(engine, 0);
	wait_finished(&l, 0);
	assert_int_equal(engine_submit(engine, &spec), 0);
	wait_finished(&l, 5);
	engine_free(engine);
}

static void test_shutdown(void **state)
{
	struct engine_settings settings = settings_of(12);
	struct listener l;
	size_t before = open_descriptors();
	struct engine *engine = engine_open(&settings, &l);

	(void)state;
	for (uint64_t id = 0; id < N_JOBS; id++)
		submit_long(engine, id, 250);
	wait_tokens(&l, 0, 1);
	engine_free(engine);
	assert_int_equal(l.n_finished, N_JOBS);
	for (size_t id = 0; id < N_JOBS; id++)
		assert_true(l.jobs[id].end.reason == FINISH_SHUTDOWN ||
			    l.jobs[id].end.reason == FINISH_LENGTH);
	assert_int_equal(l.jobs[N_JOBS - 1].end.reason, FINISH_SHUTDOWN);
	assert_int_equal(open_descriptors(), before);
}

static void test_settings(void **state)
{
	struct engine_settings settings = settings_of(4);
	struct reason reason = {0};
	struct engine *engine;

	(void)state;
	settings.max_batch_rows = 0;
	assert_int_equal(engine_new(model, &settings, listen, NULL, &engine, &reason), -EINVAL);
	settings = settings_of(0);
	assert_int_equal(engine_new(model, &settings, listen, NULL, &engine, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "KV budget"));
}

static struct job *admit(struct sched *s, uint64_t id)
{
	uint32_t prompt[MAX_PROMPT];
	struct job_spec spec = spec_of(id, prompt);
	struct job *job, *admitted;

	spec.n_prompt = 40;
	assert_int_equal(job_new(&spec, &job), 0);
	sched_enqueue(s, job);
	assert_int_equal(sched_admit(s, &admitted), 0);
	assert_ptr_equal(admitted, job);
	return job;
}

static void expect_rows(struct sched *s, uint32_t first, uint32_t second)
{
	struct batch_row rows[48];
	struct job *jobs[2];
	struct batch batch = {.rows = rows, .jobs = jobs};

	sched_next_batch(s, &batch);
	assert_int_equal(s->by_age[0]->n_rows, first);
	if (s->n_running > 1)
		assert_int_equal(s->by_age[1]->n_rows, second);
	assert_int_equal(batch.n_rows, first + second);
}

/* A prompt takes a chunk of the step if somebody else waits for it, else what there is. */
static void test_chunks(void **state)
{
	uint64_t bytes = 16 * kv_page_bytes(model_config(model), KV_TYPE_F32);
	struct kv_pool *kv;
	struct sched sched;
	struct job *jobs[2];

	(void)state;
	assert_int_equal(kv_pool_new(model_config(model), KV_TYPE_F32, bytes, &kv, NULL), 0);
	assert_int_equal(sched_init(&sched, kv, 38, 16, 2), 0);
	jobs[0] = admit(&sched, 0);
	expect_rows(&sched, 38, 0);
	jobs[1] = admit(&sched, 1);
	expect_rows(&sched, 16, 16);
	jobs[0]->n_done = 39;
	expect_rows(&sched, 1, 16);
	jobs[0]->paused = true;
	expect_rows(&sched, 0, 38);
	for (size_t i = 0; i < array_len(jobs); i++) {
		sched_remove(&sched, jobs[i]);
		job_free(jobs[i]);
	}
	sched_done(&sched);
	kv_pool_free(kv);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_company),
		cmocka_unit_test(test_greedy),
		cmocka_unit_test(test_end_of_text),
		cmocka_unit_test(test_cancel_and_stop),
		cmocka_unit_test(test_pause),
		cmocka_unit_test(test_pages_are_waited_for),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_shutdown),
		cmocka_unit_test(test_settings),
		cmocka_unit_test(test_chunks),
	};

	return cmocka_run_group_tests(tests, open_models, close_models);
}
