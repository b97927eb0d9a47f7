#include "compress/outer.h"

#include "compress/adapter_part.h"
#include "compress/exact.h"
#include "store/base.h"

#include <string.h>

struct outer {
	const struct outer_settings *settings;
	struct delta_file *file;
	enum tensor_role role;
	uint32_t layer;
	const struct pair_rows *rows;
};

static bool is_tied(const struct outer_settings *s)
{
	return s->pair->base_config.flags & MODEL_TIED_HEAD;
}

/* A tied matrix is used both ways. */
static double *weigh(const struct outer *o)
{
	const struct calibration *c = o->settings->calibration;
	size_t n = (size_t)c->n_windows * c->window;
	struct embedding_use use = {
		.read_nats = EMBEDDING_READ_NATS, .asked_nats = EMBEDDING_ASKED_NATS};
	double *weights = malloc(((size_t)o->rows->base_rows + 1) * sizeof(*weights));

	if (o->role == ROLE_EMBED || is_tied(o->settings)) {
		use.read = c->ids;
		use.n_read = n;
	}
	if (o->role == ROLE_HEAD || is_tied(o->settings)) {
		use.asked = c->ids;
		use.n_asked = n;
	}
	if (weights)
		embedding_weigh(&use, o->rows->base_rows, weights);
	return weights;
}

static void choose(const struct outer_settings *s, struct embedding *e)
{
	if (s->choice.kind == EMBEDDING_BITS)
		embedding_choose_bits(e, s->choice.bits);
	else
		embedding_choose_size(e, s->bits);
}

static int add_parts(const struct outer *o, const struct embedding *e)
{
	const struct embedding_place place = {
		.role = o->role, .layer = o->layer, .coded = o->settings->choice.coded};
	struct part parts[EMBEDDING_MAX_PARTS] = {0};
	uint32_t n = 0;
	int r = embedding_parts(e, &place, parts, &n);

	for (uint32_t i = 0; i < n; i++) {
		if (r == 0)
			r = delta_file_add(o->file, &parts[i]);
		else
			part_done(&parts[i]);
	}
	return r;
}

/* `values` may be NULL. */
static int add_coarse(const struct outer *o, uint16_t *values)
{
	_cleanup_(freep) double *weights = weigh(o);
	_cleanup_(embeddingp) struct embedding *e = NULL;
	int r;

	if (!weights)
		return -ENOMEM;
	r = embedding_new(o->rows, weights, o->settings->pool, &e);
	if (r < 0)
		return r;
	choose(o->settings, e);
	r = add_parts(o, e);
	if (r == 0 && values)
		embedding_values(e, values);
	return r;
}

static int add_matrix(const struct outer *o, uint16_t *values)
{
	if (o->rows->n_changed == 0 || o->settings->choice.kind == EMBEDDING_EXACT)
		return exact_rows(o->file, o->role, o->layer, o->rows);
	return add_coarse(o, values);
}

static int add_embedding(struct outer o, uint16_t **ret, struct reason *reason)
{
	_cleanup_(pair_rows_done) struct pair_rows rows = {0};
	_cleanup_(freep) uint16_t *values = NULL;
	size_t n;
	int r;

	r = pair_read_rows(o.settings->pair, o.role, &rows, reason);
	if (r < 0)
		return r;
	n = (size_t)rows.rows * rows.cols;
	values = malloc((n + 1) * sizeof(*values));
	if (!values)
		return -ENOMEM;
	memcpy(values, rows.values, n * sizeof(*values));
	o.rows = &rows;
	r = add_matrix(&o, values);
	if (r < 0)
		return r;
	*ret = take_ptr(values);
	return 0;
}

/* *ret_found is false where there is no adapter, or not of the head. */
static int add_adapter(const struct outer *o, bool *ret_found, struct reason *reason)
{
	const struct adapter *adapter = checkpoint_adapter(o->settings->pair->tuned);
	struct part_place place = {.role = o->role, .layer = o->layer};
	struct part part;
	int r;

	*ret_found = false;
	if (!adapter || !model_config_shape(&o->settings->pair->tuned_config, place.role,
				place.layer, &place.rows, &place.cols))
		return 0;
	r = adapter_part(adapter, &place, &part, reason);
	if (r < 0 || !part.payload)
		return r;
	*ret_found = true;
	part.quality.weight_error = part.quality.activation_error = 0;
	return delta_file_add(o->file, &part);
}

static int add_head(struct outer o, struct reason *reason)
{
	_cleanup_(pair_rows_done) struct pair_rows rows = {0};
	bool found;
	int r;

	r = add_adapter(&o, &found, reason);
	if (r < 0 || found)
		return r;
	r = pair_read_rows(o.settings->pair, o.role, &rows, reason);
	if (r < 0)
		return r;
	o.rows = &rows;
	return add_matrix(&o, NULL);
}

static int add_final_norm(
	const struct outer_settings *s, struct delta_file *f, struct reason *reason)
{
	uint32_t last = s->pair->base_config.n_layers - 1;
	_cleanup_(freep) float *norm = NULL;
	bool changed;
	int r;

	r = pair_read_vector(s->pair, ROLE_FINAL_NORM, last, &norm, &changed, reason);
	if (r < 0 || !changed)
		return r;
	return exact_vector(f, ROLE_FINAL_NORM, last, norm, s->pair->base_config.hidden);
}

int outer_add(const struct outer_settings *settings, struct delta_file *f, uint16_t **ret_embedding,
	struct reason *reason)
{
	struct outer o = {.settings = settings, .file = f, .role = ROLE_EMBED};
	_cleanup_(freep) uint16_t *embedding = NULL;
	int r;

	r = add_embedding(o, &embedding, reason);
	if (r == 0 && !is_tied(settings)) {
		o.role = ROLE_HEAD;
		o.layer = settings->pair->base_config.n_layers - 1;
		r = add_head(o, reason);
	}
	if (r == 0)
		r = add_final_norm(settings, f, reason);
	if (r < 0)
		return r;
	*ret_embedding = take_ptr(embedding);
	return 0;
}
