#include "compress/walk.h"

#include "compress/activations.h"
#include "compress/judge.h"
#include "compress/layer.h"
#include "store/base.h"

#include <math.h>
#include <string.h>

struct walk {
	const struct walk_settings *settings;
	double ratio; /* 0: none */
	struct method_scratch scratch;
	void *state; /* the method's */
	struct work_file *work;
	struct activations *activations;
	double *moments[N_ACTIVATION_TEXTS]; /* of the group in work */
	struct layer layer;
	struct delta_file *file;
	size_t n_before; /* parts in the file when the block began */
	struct walk_report report;
	void *sums; /* the method's */
	size_t n_sums;
};

static void drop_moments(struct walk *w)
{
	for (size_t i = 0; i < N_ACTIVATION_TEXTS; i++)
		freep(&w->moments[i]);
	memset(w->moments, 0, sizeof(w->moments));
}

static void walk_done(struct walk *w)
{
	if (w->state)
		w->settings->method->done(w->state);
	activations_free(w->activations);
	work_file_free(w->work);
	drop_moments(w);
	layer_done(&w->layer);
}

/* All that the work depends on and that the caller has not told. */
static struct digest key_of(const struct walk *w)
{
	const struct walk_settings *s = w->settings;
	const struct calibration *c = s->calibration;
	const struct model_config *config = &s->pair->tuned_config;
	struct digest parts[4] = {
		s->key,
		c->digest,
		digest_of(c->held_out, (size_t)c->n_held_out * c->window * sizeof(*c->held_out)),
		digest_of(s->embedding,
			(size_t)config->vocab * config->hidden * sizeof(*s->embedding)),
	};

	return digest_of(parts, sizeof(parts));
}

static int prepare_method(struct walk *w, struct reason *reason)
{
	const struct walk_settings *s = w->settings;
	const struct method_model model = {
		.options = s->options,
		.pair = s->pair,
		.calibration = s->calibration,
		.embedding = s->embedding,
		.outer = s->outer,
		.room = s->room,
		.pool = s->pool,
		.progress = s->progress,
		.scratch = &w->scratch,
	};

	if (!s->method->prepare)
		return 0;
	w->scratch = (struct method_scratch){
		.fd = s->work_fd,
		.resume = s->resume,
		.key = key_of(w),
		.blocks_done = s->blocks_done,
	};
	return s->method->prepare(&model, &w->state, reason);
}

static int open_work(
	struct walk *w, const struct activation_settings *activations, struct reason *reason)
{
	const struct walk_settings *s = w->settings;
	struct work_shape shape = {
		.key = key_of(w),
		.origin = w->scratch.used,
		.n_blocks = s->pair->base_config.n_layers,
		.sums_bytes = (uint32_t)(sizeof(w->report) + w->n_sums),
	};

	activations_shape(activations, &shape);
	return work_file_open(s->work_fd, &shape, s->resume, &w->work, reason);
}

/* The parts of one block of an earlier walk, and the sums after it. */
static int take_block(struct walk *w, uint32_t block, struct reason *reason)
{
	_cleanup_(freep) uint8_t *sums = malloc(sizeof(w->report) + w->n_sums);
	_cleanup_(freep) struct work_part *parts = NULL;
	size_t n;
	int r;

	if (!sums)
		return -ENOMEM;
	r = work_file_entry(w->work, block, sums, &parts, &n, reason);
	for (size_t i = 0; r == 0 && i < n; i++) {
		struct part part = {.record = parts[i].record, .quality = parts[i].quality};

		r = delta_file_add(w->file, &part);
		if (r == 0)
			delta_file_move(w->file, delta_file_count(w->file) - 1,
				w->settings->work_fd, parts[i].at);
	}
	if (r < 0)
		return r;
	memcpy(&w->report, sums, sizeof(w->report));
	if (w->n_sums)
		memcpy(w->sums, sums + sizeof(w->report), w->n_sums);
	return 0;
}

/* Where the method has work of its own in the file, more are safe than the walk's. */
static void tell_blocks(const struct walk *w, uint32_t n)
{
	uint32_t *told = w->settings->blocks_done;

	if (told)
		*told = (uint32_t)max_u64(w->scratch.used ? *told : 0, n);
}

