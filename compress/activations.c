#include "compress/activations.h"

#include "compress/moments.h"
#include "kernels/convert.h"

#include <string.h>

/* Tokens whose inputs are in memory while moments are summed: not a matter of threads, because
 * sums are in its order. */
#define MOMENT_TOKENS 2048u

/* Room of one worker: a window on its way through a step. */
struct room {
	struct block_scratch *scratch;
	float *x;   /* window x hidden */
	float *tap; /* window x tap_width */
	int error;
};

struct activations {
	struct activation_settings settings;
	struct work_file *work;
	struct block_shape *shape;
	struct room *rooms; /* one a worker */
	size_t n_rooms;
	size_t window;
	size_t n_windows; /* calibration, then held out */
	size_t n_held_out;
	size_t tap_width; /* of the widest inputs */
	struct digest *digests;
};

struct activations *activations_free(struct activations *a)
{
	if (!a)
		return NULL;
	for (size_t i = 0; a->rooms && i < a->n_rooms; i++) {
		block_scratch_free(a->rooms[i].scratch);
		free(a->rooms[i].x);
		free(a->rooms[i].tap);
	}
	free(a->rooms);
	free(a->digests);
	block_shape_free(a->shape);
	free(a);
	return NULL;
}

static size_t calibration_windows(const struct activation_settings *s)
{
	return s->held_out_only ? 0 : s->calibration->n_windows;
}

void activations_shape(const struct activation_settings *s, struct work_shape *ret)
{
	const struct calibration *c = s->calibration;
	uint64_t row = c->window * sizeof(float);

	ret->n_windows = calibration_windows(s) + c->n_held_out;
	ret->slot_bytes = row * s->config->hidden;
	ret->tap_bytes = row * block_tap_width(s->config);
}

static int make_rooms(struct activations *a)
{
	size_t hidden = a->settings.config->hidden;

	a->n_rooms = pool_threads(a->settings.pool);
	a->rooms = calloc(a->n_rooms, sizeof(*a->rooms));
	if (!a->rooms)
		return -ENOMEM;
	for (size_t i = 0; i < a->n_rooms; i++) {
		struct room *room = &a->rooms[i];
		int r = block_scratch_new(a->shape, &room->scratch);

		if (r < 0)
			return r;
		room->x = malloc(a->window * hidden * sizeof(float));
		room->tap = malloc(a->window * a->tap_width * sizeof(float));
		if (!room->x || !room->tap)
			return -ENOMEM;
	}
	return 0;
}

int activations_new(const struct activation_settings *settings, struct work_file *work,
	struct activations **ret, struct reason *reason)
{
	const struct calibration *c = settings->calibration;
	_cleanup_(activations_freep) struct activations *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	a->settings = *settings;
	a->work = work;
	a->window = c->window;
	a->n_held_out = c->n_held_out;
	a->n_windows = calibration_windows(settings) + c->n_held_out;
	a->tap_width = block_tap_width(settings->config);
	a->digests = calloc(a->n_windows + 1, sizeof(*a->digests));
	if (!a->digests)
		return -ENOMEM;
	r = block_shape_new(settings->config, c->window, &a->shape, reason);
	if (r == 0)
		r = make_rooms(a);
	if (r < 0)
		return r;
	*ret = take_ptr(a);
	return 0;
}

/* Slot of the file that holds the inputs of the block in work; its outputs go to the other one. */
static uint32_t input_slot(const struct activations *a)
{
	return work_file_blocks(a->work) % 2;
}

/* Runs a step that leaves the first error of each worker in its room. */
static int run(struct activations *a, pool_fn *fn, void *arg)
{
	for (size_t i = 0; i < a->n_rooms; i++)
		a->rooms[i].error = 0;
	pool_run(a->settings.pool, fn, arg, a->n_windows);
	for (size_t i = 0; i < a->n_rooms; i++)
		if (a->rooms[i].error < 0)
			return a->rooms[i].error;
	return 0;
}

struct beginning {
	struct activations *a;
	const uint16_t *embedding;
};

