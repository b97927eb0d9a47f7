#include "compress/backward.h"

#include "compress/block_pass.h"
#include "compress/gradient_sums.h"
#include "compress/loss_pass.h"

#include <string.h>

/* Sequences that go through a block together. */
struct chunk {
	size_t first_span, n_spans;
	size_t first_row, n_rows;
};

struct backward {
	struct model_config config;
	struct pool *pool;
	uint32_t longest; /* tokens that are read */
	struct block_shape *shape;
	struct block_pass pass;

	/* The batch, as rows: one for each token that is read. */
	size_t n_rows, n_spans, n_chunks, n_judged;
	uint32_t *ids;
	struct block_span *spans; /* rows count from the beginning of their chunk */
	struct chunk *chunks;
	struct judged *judged;

	float *x;       /* inputs of block 0, 1, ... and outputs of the last: rows x hidden each */
	float *dx;      /* rows x hidden */
	bool keep;      /* x holds all of them; else one, overwritten by each block */
	bool taped;     /* the passes of all blocks and chunks are kept; else made again */
	float *tapes;   /* of block 0 for all rows, of block 1, ... */
	size_t n_tapes; /* numbers there is room for */
};

struct backward *backward_free(struct backward *b)
{
	if (!b)
		return NULL;
	block_pass_done(&b->pass);
	block_shape_free(b->shape);
	free(b->ids);
	free(b->spans);
	free(b->chunks);
	free(b->judged);
	free(b->x);
	free(b->dx);
	free(b->tapes);
	free(b);
	return NULL;
}

int backward_new_chunked(const struct model_config *config, struct pool *pool, uint32_t longest,
	uint32_t chunk, struct backward **ret, struct reason *reason)
{
	_cleanup_(backwardp) struct backward *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return -ENOMEM;
	if (longest < 2 || longest - 1 > config->max_positions)
		return reason_set(reason, -EINVAL, "sequences of up to %u tokens, expected 2 to %u",
			longest, config->max_positions);
	b->config = *config;
	b->pool = pool;
	b->longest = longest - 1;
	r = block_shape_new(config, b->longest, &b->shape, reason);
	if (r == 0)
		r = block_pass_init(
			&b->pass, config, b->shape, pool, max_u64(chunk, b->longest), b->longest);
	if (r < 0)
		return r;
	*ret = take_ptr(b);
	return 0;
}

int backward_new(const struct model_config *config, struct pool *pool, uint32_t longest,
	struct backward **ret, struct reason *reason)
{
	return backward_new_chunked(config, pool, longest, BACKWARD_CHUNK, ret, reason);
}

static size_t pick(const struct batch *b, size_t i)
{
	return b->picks ? b->picks[i] : i;
}

static const struct sequence *picked(const struct batch *b, size_t i)
{
	return &b->sequences->items[pick(b, i)];
}

size_t batch_read(const struct batch *b)
{
	size_t n = 0;

	for (size_t i = 0; i < b->n; i++)
		n += picked(b, i)->n - 1;
	return n;
}

size_t batch_judged(const struct batch *b)
{
	size_t n = 0;

	for (size_t i = 0; i < b->n; i++)
		n += picked(b, i)->n - picked(b, i)->answer;
	return n;
}

/* Another size, contents lost. */
static int resize(void *pointer_to_pointer, size_t n, size_t size)
{
	void **p = pointer_to_pointer;

	free(*p);
	*p = reallocarray(NULL, n + 1, size);
	return *p ? 0 : -ENOMEM;
}

static int make_tapes(struct backward *b, size_t rows, bool keep)
{
	size_t n = (size_t)b->config.n_layers * rows * block_pass_tape(&b->pass);

	b->taped = keep && n <= BACKWARD_TAPES / sizeof(float);
	if (!b->taped || n <= b->n_tapes)
		return 0;
	b->n_tapes = 0;
	if (resize(&b->tapes, n, sizeof(*b->tapes)) < 0)
		return -ENOMEM;
	b->n_tapes = n;
	return 0;
}

static int make_room(struct backward *b, const struct batch *batch, bool keep)
{
	size_t rows = batch_read(batch), hidden = b->config.hidden;
	size_t n_x = keep ? (size_t)b->config.n_layers + 1 : 1;
	int r;

	r = resize(&b->ids, rows, sizeof(*b->ids));
	if (r == 0)
		r = resize(&b->spans, batch->n, sizeof(*b->spans));
	if (r == 0)
		r = resize(&b->chunks, batch->n, sizeof(*b->chunks));
	if (r == 0)
		r = resize(&b->judged, batch_judged(batch), sizeof(*b->judged));
	if (r == 0)
		r = resize(&b->x, n_x * rows * hidden, sizeof(*b->x));
	if (r == 0 && keep)
		r = resize(&b->dx, rows * hidden, sizeof(*b->dx));
	if (r == 0)
		r = make_tapes(b, rows, keep);
	b->n_rows = rows;
	b->n_spans = b->n_chunks = b->n_judged = 0;
	b->keep = keep;
	return r;
}

