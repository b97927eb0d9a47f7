#include "compress/walk.h"

#include "compress/activations.h"
#include "compress/judge.h"
#include "compress/layer.h"
#include "store/base.h"

struct walk {
	const struct walk_settings *settings;
	double ratio; /* 0: none */
	void *state;  /* the method's */
	struct activations *activations;
	double *moments[N_ACTIVATION_TEXTS]; /* of the widest inputs */
	struct layer layer;
	struct delta_file *file;
	struct walk_report report;
};

static void walk_done(struct walk *w)
{
	if (w->state)
		w->settings->method->done(w->state);
	activations_free(w->activations);
	for (size_t i = 0; i < N_ACTIVATION_TEXTS; i++)
		free(w->moments[i]);
	layer_done(&w->layer);
}

static int prepare_method(struct walk *w, struct reason *reason)
{
	const struct walk_settings *s = w->settings;
	const struct method_model model = {
		.options = s->options,
		.pair = s->pair,
		.calibration = s->calibration,
		.embedding = s->embedding,
		.pool = s->pool,
		.progress = s->progress,
	};

	return s->method->prepare ? s->method->prepare(&model, &w->state, reason) : 0;
}

static int walk_init(struct walk *w, struct reason *reason)
{
	const struct walk_settings *s = w->settings;
	const struct activation_settings activations = {
		.config = &s->pair->base_config,
		.calibration = s->calibration,
		.embedding = s->embedding,
		.held_out_only = !(s->method->needs & METHOD_NEEDS_CALIBRATION),
		.pool = s->pool,
	};
	size_t width = block_tap_width(&s->pair->base_config);
	int r;

	r = activations_new(&activations, &w->activations, reason);
	if (r < 0)
		return r;
	for (size_t i = 0; i < N_ACTIVATION_TEXTS; i++) {
		if (activations_tokens(w->activations, (enum activation_text)i) == 0)
			continue;
		w->moments[i] = malloc(width * width * sizeof(double));
		if (!w->moments[i])
			return -ENOMEM;
	}
	return prepare_method(w, reason);
}

static uint64_t budget_of(const struct walk *w, const struct pair_matrix *m)
{
	double bytes = w->ratio > 0 ? 2.0 * m->rows * m->cols / w->ratio : 0x1p64;

	return bytes < 0x1p62 ? (uint64_t)bytes : UINT64_MAX;
}

/* The members of [first, last) that changed. */
static size_t fill_group(struct walk *w, size_t first, size_t last, struct method_matrix *matrices,
	size_t *ret_places)
{
	size_t n = 0;

	for (size_t i = first; i < last; i++) {
		const struct pair_matrix *m = &w->layer.matrices[i];

		if (!m->delta || (m->all_zero && !w->settings->method->exact)) {
			w->report.n_unchanged++;
			continue;
		}
		w->report.original_bytes += (uint64_t)m->rows * m->cols * sizeof(uint16_t);
		ret_places[n] = i;
		matrices[n++] = (struct method_matrix){
			.role = layer_role((enum layer_place)i),
			.layer = w->layer.index,
			.rows = m->rows,
			.cols = m->cols,
			.base = m->base,
			.delta = m->delta,
			.budget = budget_of(w, m),
		};
	}
	return n;
}

static int store_parts(struct walk *w, struct method_matrix *m, const struct judgement *j)
{
	int r = 0;

	if (m->n_parts == 0) {
		w->report.n_left_out++;
		return 0;
	}
	w->report.n_stored++;
	w->report.sum_weight_error += j->weight_error;
	w->report.sum_calibration_error += j->calibration_error;
	w->report.sum_held_out_error += j->held_out_error;
	for (uint32_t i = 0; r == 0 && i < m->n_parts; i++) {
		r = delta_file_add(w->file, &m->parts[i]);
	}
	return r;
}

/* Judges the parts, keeps them, and puts the compressed weights in the base's place. */
static int install(struct walk *w, const struct method_group *g, struct method_matrix *m,
	size_t place, struct reason *reason)
{
	struct pair_matrix *kept = &w->layer.matrices[place];
	_cleanup_(freep) float *weights =
		malloc(((size_t)m->rows * m->cols + 1) * sizeof(*weights));
	struct judgement judgement;
	int r;

	if (!weights)
		return -ENOMEM;
	r = judge_matrix(g, m, weights, &judgement, reason);
	if (r == 0)
		r = store_parts(w, m, &judgement);
	if (r < 0)
		return r;
	free(kept->base);
	kept->base = take_ptr(weights);
	free(kept->delta);
	kept->delta = NULL;
	return 0;
}

