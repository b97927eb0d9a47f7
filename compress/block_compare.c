#include "compress/block_compare.h"

#include "compress/block_math.h"
#include "kernels/blas.h"

#include <math.h>
#include <string.h>

#define STRIP 512u /* tokens of the vocabulary */

/* Room of one worker. */
struct room {
	struct block_scratch *scratch;
	float *tap; /* window x tap_width */
};

struct run {
	const struct block_compare *settings;
	size_t window, n_windows, hidden, tap_width;
	enum which_model n_models; /* without the base where it lacks tokens */
	float *x[N_MODELS];        /* windows x window x hidden */
	struct block_shape *shape;
	struct room *rooms;
	size_t n_rooms;
	/* Of the step in work. */
	struct block_weights weights;
	uint32_t layer;
	float *step_x;
};

static void run_done(struct run *r)
{
	for (size_t i = 0; i < N_MODELS; i++)
		free(r->x[i]);
	for (size_t i = 0; r->rooms && i < r->n_rooms; i++) {
		block_scratch_free(r->rooms[i].scratch);
		free(r->rooms[i].tap);
	}
	free(r->rooms);
	block_shape_free(r->shape);
}

static int run_init(struct run *r, struct reason *reason)
{
	const struct block_compare *s = r->settings;
	const struct model_config *config = &s->models.pair->tuned_config;
	int e;

	r->window = s->calibration->window;
	r->n_windows = s->calibration->n_held_out;
	r->hidden = config->hidden;
	r->tap_width = block_tap_width(config);
	r->n_models = compare_reads(s->calibration->held_out, r->n_windows * r->window,
			      s->models.pair->base_config.vocab)
			      ? N_MODELS
			      : MODEL_BASE;
	r->n_rooms = pool_threads(s->models.pool);
	r->rooms = calloc(r->n_rooms, sizeof(*r->rooms));
	for (size_t i = 0; i < r->n_models; i++) {
		r->x[i] = malloc(r->n_windows * r->window * r->hidden * sizeof(float));
		if (!r->x[i])
			return -ENOMEM;
	}
	if (!r->rooms)
		return -ENOMEM;
	e = block_shape_new(config, (uint32_t)r->window, &r->shape, reason);
	for (size_t i = 0; e == 0 && i < r->n_rooms; i++) {
		e = block_scratch_new(r->shape, &r->rooms[i].scratch);
		r->rooms[i].tap = malloc(r->window * r->tap_width * sizeof(float));
		if (e == 0 && !r->rooms[i].tap)
			e = -ENOMEM;
	}
	return e;
}

static int begin(struct run *r, enum which_model w, struct reason *reason)
{
	const struct calibration *c = r->settings->calibration;
	_cleanup_(freep) float *embedding = NULL;
	int e = three_models_read(&r->settings->models, w, ROLE_EMBED, 0, &embedding, reason);

	if (e < 0)
		return e;
	for (size_t i = 0; i < r->n_windows * r->window; i++)
		memcpy(r->x[w] + i * r->hidden, embedding + (size_t)c->held_out[i] * r->hidden,
			r->hidden * sizeof(float));
	return 0;
}

static void pass_window(void *arg, size_t piece, size_t worker)
{
	const struct run *r = arg;
	struct room *room = &r->rooms[worker];
	const struct block_rows rows = {
		.n = (uint32_t)r->window,
		.layer = r->layer,
		.x = r->step_x + piece * r->window * r->hidden,
		.x_stride = r->hidden,
		.tap = room->tap,
		.tap_stride = r->tap_width,
	};

	block_attention_input(r->shape, &r->weights, &rows);
	block_attention(r->shape, &r->weights, room->scratch, &rows);
	block_attention_output(r->shape, &r->weights, &rows);
	block_ffn_input(r->shape, &r->weights, &rows);
	block_ffn(r->shape, &r->weights, room->scratch, &rows);
	block_ffn_output(r->shape, &r->weights, &rows);
}

static int pass_block(struct run *r, enum which_model w, uint32_t layer, struct reason *reason)
{
	struct dense_layer block;
	int e = three_models_block(&r->settings->models, w, layer, &block, reason);

	if (e == 0) {
		r->weights = dense_layer_weights(&block);
		r->layer = layer;
		r->step_x = r->x[w];
		pool_run(r->settings->models.pool, pass_window, r, r->n_windows);
	}
	three_models_drop(&block);
	return e;
}