/* Goes on where an earlier walk was ended, or begins. */
static int take_up(struct walk *w, struct reason *reason)
{
	bool began_anew = w->scratch.began_anew || work_file_began_anew(w->work);
	uint32_t n = work_file_blocks(w->work);
	int r = n ? activations_resume(w->activations) : 0;

	if (r > 0) {
		r = work_file_restart(w->work, reason);
		began_anew = true;
		n = 0;
	}
	if (r == 0 && n == 0)
		r = activations_begin(w->activations, w->settings->embedding);
	for (uint32_t block = 0; r == 0 && block < n; block++)
		r = take_block(w, block, reason);
	if (r == 0)
		tell_blocks(w, n);
	w->report.n_resumed = n;
	w->report.began_anew = began_anew;
	return r;
}

static int walk_init(struct walk *w, struct reason *reason)
{
	const struct walk_settings *s = w->settings;
	const struct activation_settings activations = {
		.config = &s->pair->base_config,
		.calibration = s->calibration,
		.held_out_only = !(s->method->needs & METHOD_NEEDS_CALIBRATION),
		.pool = s->pool,
	};
	int r;

	r = prepare_method(w, reason);
	if (r < 0)
		return r;
	if (s->method->sums)
		w->sums = s->method->sums(w->state, &w->n_sums);
	r = open_work(w, &activations, reason);
	if (r == 0)
		r = activations_new(&activations, w->work, &w->activations, reason);
	if (r == 0)
		r = take_up(w, reason);
	return r;
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

	if (m->n_parts > 0)
		w->report.n_stored++;
	else
		w->report.n_left_out++;
	w->report.sum_weight_error += j->weight_error;
	w->report.sum_calibration_error += j->calibration_error;
	w->report.sum_held_out_error += j->held_out_error;
	for (uint32_t i = 0; r == 0 && i < m->n_parts; i++) {
		r = delta_file_add(w->file, &m->parts[i]);
	}
	return r;
}

/* Parts for inputs that are all zero may have codes of nothing. */
static bool changes_nothing(const struct method_matrix *m, const float *weights)
{
	for (size_t i = 0; i < (size_t)m->rows * m->cols; i++)
		if (weights[i] != m->base[i])
			return false;
	return true;
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
	if (r == 0 && !w->settings->method->exact && changes_nothing(m, weights))
		method_matrix_done(m);
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

	for (size_t i = 0; r == 0 && i < N_ACTIVATION_TEXTS; i++) {
		enum activation_text text = (enum activation_text)i;

		if (activations_tokens(w->activations, text) == 0)
			continue;
		w->moments[i] = malloc((size_t)cols * cols * sizeof(*w->moments[i]));
		if (!w->moments[i])
			return -ENOMEM;
		r = activations_moments(w->activations, text, cols, w->moments[i]);
	}
	return r;
}

/* Weights may be so far apart that f32 does not hold how far. */
static int check_change(const struct method_matrix *m, struct reason *reason)
{
	for (size_t i = 0; i < (size_t)m->rows * m->cols; i++)
		if (!isfinite(m->delta[i]))
			return reason_set(reason, -EDOM,
				"%s: number %zu of the change from the base's %g is not finite",
				tensor_role_name(m->role), i, (double)m->base[i]);
	return 0;
}

static int check_changes(const struct walk *w, const struct method_group *g, struct reason *reason)
{
	int r = 0;

	if (w->settings->method->any_change)
		return 0;
	for (size_t i = 0; r == 0 && i < g->n_matrices; i++)
		r = check_change(&g->matrices[i], reason);
	return r;
}

static int compress_members(
	struct walk *w, struct method_group *g, const size_t *places, struct reason *reason)
{
	int r = check_changes(w, g, reason);

	if (r == 0)
		r = find_moments(w, g->cols);
	if (r < 0)
		return r;
	g->moments = w->moments[ACTIVATION_CALIBRATION];
	g->held_out = w->moments[ACTIVATION_HELD_OUT];
	r = w->settings->method->quantise(w->state, g, reason);
	for (size_t i = 0; r == 0 && i < g->n_matrices; i++)
		r = install(w, g, &g->matrices[i], places[i], reason);
	return r;
}

