#include "client/deltactl/bench_run.h"

#include "client/deltactl/bench_bytes.h"
#include "client/deltactl/bench_memory.h"
#include "common/clock.h"
#include "common/random.h"
#include "engine/forward.h"
#include "engine/score.h"

/* Made up numbers of a sequence begin somewhere among these. */
#define N_NUMBERS 8192u

struct bench {
	const struct bench_setup *setup;
	const struct model_config *config;
	struct memory_reader *memory;
	struct forward *forward;
	struct kv_pool *kv;
	uint32_t max_rows;
	struct batch_row *rows; /* max_rows */
	struct kv_seq **seqs;   /* max_rows; those of the test at hand */
	/* n_repeats of each test: seconds, then tokens a second; and memory's rate before each. */
	double *samples, *read_rates;
	float *numbers; /* N_NUMBERS and head_dim */
};

static void bench_done(struct bench *b)
{
	for (uint32_t i = 0; b->seqs && i < b->max_rows; i++)
		kv_seq_free(b->seqs[i]);
	free(b->seqs);
	free(b->rows);
	free(b->samples);
	free(b->read_rates);
	free(b->numbers);
	forward_free(b->forward);
	kv_pool_free(b->kv);
	memory_reader_free(b->memory);
}

static uint32_t rows_of_step(const struct bench *b, const struct bench_test *t)
{
	return t->prompt ? (uint32_t)min_u64(t->n_tokens, b->setup->chunk) : t->n_rows;
}

static int allocate(struct bench *b, size_t n_tests)
{
	size_t n_samples = n_tests * b->setup->n_repeats;
	uint32_t head_dim = b->config->head_dim;

	b->rows = calloc(b->max_rows, sizeof(struct batch_row));
	b->seqs = calloc(b->max_rows, sizeof(struct kv_seq *));
	b->samples = calloc(n_samples, sizeof(double));
	b->read_rates = calloc(n_samples, sizeof(double));
	b->numbers = calloc((size_t)N_NUMBERS + head_dim, sizeof(float));
	if (!b->rows || !b->seqs || !b->samples || !b->read_rates || !b->numbers)
		return -ENOMEM;
	for (size_t i = 0; i < N_NUMBERS + head_dim; i++)
		b->numbers[i] = (float)(2 * random_share(random_at(1, i)) - 1);
	return 0;
}

static int bench_init(
	struct bench *b, const struct bench_test *tests, size_t n, struct reason *reason)
{
	const struct offline_model *m = b->setup->model;
	uint64_t most_pages = 1;
	int r;

	b->config = model_config(m->model);
	b->max_rows = 1;
	for (size_t i = 0; i < n; i++) {
		const struct bench_test *t = &tests[i];
		uint64_t pages = div_up((uint64_t)t->depth + t->n_tokens, KV_PAGE_TOKENS);

		b->max_rows = (uint32_t)max_u64(b->max_rows, rows_of_step(b, t));
		most_pages = max_u64(most_pages, t->n_rows * pages);
	}
	r = allocate(b, n);
	if (r < 0)
		return reason_set(reason, r, "no memory for %u rows", b->max_rows);
	r = memory_reader_new(m->pool, &b->memory, reason);
	if (r == 0)
		r = forward_new(m->model, m->pool, b->max_rows, &b->forward, reason);
	if (r < 0)
		return r;
	return kv_pool_new(b->config, b->setup->kv_type,
		most_pages * kv_page_bytes(b->config, b->setup->kv_type), &b->kv, reason);
}

struct filling {
	const struct bench *bench;
	struct kv_seq *seq;
	uint32_t depth;
};