static int finish(struct run *r, enum which_model w, struct reason *reason)
{
	const struct model_config *config = three_models_config(&r->settings->models, w);
	_cleanup_(freep) float *norm = NULL;
	int e = three_models_read(
		&r->settings->models, w, ROLE_FINAL_NORM, config->n_layers - 1, &norm, reason);

	for (size_t i = 0; e == 0 && i < r->n_windows * r->window; i++) {
		float *row = r->x[w] + i * r->hidden;

		rms_norm(row, row, norm, r->hidden, config->norm_eps);
	}
	return e;
}

static int pass_all(struct run *r, struct reason *reason)
{
	const struct block_compare *s = r->settings;
	uint32_t n_layers = s->models.pair->tuned_config.n_layers;
	uint64_t n = (uint64_t)n_layers * r->n_models;
	int e = 0;

	for (uint32_t w = 0; e == 0 && w < r->n_models; w++)
		e = begin(r, (enum which_model)w, reason);
	for (uint64_t i = 0; e == 0 && i < n; i++) {
		progress_update(s->progress, "measuring", i, n);
		e = pass_block(r, (enum which_model)(i % r->n_models), (uint32_t)(i / r->n_models),
			reason);
	}
	for (uint32_t w = 0; e == 0 && w < r->n_models; w++)
		e = finish(r, (enum which_model)w, reason);
	if (e == 0)
		progress_update(s->progress, "measuring", n, n);
	return e;
}

/* log sum exp over the strips so far. */
struct log_sum {
	double top, sum;
};

/* Sums at one position over the strips so far. */
struct place {
	struct log_sum of[N_MODELS];
	double difference;       /* sum exp(z_tuned - top) (z_tuned - z_delta) */
	double target[N_MODELS]; /* logits of the next token */
	float best[2];           /* of tuned and delta */
	uint32_t best_token[2];
};

/* The head and the logits of one strip, in each model. */
struct vocab_strip {
	const struct run *run;
	float *heads[N_MODELS];
	uint32_t first, n[N_MODELS]; /* tokens; the base may have fewer */
	struct place *places;        /* of all rows of text */
	float *logits;               /* for each worker: N_MODELS x window x STRIP */
};

static void raise_top(struct log_sum *s, double top, double *also)
{
	double factor = exp(s->top - top);

	s->sum *= factor;
	if (also)
		*also *= factor;
	s->top = top;
}

static float largest(const float *values, uint32_t n, uint32_t *ret_at)
{
	uint32_t at = 0;

	for (uint32_t i = 1; i < n; i++)
		if (values[i] > values[at])
			at = i;
	*ret_at = at;
	return values[at];
}

static void add_logits(const struct vocab_strip *s, struct place *p, enum which_model w,
	const float *logits, uint32_t target)
{
	uint32_t n = s->n[w], at;
	double top;

	if (n == 0)
		return;
	top = (double)largest(logits, n, &at);
	if (w != MODEL_BASE && (s->first == 0 || (float)top > p->best[w])) {
		p->best[w] = (float)top;
		p->best_token[w] = s->first + at;
	}
	if (top > p->of[w].top)
		raise_top(&p->of[w], top, w == MODEL_TUNED ? &p->difference : NULL);
	for (uint32_t i = 0; i < n; i++)
		p->of[w].sum += exp((double)logits[i] - p->of[w].top);
	if (target >= s->first && target - s->first < n)
		p->target[w] = (double)logits[target - s->first];
}

static void add_differences(
	const struct vocab_strip *s, struct place *p, const float *tuned, const float *delta)
{
	for (uint32_t i = 0; i < s->n[MODEL_TUNED]; i++)
		p->difference += exp((double)tuned[i] - p->of[MODEL_TUNED].top) *
				 ((double)tuned[i] - (double)delta[i]);
}