static void begin_window(void *arg, size_t piece, size_t worker)
{
	const struct beginning *b = arg;
	struct activations *a = b->a;
	const struct calibration *c = a->settings.calibration;
	size_t hidden = a->settings.config->hidden;
	size_t n_first = a->n_windows - a->n_held_out;
	const uint32_t *ids = piece < n_first ? c->ids + piece * a->window
					      : c->held_out + (piece - n_first) * a->window;
	struct room *room = &a->rooms[worker];
	int r;

	for (size_t t = 0; t < a->window; t++)
		for (size_t i = 0; i < hidden; i++)
			room->x[t * hidden + i] = bf16_to_f32(b->embedding[ids[t] * hidden + i]);
	r = work_file_write_x(a->work, 0, piece, room->x);
	if (r < 0)
		room->error = r;
}

int activations_begin(struct activations *a, const uint16_t *embedding)
{
	struct beginning b = {.a = a, .embedding = embedding};

	return run(a, begin_window, &b);
}

static struct digest digest_x(const struct activations *a, const float *x)
{
	return digest_of(x, a->window * a->settings.config->hidden * sizeof(*x));
}

static void check_window(void *arg, size_t piece, size_t worker)
{
	struct activations *a = arg;
	struct room *room = &a->rooms[worker];
	int r;

	r = work_file_read_x(a->work, input_slot(a), piece, room->x);
	if (r < 0)
		room->error = r;
	else
		a->digests[piece] = digest_x(a, room->x);
}

int activations_resume(struct activations *a)
{
	const struct digest *expected = work_file_digests(a->work);
	int r = run(a, check_window, a);

	if (r < 0)
		return r;
	for (size_t i = 0; i < a->n_windows; i++)
		if (!digest_equal(&a->digests[i], &expected[i]))
			return 1;
	return 0;
}

/* One step over all windows. */
struct step {
	struct activations *a;
	const struct block_weights *weights;
	enum activation_step step;
	size_t n_before, n_after; /* inputs of a token that are read and written; 0: none */
	bool reads_x, writes_x;
	uint32_t x_from;
};

static void plan_step(struct step *s)
{
	const struct model_config *c = s->a->settings.config;
	size_t heads = (size_t)c->n_heads * c->head_dim;
	uint32_t from = input_slot(s->a);

	switch (s->step) {
	case STEP_TO_QKV:
		s->reads_x = true;
		s->x_from = from;
		s->n_after = c->hidden;
		return;
	case STEP_TO_O:
		s->n_before = c->hidden;
		s->n_after = heads;
		return;
	case STEP_TO_GATE_UP:
		s->reads_x = s->writes_x = true;
		s->x_from = from;
		s->n_before = heads;
		s->n_after = c->hidden;
		return;
	case STEP_TO_DOWN:
		s->n_before = c->hidden;
		s->n_after = c->ffn;
		return;
	case STEP_TO_NEXT:
		s->reads_x = s->writes_x = true;
		s->x_from = 1 - from;
		s->n_before = c->ffn;
		return;
	}
}

/* Rows stand tight in the file, tap_width numbers apart in a room. */
static void spread_rows(const struct activations *a, float *tap, size_t width)
{
	for (size_t t = a->window; t-- > 1;)
		memmove(tap + t * a->tap_width, tap + t * width, width * sizeof(*tap));
}

static void tighten_rows(const struct activations *a, float *tap, size_t width)
{
	for (size_t t = 1; t < a->window; t++)
		memmove(tap + t * width, tap + t * a->tap_width, width * sizeof(*tap));
}

static int read_window(const struct step *s, size_t window, struct room *room)
{
	const struct activations *a = s->a;
	int r = 0;

	if (s->reads_x)
		r = work_file_read_x(a->work, s->x_from, window, room->x);
	if (r < 0 || s->n_before == 0)
		return r;
	r = work_file_read_tap(a->work, window, a->window * s->n_before * sizeof(float), room->tap);
	spread_rows(a, room->tap, s->n_before);
	return r;
}

static int write_window(const struct step *s, size_t window, struct room *room)
{
	struct activations *a = s->a;
	int r = 0;

	if (s->writes_x)
		r = work_file_write_x(a->work, 1 - input_slot(a), window, room->x);
	if (s->step == STEP_TO_NEXT)
		a->digests[window] = digest_x(a, room->x);
	if (r < 0 || s->n_after == 0)
		return r;
	tighten_rows(a, room->tap, s->n_after);
	return work_file_write_tap(
		a->work, window, a->window * s->n_after * sizeof(float), room->tap);
}