static void fill_layer(void *arg, size_t layer, size_t worker)
{
	const struct filling *f = arg;
	const struct bench *b = f->bench;
	const struct kernels *kernels = &b->setup->model->kernels;
	uint32_t head_dim = b->config->head_dim, l = (uint32_t)layer;
	enum kv_type type = b->setup->kv_type;

	(void)worker;
	for (uint32_t head = 0; head < b->config->n_kv_heads; head++)
		for (uint32_t p = 0; p < f->depth; p++) {
			uint64_t random = random_at(layer, (uint64_t)head << 32 | p);
			const float *key = b->numbers + random % N_NUMBERS;
			const float *value = b->numbers + (random >> 32) % N_NUMBERS;

			kernels->kv_store(kv_seq_key(f->seq, l, head, p), key, head_dim, type);
			kernels->kv_store(kv_seq_value(f->seq, l, head, p), value, head_dim, type);
		}
}

static int begin_sequences(struct bench *b, const struct bench_test *t, struct reason *reason)
{
	for (uint32_t i = 0; i < t->n_rows; i++) {
		struct filling filling = {.bench = b, .depth = t->depth};
		int r = kv_seq_new(b->kv, t->depth + t->n_tokens, &b->seqs[i]);

		if (r != 0)
			return reason_set(reason, r < 0 ? r : -ENOMEM,
				"no room for a sequence of %u tokens", t->depth + t->n_tokens);
		filling.seq = b->seqs[i];
		if (t->depth)
			pool_run(b->setup->model->pool, fill_layer, &filling, b->config->n_layers);
	}
	return 0;
}

static void end_sequences(struct bench *b)
{
	for (uint32_t i = 0; i < b->max_rows; i++)
		b->seqs[i] = kv_seq_free(b->seqs[i]);
}

static uint32_t random_token(const struct bench *b, uint64_t at)
{
	return (uint32_t)(random_at(0, at) % b->config->vocab);
}

static void read_prompt(struct bench *b, const struct bench_test *t, uint32_t n_tokens)
{
	for (uint32_t done = 0; done < n_tokens;) {
		uint32_t n = (uint32_t)min_u64(n_tokens - done, b->setup->chunk);

		for (uint32_t i = 0; i < n; i++)
			b->rows[i] = (struct batch_row){
				.variant = t->variants[0].variant,
				.seq = b->seqs[0],
				.token = random_token(b, done + i),
				.position = done + i,
				.want_logits = done + i + 1 == t->n_tokens,
			};
		forward_step(b->forward, b->rows, n);
		done += n;
	}
}

/* Greedy, whatever ends a text. Rows of one variant are neighbours. */
static void generate(struct bench *b, const struct bench_test *t, uint32_t n_tokens)
{
	for (uint32_t i = 0; i < t->n_rows; i++)
		b->rows[i] = (struct batch_row){
			.variant = t->variants[i * t->n_variants / t->n_rows].variant,
			.seq = b->seqs[i],
			.token = random_token(b, i),
			.position = t->depth,
			.want_logits = true,
		};
	for (uint32_t step = 0; step < n_tokens; step++) {
		forward_step(b->forward, b->rows, t->n_rows);
		for (uint32_t i = 0; i < t->n_rows; i++) {
			b->rows[i].token = logits_argmax(forward_logits(b->forward, i),
				variant_config(b->rows[i].variant)->vocab);
			b->rows[i].position++;
		}
	}
}

static void warm_up(struct bench *b, const struct bench_test *t)
{
	if (t->prompt)
		read_prompt(b, t, rows_of_step(b, t));
	else
		generate(b, t, 1);
}

static void take_sample(struct bench *b, const struct bench_test *t, size_t at)
{
	uint64_t start;

	b->read_rates[at] = memory_reader_rate(b->memory);
	start = clock_ns();
	if (t->prompt)
		read_prompt(b, t, t->n_tokens);
	else
		generate(b, t, t->n_tokens);
	b->samples[at] = 1e-9 * (double)(clock_ns() - start);
}

