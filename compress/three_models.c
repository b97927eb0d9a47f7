#include "compress/three_models.h"

#include "compress/part_values.h"
#include "kernels/convert.h"
#include "store/base.h"

#include <string.h>

const struct model_config *three_models_config(const struct three_models *m, enum which_model w)
{
	return w == MODEL_BASE ? &m->pair->base_config : &m->pair->tuned_config;
}

static bool is_of(const struct tensor_record *r, const struct tensor_record *shape)
{
	return r->role == shape->role && r->layer == shape->layer;
}

/* All parts of the tensor, in the order in which they were made: the lowest level first. */
static int apply_parts(const struct three_models *m, const struct tensor_record *shape,
	float *values, struct reason *reason)
{
	for (size_t i = 0; i < delta_file_count(m->file); i++) {
		const struct tensor_record *record = &delta_file_part(m->file, i)->record;
		_cleanup_(freep) uint8_t *payload = NULL;
		int r;

		if (!is_of(record, shape))
			continue;
		r = delta_file_payload(m->file, i, &payload);
		if (r == 0 && record->codec == CODEC_VECTOR_F32)
			memcpy(values, payload, shape->rows * sizeof(*values));
		else if (r == 0)
			r = part_values_apply(m->pool, record, payload, values, reason);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Rows that the base does not have stay zeros. */
static int read_matrix(const struct three_models *m, enum which_model w,
	const struct tensor_record *shape, float *values, struct reason *reason)
{
	struct checkpoint *c = w == MODEL_TUNED ? m->pair->tuned : m->pair->base;
	enum weights weights = w == MODEL_TUNED ? WEIGHTS_BF16 : m->base_weights;
	size_t n = (size_t)shape->rows * shape->cols;
	_cleanup_(freep) uint16_t *words = calloc(n + 1, sizeof(*words));
	struct tensor_record own = *shape;
	int r;

	if (!words)
		return -ENOMEM;
	(void)model_config_shape(checkpoint_config(c), (enum tensor_role)shape->role, shape->layer,
		&own.rows, &own.cols);
	r = checkpoint_read_bf16(
		c, (enum tensor_role)shape->role, shape->layer, words, NULL, reason);
	return r < 0 ? r : weights_served(weights, &own, words, values, reason);
}

int three_models_read(const struct three_models *m, enum which_model w, enum tensor_role role,
	uint32_t layer, float **ret, struct reason *reason)
{
	struct tensor_record shape = {.role = role, .layer = layer};
	struct checkpoint *c = w == MODEL_TUNED ? m->pair->tuned : m->pair->base;
	_cleanup_(freep) float *values = NULL;
	int r;

	*ret = NULL;
	if (!model_config_shape(three_models_config(m, w), role, layer, &shape.rows, &shape.cols))
		return 0;
	values = calloc((size_t)shape.rows * shape.cols + 1, sizeof(*values));
	if (!values)
		return -ENOMEM;
	if (tensor_role_is_vector(role))
		r = checkpoint_read_f32(c, role, layer, values, reason);
	else
		r = read_matrix(m, w, &shape, values, reason);
	if (r == 0 && w == MODEL_DELTA)
		r = apply_parts(m, &shape, values, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(values);
	return 0;
}

static bool is_of_blocks(enum tensor_role role)
{
	return role != ROLE_EMBED && role != ROLE_HEAD && role != ROLE_FINAL_NORM;
}

int three_models_block(const struct three_models *m, enum which_model w, uint32_t layer,
	struct dense_layer *ret, struct reason *reason)
{
	int r = 0;

	*ret = (struct dense_layer){0};
	for (uint32_t role = 0; r == 0 && role < N_ROLES; role++)
		if (is_of_blocks((enum tensor_role)role))
			r = three_models_read(
				m, w, (enum tensor_role)role, layer, &ret->at[role], reason);
	return r;
}

void three_models_drop(struct dense_layer *b)
{
	for (size_t i = 0; i < N_ROLES; i++)
		free(b->at[i]);
	*b = (struct dense_layer){0};
}