static void tell_progress(const struct walk *w, uint32_t layer, size_t group)
{
	progress_update(w->settings->progress, WALK_STAGE, (uint64_t)layer * WALK_GROUPS + group,
		(uint64_t)w->settings->pair->base_config.n_layers * WALK_GROUPS);
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
		.matrices = matrices,
		.n_matrices = fill_group(w, first, last, matrices, places),
	};
	int r;

	if (group.n_matrices == 0)
		return 0;
	r = compress_members(w, &group, places, reason);
	drop_moments(w);
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
	} groups[WALK_GROUPS] = {
		{STEP_TO_QKV, PLACE_Q, PLACE_O},
		{STEP_TO_O, PLACE_O, PLACE_GATE},
		{STEP_TO_GATE_UP, PLACE_GATE, PLACE_DOWN},
		{STEP_TO_DOWN, PLACE_DOWN, N_PLACES},
	};
	struct block_weights weights;
	int r;

	for (const struct group *g = groups; g < groups + WALK_GROUPS; g++) {
		tell_progress(w, w->layer.index, (size_t)(g - groups));
		weights = layer_weights(&w->layer);
		r = activations_advance(w->activations, &weights, g->step);
		if (r < 0)
			return r;
		if (g > groups)
			layer_drop(&w->layer, g[-1].first, g[-1].last);
		r = layer_read(w->settings->pair, &w->layer, g->first, g->last, reason);
		if (r == 0)
			r = compress_group(w, g->first, g->last, reason);
		if (r < 0)
			return r;
	}
	weights = layer_weights(&w->layer);
	return activations_advance(w->activations, &weights, STEP_TO_NEXT);
}

/* The block is done: what it has made moves to the file. */
static int keep_block(struct walk *w, struct reason *reason)
{
	size_t n = delta_file_count(w->file) - w->n_before;
	_cleanup_(freep) uint8_t *sums = malloc(sizeof(w->report) + w->n_sums);
	_cleanup_(freep) struct part *parts = calloc(n + 1, sizeof(*parts));
	_cleanup_(freep) uint64_t *places = calloc(n + 1, sizeof(*places));
	const struct work_entry entry = {
		.sums = sums,
		.digests = activations_digests(w->activations),
		.parts = parts,
		.n_parts = n,
	};
	int r;

	if (!sums || !parts || !places)
		return -ENOMEM;
	memcpy(sums, &w->report, sizeof(w->report));
	if (w->n_sums)
		memcpy(sums + sizeof(w->report), w->sums, w->n_sums);
	for (size_t i = 0; i < n; i++)
		parts[i] = *delta_file_part(w->file, w->n_before + i);
	r = work_file_add(w->work, &entry, places, reason);
	for (size_t i = 0; r == 0 && i < n; i++)
		delta_file_move(w->file, w->n_before + i, w->settings->work_fd, places[i]);
	if (r == 0)
		tell_blocks(w, work_file_blocks(w->work));
	return r;
}

static int walk_layer(struct walk *w, uint32_t index, struct reason *reason)
{
	const struct vector_source vectors = {.of = w->settings->method->vector, .state = w->state};
	int r;

	w->n_before = delta_file_count(w->file);
	w->layer.index = index;
	r = layer_load(w->settings->pair, &vectors, w->file, &w->layer, reason);
	if (r == 0)
		r = compress_layer(w, reason);
	layer_done(&w->layer);
	if (r == 0)
		r = keep_block(w, reason);
	return r;
}

static struct method_tokens text_of(const struct walk *w)
{
	const struct method *m = w->settings->method;
	const struct calibration *c = w->settings->calibration;

	if (m->text)
		return m->text(w->state);
	if (!(m->needs & METHOD_NEEDS_CALIBRATION))
		return (struct method_tokens){0};
	return (struct method_tokens){.ids = c->digest, .n = (uint64_t)c->n_windows * c->window};
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
	for (uint32_t layer = walk.report.n_resumed; layer < n_layers; layer++) {
		tell_progress(&walk, layer, 0);
		r = walk_layer(&walk, layer, reason);
		if (r < 0)
			return r;
	}
	tell_progress(&walk, n_layers, 0);
	if (settings->method->report)
		walk.report.n_figures = settings->method->report(walk.state, walk.report.figures);
	if (settings->method->points)
		walk.report.n_points = settings->method->points(walk.state, walk.report.points);
	walk.report.text = text_of(&walk);
	*ret = walk.report;
	return 0;
}
