#include "compress/rounding.h"

#include "compress/activations.h"
#include "compress/dense_model.h"
#include "compress/group_codes.h"
#include "foreign/tokenizer_json.h"
#include "store/base.h"

#include <string.h>

struct rounding {
	struct rounding_settings settings;
	const struct model_config *config;
	struct calibration *calibration;
	struct work_file *work;
	struct activations *activations;
	struct dense_model *model; /* the block in work, rounded as far as it is */
	double *moments;           /* of the group in work */
	struct gptq *gptq;
};

/* The matrices that share their inputs, in the order in which import asks for them. */
static const struct group {
	enum tensor_role first, last;
	enum activation_step step; /* makes their inputs */
} groups[ROUNDING_STEPS] = {
	{ROLE_Q, ROLE_V, STEP_TO_QKV},
	{ROLE_O, ROLE_O, STEP_TO_O},
	{ROLE_GATE, ROLE_UP, STEP_TO_GATE_UP},
	{ROLE_DOWN, ROLE_DOWN, STEP_TO_DOWN},
};

static void drop_group(struct rounding *r)
{
	freep(&r->moments);
	r->moments = NULL;
	r->gptq = gptq_free(r->gptq);
}

struct rounding *rounding_free(struct rounding *r)
{
	if (!r)
		return NULL;
	drop_group(r);
	dense_model_free(r->model);
	activations_free(r->activations);
	work_file_free(r->work);
	calibration_free(r->calibration);
	free(r);
	return NULL;
}

/* The text as the model's own tokenizer reads it. */
static int read_text(struct rounding *r, struct reason *reason)
{
	const struct rounding_settings *s = &r->settings;
	const struct calibration_limits limits = {
		.max_tokens = s->max_tokens,
		.window = (uint32_t)min_u64(ROUNDING_WINDOW, r->config->max_positions),
	};
	struct tokenizer *tokenizer = NULL;
	_cleanup_(freep) uint8_t *tables = NULL;
	size_t n_tables;
	int error;

	error = tokenizer_compile(checkpoint_folder(s->checkpoint), &tables, &n_tables, reason);
	if (error == -ENOENT)
		return reason_set(reason, error,
			"%s has no tokenizer.json, without which no text can be read",
			checkpoint_folder(s->checkpoint));
	if (error == 0)
		error = tokenizer_new(tables, n_tables, NULL, 0, &tokenizer, reason);
	if (error < 0)
		return error;
	error = calibration_of_text(
		tokenizer, s->text, s->n_text, &limits, &r->calibration, reason);
	tokenizer_free(tokenizer);
	if (error < 0)
		return reason_prefix(reason, error, "%s", s->text_name);
	r->settings.text = NULL;
	return calibration_check(r->calibration, r->config->vocab, reason);
}

static int open_activations(struct rounding *r, struct reason *reason)
{
	const struct activation_settings settings = {
		.config = r->config,
		.calibration = r->calibration,
		.pool = r->settings.pool,
	};
	struct work_shape shape = {.n_blocks = r->config->n_layers};
	int error;

	activations_shape(&settings, &shape);
	error = work_file_open(r->settings.work_fd, &shape, false, &r->work, reason);
	return error < 0 ? error : activations_new(&settings, r->work, &r->activations, reason);
}

static int begin(struct rounding *r, struct reason *reason)
{
	size_t n = (size_t)r->config->vocab * r->config->hidden;
	_cleanup_(freep) uint16_t *embedding = malloc(n * sizeof(*embedding));
	int error;

	if (!embedding)
		return reason_set(reason, -ENOMEM, "out of memory");
	error = checkpoint_read_bf16(
		r->settings.checkpoint, ROLE_EMBED, 0, embedding, NULL, reason);
	return error < 0 ? error : activations_begin(r->activations, embedding);
}

