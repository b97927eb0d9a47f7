#include "compress/auto_stream.h"
#include "compress/ladder.h"
#include "compress/stream_entry.h"

#include <math.h>
#include <string.h>

#define CODES_DAMPING_H .3
#define CODES_DAMPING_G 1.0
/* Of the block that comes first nobody knows what is wanted; around the lambda that blocks before
 * have shown, fewer and closer ones do. */
#define FIRST_RUNGS 7u
#define N_RUNGS 5u
#define SPACING 2.2 /* of these lambdas */
/* From so many bits a number on, components do not come near direct codes. */
#define DIRECT_BITS 1.6
/* A component takes about so many bits a number where it is worth its place. */
#define COMPONENT_BITS .7
#define SMALL_SIDE 512u /* matrices that all components are made of */

static uint32_t n_layers(const struct auto_stream *s)
{
	return s->config->n_layers;
}

static struct batch batch_of(const struct auto_stream *s)
{
	return (struct batch){.sequences = &s->text, .n = s->text.n};
}

/* Rows of the text; `model` has the embedding. */
static int begin_rows(struct auto_stream *s, const struct dense_model *model, struct reason *reason)
{
	const struct batch batch = batch_of(s);

	return backward_begin(s->backward, model, &batch, reason);
}

static int open_backward(struct auto_stream *s, struct reason *reason)
{
	s->backward = backward_free(s->backward);
	return backward_new_chunked(s->config, s->model->pool, sequences_longest(&s->text),
		STREAM_CHUNK, &s->backward, reason);
}

/* Slot 0 is the embedding, slot n_layers what leaves the last block. */
static int read_on(struct auto_stream *s, struct reason *reason)
{
	uint64_t n = block_inputs_count(s->inputs);
	float *x = backward_x(s->backward);
	int r = n ? block_inputs_read(s->inputs, n - 1, x, reason)
		  : block_inputs_add(s->inputs, x, reason);

	for (n = block_inputs_count(s->inputs); r == 0 && n <= n_layers(s); n++) {
		progress_update(s->model->progress, STREAM_FORWARD, n - 1, n_layers(s));
		r = backward_block(s->backward, s->tuned, (uint32_t)n - 1, reason);
		if (r == 0)
			r = block_inputs_add(s->inputs, x, reason);
	}
	progress_update(s->model->progress, STREAM_FORWARD, n_layers(s), n_layers(s));
	return r;
}

int stream_forward(struct auto_stream *s, struct reason *reason)
{
	int r;

	if (work_file_blocks(s->work) > 0 || block_inputs_count(s->inputs) > n_layers(s))
		return 0;
	r = dense_model_open(s->model->pair->tuned, &s->tuned, reason);
	if (r == 0)
		r = open_backward(s, reason);
	if (r == 0)
		r = begin_rows(s, s->tuned, reason);
	if (r == 0)
		r = read_on(s, reason);
	s->tuned = dense_model_free(s->tuned);
	s->backward = backward_free(s->backward);
	return r;
}

/* The gradient at the outputs of the last block. */
static int start_back(struct auto_stream *s, struct reason *reason)
{
	const struct loss loss = fisher_loss(&s->sensing);
	struct loss_sums sums;
	int r = block_inputs_read(s->inputs, n_layers(s), backward_x(s->backward), reason);

	return r == 0 ? backward_start(s->backward, s->tuned, &loss, &sums) : r;
}

/* As it stood after the last block that is done. */
static int go_on_back(struct auto_stream *s, struct reason *reason)
{
	float *dx = backward_dx(s->backward);
	size_t bytes = backward_numbers(s->backward) * sizeof(*dx);
	struct digest found;
	int r = work_file_read_x(s->work, s->n_done % 2, 0, dx);

	if (r < 0)
		return reason_set(reason, r, "the file of work in progress: %s", strerror(-r));
	found = digest_of(dx, bytes);
	return !digest_equal(&found, work_file_digests(s->work));
}

static int keep_block(void *user, struct fisher_block *block, struct reason *reason)
{
	struct auto_stream *s = user;

	(void)reason;
	s->block = *block;
	*block = (struct fisher_block){0};
	return 0;
}

/* Embedding and head are needed once and forgotten: of a large model they are a gigabyte. */
static int open_back(struct auto_stream *s, struct reason *reason)
{
	int r = dense_model_open(s->model->pair->tuned, &s->tuned, reason);

	s->sensing = (struct fisher_settings){
		.pool = s->model->pool,
		.model = s->tuned,
		.sequences = &s->text,
		.seed = 1,
	};
	if (r == 0)
		r = open_backward(s, reason);
	if (r == 0)
		r = begin_rows(s, s->tuned, reason);
	if (r == 0)
		r = s->n_done ? go_on_back(s, reason) : start_back(s, reason);
	s->tuned = dense_model_free(s->tuned);
	if (r == 0)
		r = dense_model_open_blocks(s->model->pair->tuned, &s->tuned);
	s->sensing.model = s->tuned;
	if (r == 0)
		r = fisher_new(&s->sensing, keep_block, s, &s->fisher);
	return r;
}

/* A projection whose turn it is. */
struct turn {
	struct auto_stream *stream;
	size_t projection;
	double lambda; /* of the blocks before; 0: not known */
	const struct metric *h;
};

bool stream_takes_components(const struct auto_stream *s)
{
	return stream_bits(s) < DIRECT_BITS;
}