/* Keys and values that a row at a position reads in all layers. */
static double kv_bytes_at(const struct bench *b, uint64_t position)
{
	const struct model_config *c = b->config;
	double of_position =
		(double)kv_page_bytes(c, b->setup->kv_type) / KV_PAGE_TOKENS / c->n_layers;
	uint32_t wide = c->n_layers;
	uint64_t narrow_positions = 0;

	if (c->sliding_window) {
		wide = (uint32_t)min_u64(c->first_window_layer, c->n_layers);
		narrow_positions = min_u64(position + 1, c->sliding_window);
	}
	return of_position * ((double)wide * (double)(position + 1) +
				     (double)(c->n_layers - wide) * (double)narrow_positions);
}

static double kv_bytes(const struct bench *b, const struct bench_test *t)
{
	double sum = 0;

	if (t->prompt)
		return 0;
	for (uint32_t i = 0; i < t->n_tokens; i++)
		sum += kv_bytes_at(b, (uint64_t)t->depth + i);
	return sum / t->n_tokens;
}

/* Of a prompt, only the last step reads the head. */
static int weight_bytes(const struct bench *b, const struct bench_test *t, double *ret)
{
	const struct base *base = b->setup->model->base;
	_cleanup_(freep) const struct delta **deltas = calloc(t->n_variants, sizeof(*deltas));
	double projections, head;

	if (!deltas)
		return -ENOMEM;
	for (size_t i = 0; i < t->n_variants; i++)
		deltas[i] = t->variants[i].delta;
	projections = (double)projections_bytes(base, deltas, t->n_variants);
	head = (double)head_bytes(base, deltas, t->n_variants);
	if (t->prompt)
		*ret = (projections * (double)div_up(t->n_tokens, b->setup->chunk) + head) /
		       t->n_tokens;
	else
		*ret = (projections + head) / t->n_rows;
	return 0;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Of n sorted numbers. */
static double median(const double *numbers, size_t n)
{
	return (numbers[(n - 1) / 2] + numbers[n / 2]) / 2;
}

static int sum_up(
	struct bench *b, const struct bench_test *t, size_t first, struct bench_figures *ret)
{
	size_t n = b->setup->n_repeats;
	double *rates = b->samples + first, *read_rates = b->read_rates + first;

	for (size_t i = 0; i < n; i++)
		rates[i] = (double)t->n_tokens * t->n_rows / rates[i];
	qsort(rates, n, sizeof(double), compare_doubles);
	qsort(read_rates, n, sizeof(double), compare_doubles);
	*ret = (struct bench_figures){
		.median = median(rates, n),
		.least = rates[0],
		.most = rates[n - 1],
		.kv_bytes = kv_bytes(b, t),
		.read_rate = median(read_rates, n),
	};
	return weight_bytes(b, t, &ret->weight_bytes);
}

/* Tests take turns, so that what else the machine does is shared out among them. */
static int take_samples(
	struct bench *b, const struct bench_test *tests, size_t n, struct reason *reason)
{
	uint32_t n_repeats = b->setup->n_repeats;
	int r;

	for (size_t turn = 0; turn < n_repeats; turn++)
		for (size_t i = 0; i < n; i++) {
			progress_update(
				b->setup->progress, "measuring", turn * n + i, n * n_repeats);
			r = begin_sequences(b, &tests[i], reason);
			if (r < 0)
				return r;
			if (turn == 0)
				warm_up(b, &tests[i]);
			take_sample(b, &tests[i], i * n_repeats + turn);
			end_sequences(b);
		}
	progress_update(b->setup->progress, "measuring", n * n_repeats, n * n_repeats);
	return 0;
}

int bench_run(const struct bench_setup *setup, const struct bench_test *tests, size_t n,
	struct bench_figures *ret, struct reason *reason)
{
	_cleanup_(bench_done) struct bench b = {.setup = setup};
	int r = bench_init(&b, tests, n, reason);

	if (r == 0)
		r = take_samples(&b, tests, n, reason);
	for (size_t i = 0; i < n && r == 0; i++)
		r = sum_up(&b, &tests[i], i * setup->n_repeats, &ret[i]);
	return r;
}