static int check_sequence(
	const struct backward *b, const uint32_t *ids, uint32_t n, struct reason *reason)
{
	if (n - 1 > b->longest)
		return reason_set(reason, -EINVAL, "a sequence of %u tokens, expected at most %u",
			n, b->longest + 1);
	for (uint32_t i = 0; i < n; i++)
		if (ids[i] >= b->config.vocab)
			return reason_set(reason, -EBADMSG,
				"token %u is outside the vocabulary of %u", ids[i],
				b->config.vocab);
	return 0;
}

/* The chunk that a sequence of n rows goes to; its rows are counted. */
static struct chunk *chunk_for(struct backward *b, uint32_t n)
{
	struct chunk *c = b->n_chunks ? &b->chunks[b->n_chunks - 1] : NULL;

	if (!c || c->n_rows + n > b->pass.room) {
		size_t first = c ? c->first_row + c->n_rows : 0;

		c = &b->chunks[b->n_chunks++];
		*c = (struct chunk){.first_span = b->n_spans, .first_row = first};
	}
	return c;
}

static void add_sequence(
	struct backward *b, const struct sequence *s, const uint32_t *ids, uint64_t number)
{
	struct chunk *c = chunk_for(b, s->n - 1);
	size_t first = c->first_row + c->n_rows;

	memcpy(b->ids + first, ids, (s->n - 1) * sizeof(*ids));
	for (uint32_t p = s->answer; p < s->n; p++)
		b->judged[b->n_judged++] = (struct judged){
			.row = first + p - 1, .token = ids[p], .sequence = number, .place = p};
	b->spans[b->n_spans++] = (struct block_span){c->n_rows, s->n - 1};
	c->n_spans++;
	c->n_rows += s->n - 1;
}

static int lay_out(struct backward *b, const struct batch *batch, bool keep, struct reason *reason)
{
	int r = make_room(b, batch, keep);

	for (size_t i = 0; r == 0 && i < batch->n; i++) {
		size_t number = pick(batch, i);
		const uint32_t *ids = sequence_ids(batch->sequences, number);

		r = check_sequence(b, ids, picked(batch, i)->n, reason);
		if (r == 0)
			add_sequence(b, picked(batch, i), ids, number);
	}
	return r;
}

/* The inputs of a block; of block n_layers, the outputs of the last. */
static float *x_of(const struct backward *b, uint32_t layer)
{
	return b->keep ? b->x + layer * b->n_rows * b->config.hidden : b->x;
}

static void embed(struct backward *b, const struct dense_model *model)
{
	size_t hidden = b->config.hidden;

	for (size_t t = 0; t < b->n_rows; t++)
		memcpy(x_of(b, 0) + t * hidden, dense_embedding(model) + b->ids[t] * hidden,
			hidden * sizeof(float));
}

static void set_chunk(struct backward *b, uint32_t layer, const struct chunk *c)
{
	b->pass.layer = layer;
	b->pass.spans = b->spans + c->first_span;
	b->pass.n_spans = c->n_spans;
	b->pass.n = c->n_rows;
	b->pass.x = x_of(b, layer) + c->first_row * b->config.hidden;
	b->pass.y = NULL;
	b->pass.dy = NULL;
}

static void use_tape(struct backward *b, uint32_t layer, const struct chunk *c)
{
	size_t row = layer * b->n_rows + c->first_row;
	float *tape = b->taped ? b->tapes + row * block_pass_tape(&b->pass) : NULL;

	block_pass_use_tape(&b->pass, tape, c->n_rows);
}

int backward_block(
	struct backward *b, struct dense_model *model, uint32_t layer, struct reason *reason)
{
	int r = dense_model_hold(model, layer, reason);

	if (r < 0)
		return r;
	b->pass.weights = dense_block(model, layer);
	for (size_t i = 0; i < b->n_chunks; i++) {
		set_chunk(b, layer, &b->chunks[i]);
		use_tape(b, layer, &b->chunks[i]);
		b->pass.y = x_of(b, layer + 1) + b->chunks[i].first_row * b->config.hidden;
		block_pass_forward(&b->pass);
	}
	dense_model_drop(model, layer);
	return 0;
}

static int forward(struct backward *b, struct dense_model *model, const struct batch *batch,
	bool keep, struct reason *reason)
{
	int r = lay_out(b, batch, keep, reason);

	if (r < 0)
		return r;
	embed(b, model);
	for (uint32_t layer = 0; r == 0 && layer < b->config.n_layers; layer++)
		r = backward_block(b, model, layer, reason);
	return r;
}

static struct loss_pass loss_pass_of(
	const struct backward *b, const struct dense_model *model, const struct loss *loss)
{
	return (struct loss_pass){
		.pool = b->pool,
		.model = model,
		.loss = loss,
		.judged = b->judged,
		.n_judged = b->n_judged,
		.x = x_of(b, b->config.n_layers),
	};
}

int backward_states(struct backward *b, struct dense_model *model, const struct batch *batch,
	float *ret, struct reason *reason)
{
	struct loss_pass loss;
	int r = forward(b, model, batch, false, reason);

	if (r < 0)
		return r;
	loss = loss_pass_of(b, model, NULL);
	loss_pass_states(&loss, ret);
	return 0;
}