int rounding_new(
	const struct rounding_settings *settings, struct rounding **ret, struct reason *reason)
{
	_cleanup_(roundingp) struct rounding *r = calloc(1, sizeof(*r));
	int error;

	if (!r)
		return reason_set(reason, -ENOMEM, "out of memory");
	r->settings = *settings;
	r->config = checkpoint_config(settings->checkpoint);
	error = read_text(r, reason);
	if (error == 0)
		error = open_activations(r, reason);
	if (error == 0)
		error = begin(r, reason);
	if (error == 0)
		error = dense_model_open_blocks(settings->checkpoint, &r->model);
	if (error < 0)
		return error;
	*ret = take_ptr(r);
	return 0;
}

static int advance(struct rounding *r, uint32_t layer, enum activation_step step)
{
	const struct block_weights weights = dense_block(r->model, layer);

	return activations_advance(r->activations, &weights, step);
}

static int begin_group(struct rounding *r, const struct group *g, const struct tensor_record *t,
	struct reason *reason)
{
	size_t cols = t->cols;
	int error;

	progress_update(r->settings.progress, ROUNDING_STAGE,
		(uint64_t)t->layer * ROUNDING_STEPS + (size_t)(g - groups),
		(uint64_t)r->config->n_layers * ROUNDING_STEPS);
	error = advance(r, t->layer, g->step);
	if (error < 0)
		return error;
	r->moments = malloc(cols * cols * sizeof(*r->moments));
	if (!r->moments)
		return -ENOMEM;
	error = activations_moments(r->activations, ACTIVATION_CALIBRATION, t->cols, r->moments);
	if (error < 0)
		return error;
	return gptq_new(r->settings.pool, r->moments, t->cols, &r->gptq, reason);
}

/* Its outputs are the inputs of the next block. */
static int end_block(struct rounding *r, uint32_t layer, struct reason *reason)
{
	const struct work_entry entry = {
		.sums = "", .digests = activations_digests(r->activations)};
	uint32_t n_layers = r->config->n_layers;
	uint64_t none;
	int error = 0;

	if (layer + 1 < n_layers) {
		error = advance(r, layer, STEP_TO_NEXT);
		if (error == 0)
			error = work_file_add(r->work, &entry, &none, reason);
	}
	dense_model_drop(r->model, layer);
	progress_update(r->settings.progress, ROUNDING_STAGE,
		(uint64_t)(layer + 1) * ROUNDING_STEPS, (uint64_t)n_layers * ROUNDING_STEPS);
	return error;
}

static int round_matrix(struct rounding *r, const struct tensor_record *t, uint8_t *ret)
{
	float *matrix = r->model->layers[t->layer].at[t->role];
	const struct group_codes codes = {
		.pool = r->settings.pool,
		.record = t,
		.matrix = matrix,
		.moments = r->moments,
		.gptq = r->gptq,
	};
	int error = group_codes_pack(&codes, ret);

	if (error == 0)
		weights_values(t, ret, matrix);
	return error;
}

static int pack(
	struct rounding *r, const struct tensor_record *t, uint8_t *ret, struct reason *reason)
{
	const struct group *g = groups;
	int error = 0;

	while (g->last < (enum tensor_role)t->role)
		g++;
	if (t->role == ROLE_Q)
		error = dense_model_hold(r->model, t->layer, reason);
	if (error == 0 && t->role == g->first)
		error = begin_group(r, g, t, reason);
	if (error == 0)
		error = round_matrix(r, t, ret);
	if (t->role == g->last || error < 0)
		drop_group(r);
	if (error == 0 && t->role == ROLE_DOWN)
		error = end_block(r, t->layer, reason);
	return error;
}

static int import_pack(
	void *user, const struct tensor_record *record, uint8_t *ret, struct reason *reason)
{
	int error;

	reason->text[0] = '\0';
	error = pack(user, record, ret, reason);
	if (error < 0 && !reason->text[0])
		reason_set(reason, error, "%s", strerror(-error));
	if (error < 0)
		return reason_prefix(reason, error, "rounding %s of layer %u",
			tensor_role_name((enum tensor_role)record->role), record->layer);
	return 0;
}

struct import_rounding rounding_import(struct rounding *r)
{
	return (struct import_rounding){.pack = import_pack, .user = r};
}
