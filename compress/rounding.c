#include "compress/rounding.h"

#include "compress/activations.h"
#include "compress/dense_model.h"
#include "compress/group_codes.h"
#include "foreign/tokenizer_json.h"
#include "store/base.h"

#include <string.h>

/* The text on its way through a model. */
struct journey {
	struct work_file *work;
	struct activations *activations;
};

struct rounding {
	struct rounding_settings settings;
	const struct model_config *config;
	struct calibration *calibration;
	struct journey rounded;    /* stands at the inputs of the group in work, */
	struct journey original;   /* and this one at those of the next */
	struct dense_model *model; /* the block in work, rounded as far as it is */
	double *moments, *drift;   /* of the group in work */
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
	freep(&r->drift);
	r->moments = r->drift = NULL;
	r->gptq = gptq_free(r->gptq);
}

static void journey_done(struct journey *j)
{
	activations_free(j->activations);
	work_file_free(j->work);
}

struct rounding *rounding_free(struct rounding *r)
{
	if (!r)
		return NULL;
	drop_group(r);
	dense_model_free(r->model);
	journey_done(&r->rounded);
	journey_done(&r->original);
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

static int prepare_journey(struct rounding *r, struct journey *j, int fd, struct reason *reason)
{
	const struct activation_settings settings = {
		.config = r->config,
		.calibration = r->calibration,
		.pool = r->settings.pool,
	};
	struct work_shape shape = {.n_blocks = r->config->n_layers};
	int error;

	activations_shape(&settings, &shape);
	error = work_file_open(fd, &shape, false, &j->work, reason);
	return error < 0 ? error : activations_new(&settings, j->work, &j->activations, reason);
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
	if (error == 0)
		error = activations_begin(r->rounded.activations, embedding);
	return error < 0 ? error : activations_begin(r->original.activations, embedding);
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
		error = prepare_journey(r, &r->rounded, settings->work_fd, reason);
	if (error == 0)
		error = prepare_journey(r, &r->original, settings->original_fd, reason);
	if (error == 0)
		error = begin(r, reason);
	if (error == 0)
		error = dense_model_open_blocks(settings->checkpoint, &r->model);
	if (error < 0)
		return error;
	*ret = take_ptr(r);
	return 0;
}

/* The last step of a block makes the inputs of the next, if there is one. */
static int advance(struct rounding *r, struct journey *j, uint32_t layer, enum activation_step step,
	struct reason *reason)
{
	const struct block_weights weights = dense_block(r->model, layer);
	const struct work_entry entry = {
		.sums = "", .digests = activations_digests(j->activations)};
	uint64_t none;
	int error;

	if (step == STEP_TO_NEXT && layer + 1 == r->config->n_layers)
		return 0;
	error = activations_advance(j->activations, &weights, step);
	if (error < 0 || step != STEP_TO_NEXT)
		return error;
	return work_file_add(j->work, &entry, &none, reason);
}

/* Moments of the inputs as they are, and how far they are from what they were. */
static int find_moments(struct rounding *r, uint32_t cols)
{
	const struct activations *rounded = r->rounded.activations;
	size_t n = (size_t)cols * cols;
	int error;

	r->moments = malloc(n * sizeof(*r->moments));
	r->drift = malloc(n * sizeof(*r->drift));
	if (!r->moments || !r->drift)
		return -ENOMEM;
	error = activations_moments(rounded, ACTIVATION_CALIBRATION, cols, r->moments);
	if (error == 0)
		error = activations_cross_moments(
			r->original.activations, rounded, ACTIVATION_CALIBRATION, cols, r->drift);
	for (size_t i = 0; error == 0 && i < n; i++)
		r->drift[i] -= r->moments[i];
	return error;
}

/* The original goes on while the matrices are what they were. */
static int begin_group(struct rounding *r, const struct group *g, const struct tensor_record *t,
	struct reason *reason)
{
	enum activation_step next = (enum activation_step)(g->step + 1);
	int error = 0;

	progress_update(r->settings.progress, ROUNDING_STAGE,
		(uint64_t)t->layer * ROUNDING_STEPS + (size_t)(g - groups),
		(uint64_t)r->config->n_layers * ROUNDING_STEPS);
	if (g->step == STEP_TO_QKV)
		error = advance(r, &r->original, t->layer, g->step, reason);
	if (error == 0)
		error = advance(r, &r->rounded, t->layer, g->step, reason);
	if (error == 0)
		error = find_moments(r, t->cols);
	if (error == 0)
		error = advance(r, &r->original, t->layer, next, reason);
	if (error < 0)
		return error;
	return gptq_new(r->settings.pool, r->moments, t->cols, &r->gptq, reason);
}

static int end_block(struct rounding *r, uint32_t layer, struct reason *reason)
{
	int error = advance(r, &r->rounded, layer, STEP_TO_NEXT, reason);

	dense_model_drop(r->model, layer);
	progress_update(r->settings.progress, ROUNDING_STAGE,
		(uint64_t)(layer + 1) * ROUNDING_STEPS,
		(uint64_t)r->config->n_layers * ROUNDING_STEPS);
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
		.drift = r->drift,
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