static int find_moments(struct walk *w, uint32_t cols)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < N_ACTIVATION_TEXTS; i++)
		if (w->moments[i])
			r = activations_moments(
				w->activations, (enum activation_text)i, cols, w->moments[i]);
	return r;
}

static int compress_members(
	struct walk *w, struct method_group *g, const size_t *places, struct reason *reason)
{
	int r;

	r = find_moments(w, g->cols);
	if (r == 0)
		r = w->settings->method->quantise(w->state, g, reason);
	for (size_t i = 0; r == 0 && i < g->n_matrices; i++)
		r = install(w, g, &g->matrices[i], places[i], reason);
	return r;
}

/* Projections [first, last) of the block, whose inputs the last step has made. */
static int compress_group(struct walk *w, size_t first, size_t last, struct reason *reason)
{
	struct method_matrix matrices[N_PLACES];
	size_t places[N_PLACES];
	struct method_group group = {
		.options = w->settings->options,
		.pair = w->settings->pair,
		.pool = w->settings->pool,
		.layer = w->layer.index,
		.cols = w->layer.matrices[first].cols,
		.moments = w->moments[ACTIVATION_CALIBRATION],
		.held_out = w->moments[ACTIVATION_HELD_OUT],
		.matrices = matrices,
		.n_matrices = fill_group(w, first, last, matrices, places),
	};
	int r;

	if (group.n_matrices == 0)
		return 0;
	r = compress_members(w, &group, places, reason);
	for (size_t i = 0; i < group.n_matrices; i++)
		method_matrix_done(&matrices[i]);
	if (r < 0)
		return reason_prefix(reason, r, "layer %u, from %s on", w->layer.index,
			tensor_role_name(layer_role((enum layer_place)first)));
	return 0;
}

static int compress_layer(struct walk *w, struct reason *reason)
{
	static const struct group {
		enum activation_step step;
		size_t first, last;
	} groups[] = {
		{STEP_TO_QKV, PLACE_Q, PLACE_O},
		{STEP_TO_O, PLACE_O, PLACE_GATE},
		{STEP_TO_GATE_UP, PLACE_GATE, PLACE_DOWN},
		{STEP_TO_DOWN, PLACE_DOWN, N_PLACES},
	};
	struct block_weights weights;

	for (const struct group *g = groups; g < groups + array_len(groups); g++) {
		int r;

		weights = layer_weights(&w->layer);
		activations_advance(w->activations, &weights, w->layer.index, g->step);
		r = compress_group(w, g->first, g->last, reason);
		if (r < 0)
			return r;
	}
	weights = layer_weights(&w->layer);
	activations_advance(w->activations, &weights, w->layer.index, STEP_TO_NEXT);
	return 0;
}

static int walk_layer(struct walk *w, uint32_t index, struct reason *reason)
{
	const struct vector_source vectors = {.of = w->settings->method->vector, .state = w->state};
	int r;

	w->layer.index = index;
	r = layer_load(w->settings->pair, &vectors, w->file, &w->layer, reason);
	if (r == 0)
		r = compress_layer(w, reason);
	layer_done(&w->layer);
	return r;
}

int walk_run(const struct walk_settings *settings, struct delta_file *f, struct walk_report *ret,
	struct reason *reason)
{
	_cleanup_(walk_done) struct walk walk = {
		.settings = settings,
		.ratio = method_ratio(settings->method, settings->options),
		.file = f,
	};
	uint32_t n_layers = settings->pair->base_config.n_layers;
	int r;

	r = walk_init(&walk, reason);
	if (r < 0)
		return r;
	for (uint32_t layer = 0; layer < n_layers; layer++) {
		progress_update(settings->progress, "compressing", layer, n_layers);
		r = walk_layer(&walk, layer, reason);
		if (r < 0)
			return r;
	}
	progress_update(settings->progress, "compressing", n_layers, n_layers);
	if (settings->method->report)
		walk.report.n_figures = settings->method->report(walk.state, walk.report.figures);
	*ret = walk.report;
	return 0;
}
