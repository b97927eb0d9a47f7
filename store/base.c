#include "store/base.h"

#include "store/codec.h"
#include "store/tensor_table.h"

#include <inttypes.h>

static struct base_matrix *matrix_of(struct base *b, enum tensor_role role, uint32_t layer)
{
	struct base_layer *l = &b->layers[layer];

	switch (role) {
	case ROLE_EMBED:
		return &b->embed;
	case ROLE_HEAD:
		return &b->head;
	case ROLE_Q:
		return &l->q;
	case ROLE_K:
		return &l->k;
	case ROLE_V:
		return &l->v;
	case ROLE_O:
		return &l->o;
	case ROLE_GATE:
		return &l->gate;
	case ROLE_UP:
		return &l->up;
	case ROLE_DOWN:
		return &l->down;
	case ROLE_ATTN_NORM:
	case ROLE_Q_BIAS:
	case ROLE_K_BIAS:
	case ROLE_V_BIAS:
	case ROLE_Q_NORM:
	case ROLE_K_NORM:
	case ROLE_O_BIAS:
	case ROLE_FFN_NORM:
	case ROLE_GATE_BIAS:
	case ROLE_UP_BIAS:
	case ROLE_DOWN_BIAS:
	case ROLE_FINAL_NORM:
	case N_ROLES:
		break;
	}
	return NULL;
}

const struct base_matrix *base_matrix(
	const struct base *base, enum tensor_role role, uint32_t layer)
{
	if (layer >= base->config.n_layers)
		return NULL;
	return matrix_of((struct base *)(uintptr_t)base, role, layer);
}

const float **layer_vector(struct layer_vectors *v, enum tensor_role role)
{
	switch (role) {
	case ROLE_ATTN_NORM:
		return &v->attn_norm;
	case ROLE_Q_BIAS:
		return &v->q_bias;
	case ROLE_K_BIAS:
		return &v->k_bias;
	case ROLE_V_BIAS:
		return &v->v_bias;
	case ROLE_Q_NORM:
		return &v->q_norm;
	case ROLE_K_NORM:
		return &v->k_norm;
	case ROLE_O_BIAS:
		return &v->o_bias;
	case ROLE_FFN_NORM:
		return &v->ffn_norm;
	case ROLE_GATE_BIAS:
		return &v->gate_bias;
	case ROLE_UP_BIAS:
		return &v->up_bias;
	case ROLE_DOWN_BIAS:
		return &v->down_bias;
	case ROLE_EMBED:
	case ROLE_Q:
	case ROLE_K:
	case ROLE_V:
	case ROLE_O:
	case ROLE_GATE:
	case ROLE_UP:
	case ROLE_DOWN:
	case ROLE_FINAL_NORM:
	case ROLE_HEAD:
	case N_ROLES:
		break;
	}
	return NULL;
}

static const float **vector_of(struct base *b, enum tensor_role role, uint32_t layer)
{
	return role == ROLE_FINAL_NORM ? &b->final_norm
				       : layer_vector(&b->layers[layer].vectors, role);
}

/* The records are known to ascend and to be tensors of the model: the first difference from the
 * model's own list is one that is missing. */
static int check_complete(
	const struct tensor_table *t, const struct model_config *config, struct reason *reason)
{
	size_t i = 0;

	for (uint32_t layer = 0; layer < config->n_layers; layer++)
		for (uint32_t role = 0; role < N_ROLES; role++) {
			uint32_t rows, cols;

			if (!model_config_shape(
				    config, (enum tensor_role)role, layer, &rows, &cols))
				continue;
			if (i == t->n || t->records[i].layer != layer || t->records[i].role != role)
				return reason_set(reason, -EBADMSG,
					"layer %" PRIu32 " %s is missing", layer,
					tensor_role_name((enum tensor_role)role));
			i++;
		}
	return 0;
}

static int bind_tensor(struct base *b, const struct payload *p, struct reason *reason)
{
	enum tensor_role role = (enum tensor_role)p->record->role;

	if (tensor_role_is_vector(role))
		return codec_vector_f32(p, vector_of(b, role, p->record->layer), reason);
	return codec_base_matrix(p, matrix_of(b, role, p->record->layer), reason);
}

static int bind_tensors(struct base *b, const struct tensor_table *t, struct reason *reason)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct payload p = {
			.record = &t->records[i],
			.bytes = t->bytes + t->records[i].offset,
		};
		int r = bind_tensor(b, &p, reason);

		if (r < 0)
			return tensor_reason(p.record, r, reason);
	}
	if (b->config.flags & MODEL_TIED_HEAD)
		b->head = b->embed;
	return 0;
}

/* Codes serve other values than those that were packed, and the header says which. */
static int check_served(
	const struct tensor_table *t, const struct format_header *h, struct reason *reason)
{
	bool has_codes = false;

	for (size_t i = 0; i < t->n; i++)
		has_codes |= t->records[i].codec == CODEC_MAT_INT;
	if (has_codes == (image_served_digest(h) == &h->tuned))
		return 0;
	return reason_set(reason, -EBADMSG,
		has_codes ? "header: no digest of the values as served, some are codes"
			  : "header: a digest of the values as served, but none are codes");
}

const char *base_weights_name(const struct base *base)
{
	const struct base_matrix *q = &base->layers[0].q;

	if (q->codec == CODEC_MAT_BF16)
		return "bf16";
	return q->ints.bits == 4 ? "int4" : "int8";
}

int base_bind(struct image *image, struct base **ret, struct reason *reason)
{
	_cleanup_(basep) struct base *b = NULL;
	struct tensor_table table;
	int r;

	if (image->kind != IMAGE_KIND_BASE)
		return reason_set(reason, -EMEDIUMTYPE, "is a delta file, expected a base image");
	b = calloc(1, sizeof(*b));
	if (!b)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = tensor_table_config(image, &b->config, reason);
	if (r == 0)
		r = tensor_table_open(image, &b->config, &table, reason);
	if (r == 0)
		r = check_complete(&table, &b->config, reason);
	if (r == 0)
		r = check_served(&table, &image->header, reason);
	if (r < 0)
		return r;
	b->layers = calloc(b->config.n_layers, sizeof(*b->layers));
	if (!b->layers)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = bind_tensors(b, &table, reason);
	if (r < 0)
		return r;
	b->image = image;
	*ret = take_ptr(b);
	return 0;
}

int base_open(
	const char *path, struct base **ret, const struct progress *progress, struct reason *reason)
{
	_cleanup_(imagep) struct image *image = NULL;
	int r = image_load_path(path, &image, progress, reason);

	if (r < 0)
		return r;
	r = base_bind(image, ret, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", path);
	take_ptr(image);
	return 0;
}

struct base *base_free(struct base *base)
{
	if (!base)
		return NULL;
	image_free(base->image);
	free(base->layers);
	free(base);
	return NULL;
}