int backward_loss(struct backward *b, struct dense_model *model, const struct batch *batch,
	const struct loss *loss, struct loss_sums *ret, struct reason *reason)
{
	struct loss_pass pass;
	int r = forward(b, model, batch, false, reason);

	if (r < 0)
		return r;
	pass = loss_pass_of(b, model, loss);
	return loss_pass_run(&pass, ret);
}

/* Where the gradients of a pass go. */
struct sink {
	struct dense_model *gradients; /* or NULL */
	backward_visit_fn *visit;      /* or NULL */
	void *user;
};

static int back_through_chunk(struct backward *b, const struct sink *sink, uint32_t layer, size_t i,
	struct reason *reason)
{
	const struct chunk *c = &b->chunks[i];
	float *dy = b->dx + c->first_row * b->config.hidden;
	int r = 0;

	set_chunk(b, layer, c);
	b->pass.dy = dy;
	b->pass.want_norms = sink->gradients;
	use_tape(b, layer, c);
	if (!b->taped)
		block_pass_forward(&b->pass);
	block_pass_backward(&b->pass);
	if (sink->gradients)
		gradient_add_block(sink->gradients, &b->pass);
	if (sink->visit) {
		struct backward_taps taps;

		block_pass_taps(&b->pass, &taps);
		taps.first = i == 0;
		taps.last = i + 1 == b->n_chunks;
		r = sink->visit(sink->user, &taps, reason);
	}
	memcpy(dy, b->pass.dx, c->n_rows * b->config.hidden * sizeof(*dy));
	return r;
}

static int back_through_layer(struct backward *b, struct dense_model *model,
	const struct sink *sink, uint32_t layer, struct reason *reason)
{
	int r = dense_model_hold(model, layer, reason);

	if (r < 0)
		return r;
	b->pass.weights = dense_block(model, layer);
	for (size_t i = 0; r == 0 && i < b->n_chunks; i++)
		r = back_through_chunk(b, sink, layer, i, reason);
	dense_model_drop(model, layer);
	return r;
}

/* Loss and the gradient at the outputs of the last block. */
static int start_back(struct backward *b, const struct dense_model *model, const struct loss *loss,
	const struct sink *sink, struct loss_sums *ret)
{
	struct loss_pass pass = loss_pass_of(b, model, loss);

	memset(b->dx, 0, b->n_rows * b->config.hidden * sizeof(*b->dx));
	pass.dx = b->dx;
	if (sink->gradients) {
		pass.dfinal_norm = dense_final_norm(sink->gradients);
		pass.dhead = dense_head(sink->gradients);
	}
	return loss_pass_run(&pass, ret);
}

int backward_begin(struct backward *b, const struct dense_model *model, const struct batch *batch,
	struct reason *reason)
{
	int r = lay_out(b, batch, false, reason);

	if (r == 0)
		r = resize(&b->dx, backward_numbers(b), sizeof(*b->dx));
	if (r == 0)
		embed(b, model);
	return r;
}

size_t backward_numbers(const struct backward *b)
{
	return b->n_rows * b->config.hidden;
}

float *backward_x(struct backward *b)
{
	return b->x;
}

float *backward_dx(struct backward *b)
{
	return b->dx;
}

int backward_start(struct backward *b, const struct dense_model *model, const struct loss *loss,
	struct loss_sums *ret)
{
	return start_back(b, model, loss, &(struct sink){0}, ret);
}

int backward_back(struct backward *b, struct dense_model *model, uint32_t layer,
	backward_visit_fn *visit, void *user, struct reason *reason)
{
	const struct sink sink = {.visit = visit, .user = user};

	return back_through_layer(b, model, &sink, layer, reason);
}

static int run(struct backward *b, struct dense_model *model, const struct batch *batch,
	const struct loss *loss, const struct sink *sink, struct loss_sums *ret,
	struct reason *reason)
{
	struct loss_sums sums;
	int r = forward(b, model, batch, true, reason);

	if (r == 0)
		r = start_back(b, model, loss, sink, &sums);
	for (uint32_t layer = b->config.n_layers; r == 0 && layer-- > 0;)
		r = back_through_layer(b, model, sink, layer, reason);
	if (r < 0)
		return r;
	if (sink->gradients)
		gradient_add_embedding(sink->gradients, b->pool, b->ids, b->dx, b->n_rows);
	*ret = sums;
	return 0;
}

int backward_gradient(struct backward *b, struct dense_model *model, const struct batch *batch,
	const struct loss *loss, struct dense_model *gradients, struct loss_sums *ret,
	struct reason *reason)
{
	struct sink sink = {.gradients = gradients};

	return run(b, model, batch, loss, &sink, ret, reason);
}

int backward_visit(struct backward *b, struct dense_model *model, const struct batch *batch,
	const struct loss *loss, backward_visit_fn *visit, void *user, struct loss_sums *ret,
	struct reason *reason)
{
	struct sink sink = {.visit = visit, .user = user};

	return run(b, model, batch, loss, &sink, ret, reason);
}