static void compute(const struct step *s, struct room *room)
{
	const struct activations *a = s->a;
	const struct block_rows rows = {
		.n = (uint32_t)a->window,
		.layer = work_file_blocks(a->work),
		.x = room->x,
		.x_stride = a->settings.config->hidden,
		.tap = room->tap,
		.tap_stride = a->tap_width,
	};

	switch (s->step) {
	case STEP_TO_QKV:
		block_attention_input(a->shape, s->weights, &rows);
		return;
	case STEP_TO_O:
		block_attention(a->shape, s->weights, room->scratch, &rows);
		return;
	case STEP_TO_GATE_UP:
		block_attention_output(a->shape, s->weights, &rows);
		block_ffn_input(a->shape, s->weights, &rows);
		return;
	case STEP_TO_DOWN:
		block_ffn(a->shape, s->weights, room->scratch, &rows);
		return;
	case STEP_TO_NEXT:
		block_ffn_output(a->shape, s->weights, &rows);
		return;
	}
}

static void step_window(void *arg, size_t piece, size_t worker)
{
	const struct step *s = arg;
	struct room *room = &s->a->rooms[worker];
	int r;

	r = read_window(s, piece, room);
	if (r == 0) {
		compute(s, room);
		r = write_window(s, piece, room);
	}
	if (r < 0)
		room->error = r;
}

int activations_advance(
	struct activations *a, const struct block_weights *weights, enum activation_step step)
{
	struct step s = {.a = a, .weights = weights, .step = step};

	plan_step(&s);
	return run(a, step_window, &s);
}

const struct digest *activations_digests(const struct activations *a)
{
	return a->digests;
}

size_t activations_tokens(const struct activations *a, enum activation_text text)
{
	size_t n = text == ACTIVATION_HELD_OUT ? a->n_held_out : a->n_windows - a->n_held_out;

	return n * a->window;
}

/* The inputs of some windows, width numbers a row. */
static int read_inputs(
	const struct activations *a, size_t first, size_t n_windows, uint32_t width, float *ret)
{
	size_t window_numbers = a->window * width;
	int r = 0;

	for (size_t i = 0; r == 0 && i < n_windows; i++)
		r = work_file_read_tap(a->work, first + i, window_numbers * sizeof(*ret),
			ret + i * window_numbers);
	return r;
}

/* Of x with itself where y is NULL. */
static int sum_moments(const struct activations *x, const struct activations *y,
	enum activation_text text, struct moments *sum)
{
	size_t first = text == ACTIVATION_HELD_OUT ? x->n_windows - x->n_held_out : 0;
	size_t n = activations_tokens(x, text) / x->window;
	size_t step = max_u64(1, MOMENT_TOKENS / x->window), room = step * x->window * sum->n;
	_cleanup_(freep) float *rows = malloc(room * (y ? 2 : 1) * sizeof(*rows));
	struct pool *pool = x->settings.pool;

	if (!rows)
		return -ENOMEM;
	sum->n_rows = n * x->window;
	for (size_t begin = 0; begin < n; begin += step) {
		size_t n_windows = min_u64(step, n - begin), n_rows = n_windows * x->window;
		int r = read_inputs(x, first + begin, n_windows, sum->n, rows);

		if (r == 0 && y)
			r = read_inputs(y, first + begin, n_windows, sum->n, rows + room);
		if (r == 0)
			r = y ? moments_add_cross(pool, sum, rows, rows + room, n_rows)
			      : moments_add(pool, sum, rows, n_rows);
		if (r < 0)
			return r;
	}
	return 0;
}

int activations_moments(
	const struct activations *a, enum activation_text text, uint32_t width, double *ret)
{
	struct moments sum = {.n = width, .h = ret};
	int r = sum_moments(a, NULL, text, &sum);

	if (r == 0)
		moments_finish(&sum);
	return r;
}

int activations_cross_moments(const struct activations *x, const struct activations *y,
	enum activation_text text, uint32_t width, double *ret)
{
	struct moments sum = {.n = width, .h = ret};

	return sum_moments(x, y, text, &sum);
}