/* Twice as many as the bits pay for. */
static uint32_t max_components(const struct auto_stream *s, const struct part_place *p)
{
	double bits = stream_bits(s), least = fmin(p->rows, p->cols);
	double paid = bits / COMPONENT_BITS * p->rows * p->cols / ((double)p->rows + p->cols);

	if (!stream_takes_components(s))
		return 0;
	if (least <= SMALL_SIDE)
		return (uint32_t)least;
	return (uint32_t)fmin(least / 3, bits > 0 ? ceil(2 * paid) : INFINITY);
}

static int climb(const struct turn *t, const struct pair_matrix *m, const struct metric *g,
	struct ladder *ret, struct reason *reason)
{
	const struct auto_stream *s = t->stream;
	double lambdas[N_RUNGS];
	struct ladder_settings settings = {
		.place =
			{
				.role = dense_projections[t->projection],
				.layer = s->block.layer,
				.rows = m->rows,
				.cols = m->cols,
			},
		.delta = m->delta,
		.g = g,
		.h = t->h,
		.lambdas = t->lambda > 0 ? lambdas : NULL,
		.n_rungs = t->lambda > 0 ? N_RUNGS : FIRST_RUNGS,
		.bits = stream_bits(s) > 0 ? stream_bits(s) : 1,
		.pool = s->model->pool,
	};

	for (uint32_t i = 0; i < N_RUNGS; i++)
		lambdas[i] = t->lambda * pow(SPACING, (N_RUNGS - 1) / 2. - i);
	settings.max_components = max_components(s, &settings.place);
	return ladder_make(&settings, ret, reason);
}

/* The factor G is used up. */
static int code_projection(const struct turn *t, struct stream_entry *entry, struct reason *reason)
{
	struct auto_stream *s = t->stream;
	float **moments = &s->block.g[t->projection];
	_cleanup_(metric_freep) struct metric *g = NULL;
	_cleanup_(ladder_done) struct ladder ladder = {0};
	struct pair_matrix m;
	int r = pair_read_matrix(
		s->model->pair, dense_projections[t->projection], s->block.layer, &m, reason);

	if (r < 0)
		return r;
	free(m.base);
	if (!m.delta || m.all_zero) {
		free(m.delta);
		return 0;
	}
	r = metric_new_feedback(s->model->pool, *moments, m.rows, CODES_DAMPING_G, &g, reason);
	freep(moments);
	*moments = NULL;
	if (r == 0)
		r = climb(t, &m, g, &ladder, reason);
	free(m.delta);
	if (r == 0)
		r = stream_entry_add(entry, t->projection, (uint64_t)m.rows * m.cols, &ladder);
	return r;
}

/* Projections with the same inputs follow each other. */
static int code_inputs(struct auto_stream *s, enum fisher_input input, double lambda,
	struct stream_entry *entry, struct reason *reason)
{
	_cleanup_(metric_freep) struct metric *h = NULL;
	struct turn turn = {.stream = s, .lambda = lambda};
	int r = metric_new_feedback(s->model->pool, s->block.h[input],
		fisher_input_width(s->config, input), CODES_DAMPING_H, &h, reason);

	freep(&s->block.h[input]);
	s->block.h[input] = NULL;
	turn.h = h;
	for (size_t p = 0; r == 0 && p < DENSE_N_PROJECTIONS; p++) {
		if (fisher_input_of(p) != input)
			continue;
		progress_update(s->model->progress, STREAM_CODING,
			(uint64_t)s->n_done * DENSE_N_PROJECTIONS + p,
			(uint64_t)n_layers(s) * DENSE_N_PROJECTIONS);
		turn.projection = p;
		r = code_projection(&turn, entry, reason);
	}
	return r;
}

static int code_block(struct auto_stream *s, struct reason *reason)
{
	_cleanup_(stream_entry_done) struct stream_entry entry = {0};
	double lambda;
	int r = stream_lambda(s, &lambda);

	for (int i = 0; r == 0 && i < N_FISHER_INPUTS; i++)
		r = code_inputs(s, (enum fisher_input)i, lambda, &entry, reason);
	fisher_block_done(&s->block);
	if (r == 0)
		r = stream_entry_write(&entry, s->work, backward_dx(s->backward),
			backward_numbers(s->backward) * sizeof(float), reason);
	return r == 0 ? stream_take_block(s, reason) : r;
}

static int sense_block(struct auto_stream *s, struct reason *reason)
{
	uint32_t layer = n_layers(s) - 1 - s->n_done;
	int r = block_inputs_read(s->inputs, layer, backward_x(s->backward), reason);

	if (r != 0)
		return r;
	return backward_back(s->backward, s->tuned, layer, fisher_visit, s->fisher, reason);
}

int stream_code(struct auto_stream *s, struct reason *reason)
{
	int r = 0;

	if (s->n_done == n_layers(s))
		return 0;
	r = open_back(s, reason);
	while (r == 0 && s->n_done < n_layers(s)) {
		progress_update(s->model->progress, STREAM_CODING,
			(uint64_t)s->n_done * DENSE_N_PROJECTIONS,
			(uint64_t)n_layers(s) * DENSE_N_PROJECTIONS);
		r = sense_block(s, reason);
		if (r == 0)
			r = code_block(s, reason);
	}
	s->fisher = fisher_free(s->fisher);
	s->tuned = dense_model_free(s->tuned);
	s->backward = backward_free(s->backward);
	return r;
}