static void strip_window(void *arg, size_t piece, size_t worker)
{
	const struct vocab_strip *s = arg;
	const struct run *r = s->run;
	const uint32_t *ids = r->settings->calibration->held_out + piece * r->window;
	float *logits[N_MODELS];

	for (uint32_t w = 0; w < r->n_models; w++) {
		const struct blas_gemm gemm = {
			.m = r->window,
			.n = s->n[w],
			.k = r->hidden,
			.transpose_b = true,
			.alpha = 1,
			.c_stride = STRIP,
		};

		logits[w] = s->logits + (worker * N_MODELS + w) * r->window * STRIP;
		if (s->n[w])
			blas_gemm_f32(&gemm, r->x[w] + piece * r->window * r->hidden,
				s->heads[w] + (size_t)s->first * r->hidden, logits[w]);
	}
	for (size_t t = 0; t + 1 < r->window; t++) {
		struct place *p = &s->places[piece * r->window + t];

		for (uint32_t w = 0; w < r->n_models; w++)
			add_logits(s, p, (enum which_model)w, logits[w] + t * STRIP, ids[t + 1]);
		add_differences(
			s, p, logits[MODEL_TUNED] + t * STRIP, logits[MODEL_DELTA] + t * STRIP);
	}
}

static double log_of(const struct log_sum *s)
{
	return s->top + log(s->sum);
}

static void add_place(const struct run *r, const struct place *p, struct comparison *sums)
{
	double tuned = log_of(&p->of[MODEL_TUNED]), delta = log_of(&p->of[MODEL_DELTA]);
	double kl = p->difference / p->of[MODEL_TUNED].sum - (tuned - delta);

	kl = kl < 0 ? 0 : kl; /* NaN stays */
	sums->n++;
	sums->sum_kl += kl;
	sums->sum_kl_squared += kl * kl;
	sums->n_agreements += p->best_token[MODEL_TUNED] == p->best_token[MODEL_DELTA];
	sums->sum_nll_tuned += tuned - p->target[MODEL_TUNED];
	sums->sum_nll_delta += delta - p->target[MODEL_DELTA];
	sums->sum_nll_base += r->n_models == N_MODELS
				      ? log_of(&p->of[MODEL_BASE]) - p->target[MODEL_BASE]
				      : (double)NAN;
}

static int read_head(
	const struct run *r, enum which_model w, struct vocab_strip *s, struct reason *reason)
{
	const struct model_config *config = three_models_config(&r->settings->models, w);
	bool tied = config->flags & MODEL_TIED_HEAD;

	return three_models_read(&r->settings->models, w, tied ? ROLE_EMBED : ROLE_HEAD,
		tied ? 0 : config->n_layers - 1, &s->heads[w], reason);
}

static void run_strips(const struct run *r, struct vocab_strip *s)
{
	uint32_t vocab = r->settings->models.pair->tuned_config.vocab;

	for (s->first = 0; s->first < vocab; s->first += STRIP) {
		for (uint32_t w = 0; w < r->n_models; w++) {
			uint32_t end =
				three_models_config(&r->settings->models, (enum which_model)w)
					->vocab;

			s->n[w] = end > s->first ? (uint32_t)min_u64(STRIP, end - s->first) : 0;
		}
		pool_run(r->settings->models.pool, strip_window, s, r->n_windows);
	}
}

static int compare_logits(const struct run *r, struct comparison *sums, struct reason *reason)
{
	size_t n = r->n_windows * r->window;
	_cleanup_(freep) struct place *places = calloc(n + 1, sizeof(*places));
	_cleanup_(freep) float *logits =
		malloc(r->n_rooms * N_MODELS * r->window * STRIP * sizeof(*logits));
	struct vocab_strip s = {.run = r, .places = places, .logits = logits};
	int e = places && logits ? 0 : -ENOMEM;

	for (size_t i = 0; e == 0 && i < n; i++)
		for (size_t w = 0; w < N_MODELS; w++)
			places[i].of[w].top = -INFINITY;
	for (uint32_t w = 0; e == 0 && w < r->n_models; w++)
		e = read_head(r, (enum which_model)w, &s, reason);
	if (e == 0)
		run_strips(r, &s);
	for (size_t w = 0; w < N_MODELS; w++)
		free(s.heads[w]);
	for (size_t i = 0; e == 0 && i < n; i++)
		if (i % r->window + 1 < r->window)
			add_place(r, &places[i], sums);
	return e;
}

int block_compare_run(const struct block_compare *c, struct comparison *ret, struct reason *reason)
{
	_cleanup_(run_done) struct run r = {.settings = c};
	struct comparison sums = {0};
	int e = run_init(&r, reason);

	if (e == 0)
		e = pass_all(&r, reason);
	if (e == 0)
		e = compare_logits(&r, &sums, reason);
	if (e == 0)
		*ret = sums;
	return e;
}
