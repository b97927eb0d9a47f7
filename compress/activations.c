#include "compress/activations.h"

#include "compress/moments.h"
#include "kernels/convert.h"

struct activations {
	struct activation_settings settings;
	struct block_shape *shape;
	struct block_scratch **scratch; /* one a worker */
	size_t n_scratch;
	size_t window;
	size_t n_windows; /* calibration, then held out */
	size_t n_held_out;
	float *x;         /* n_windows x window x hidden */
	float *tap;       /* n_windows x window x tap_width */
	size_t tap_width; /* of the widest inputs */
};

/* One step over all windows. */
struct step {
	const struct activations *a;
	const struct block_weights *weights;
	uint32_t layer;
	enum activation_step step;
};

struct activations *activations_free(struct activations *a)
{
	if (!a)
		return NULL;
	for (size_t i = 0; a->scratch && i < a->n_scratch; i++)
		block_scratch_free(a->scratch[i]);
	free(a->scratch);
	block_shape_free(a->shape);
	free(a->x);
	free(a->tap);
	free(a);
	return NULL;
}

static int make_scratch(struct activations *a)
{
	int r = 0;

	a->n_scratch = pool_threads(a->settings.pool);
	a->scratch = calloc(a->n_scratch, sizeof(*a->scratch));
	if (!a->scratch)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < a->n_scratch; i++)
		r = block_scratch_new(a->shape, &a->scratch[i]);
	return r;
}

static void embed(struct activations *a, size_t first_window, const uint32_t *ids, size_t n_windows)
{
	size_t hidden = a->settings.config->hidden;
	float *x = a->x + first_window * a->window * hidden;

	for (size_t t = 0; t < n_windows * a->window; t++)
		for (size_t i = 0; i < hidden; i++)
			x[t * hidden + i] = bf16_to_f32(a->settings.embedding[ids[t] * hidden + i]);
}

int activations_new(
	const struct activation_settings *settings, struct activations **ret, struct reason *reason)
{
	const struct calibration *c = settings->calibration;
	_cleanup_(activations_freep) struct activations *a = calloc(1, sizeof(*a));
	size_t n_calibration = settings->held_out_only ? 0 : c->n_windows;
	size_t n_tokens;
	int r;

	if (!a)
		return -ENOMEM;
	a->settings = *settings;
	a->window = c->window;
	a->n_held_out = c->n_held_out;
	a->n_windows = n_calibration + c->n_held_out;
	a->tap_width = block_tap_width(settings->config);
	n_tokens = a->n_windows * a->window;
	a->x = malloc(n_tokens * settings->config->hidden * sizeof(*a->x));
	a->tap = malloc(n_tokens * a->tap_width * sizeof(*a->tap));
	if (!a->x || !a->tap)
		return -ENOMEM;
	r = block_shape_new(settings->config, c->window, &a->shape, reason);
	if (r == 0)
		r = make_scratch(a);
	if (r < 0)
		return r;
	embed(a, 0, c->ids, n_calibration);
	embed(a, n_calibration, c->held_out, c->n_held_out);
	*ret = take_ptr(a);
	return 0;
}

static void step_window(void *arg, size_t piece, size_t worker)
{
	const struct step *s = arg;
	const struct activations *a = s->a;
	size_t hidden = a->settings.config->hidden;
	size_t first = piece * a->window;
	const struct block_rows rows = {
		.n = (uint32_t)a->window,
		.layer = s->layer,
		.x = a->x + first * hidden,
		.x_stride = hidden,
		.tap = a->tap + first * a->tap_width,
		.tap_stride = a->tap_width,
	};

	switch (s->step) {
	case STEP_TO_QKV:
		block_attention_input(a->shape, s->weights, &rows);
		return;
	case STEP_TO_O:
		block_attention(a->shape, s->weights, a->scratch[worker], &rows);
		return;
	case STEP_TO_GATE_UP:
		block_attention_output(a->shape, s->weights, &rows);
		block_ffn_input(a->shape, s->weights, &rows);
		return;
	case STEP_TO_DOWN:
		block_ffn(a->shape, s->weights, a->scratch[worker], &rows);
		return;
	case STEP_TO_NEXT:
		block_ffn_output(a->shape, s->weights, &rows);
		return;
	}
}

void activations_advance(struct activations *a, const struct block_weights *weights, uint32_t layer,
	enum activation_step step)
{
	struct step s = {.a = a, .weights = weights, .layer = layer, .step = step};

	pool_run(a->settings.pool, step_window, &s, a->n_windows);
}

size_t activations_tokens(const struct activations *a, enum activation_text text)
{
	size_t n = text == ACTIVATION_HELD_OUT ? a->n_held_out : a->n_windows - a->n_held_out;

	return n * a->window;
}

int activations_moments(
	const struct activations *a, enum activation_text text, uint32_t width, double *ret)
{
	size_t first =
		text == ACTIVATION_HELD_OUT ? activations_tokens(a, ACTIVATION_CALIBRATION) : 0;

	return moments_of(a->settings.pool, a->tap + first * a->tap_width, a->tap_width,
		activations_tokens(a, text), width, ret);
}
