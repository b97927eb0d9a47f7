#include "compress/dense_model.h"

#include "store/base.h"

#include <string.h>

const enum tensor_role dense_projections[DENSE_N_PROJECTIONS] = {
	ROLE_Q, ROLE_K, ROLE_V, ROLE_O, ROLE_GATE, ROLE_UP, ROLE_DOWN};

#define OUTER_ROLES (1u << ROLE_EMBED | 1u << ROLE_FINAL_NORM | 1u << ROLE_HEAD)

int dense_model_new(const struct model_config *config, struct dense_model **ret)
{
	_cleanup_(dense_modelp) struct dense_model *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->config = *config;
	m->layers = calloc(config->n_layers, sizeof(*m->layers));
	m->owned = calloc(config->n_layers, sizeof(*m->owned));
	if (!m->layers || !m->owned)
		return -ENOMEM;
	*ret = take_ptr(m);
	return 0;
}

static void forget(struct dense_model *m, uint32_t layer, uint32_t roles)
{
	for (unsigned int role = 0; role < N_ROLES; role++) {
		float **owned = &m->owned[layer].at[role];

		if (!*owned || !(roles & 1u << role))
			continue;
		free(*owned);
		*owned = NULL;
		m->layers[layer].at[role] = NULL;
	}
}

struct dense_model *dense_model_free(struct dense_model *m)
{
	if (!m)
		return NULL;
	for (uint32_t layer = 0; m->owned && m->layers && layer < m->config.n_layers; layer++)
		forget(m, layer, DENSE_ALL);
	free(m->layers);
	free(m->owned);
	free(m);
	return NULL;
}

size_t dense_count(const struct dense_model *m, enum tensor_role role, uint32_t layer)
{
	uint32_t rows, cols;

	if (!model_config_shape(&m->config, role, layer, &rows, &cols))
		return 0;
	return (size_t)rows * cols;
}

static int fill_layer(struct dense_model *m, uint32_t layer, uint32_t roles)
{
	for (unsigned int role = 0; role < N_ROLES; role++) {
		size_t n = dense_count(m, (enum tensor_role)role, layer);
		float *values;

		if (!(roles & 1u << role) || n == 0 || m->layers[layer].at[role])
			continue;
		values = calloc(n, sizeof(*values));
		if (!values)
			return -ENOMEM;
		m->owned[layer].at[role] = m->layers[layer].at[role] = values;
	}
	return 0;
}

int dense_model_fill(struct dense_model *m, uint32_t roles)
{
	int r = 0;

	for (uint32_t layer = 0; r == 0 && layer < m->config.n_layers; layer++)
		r = fill_layer(m, layer, roles);
	return r;
}

void dense_model_zero(struct dense_model *m)
{
	for (uint32_t layer = 0; layer < m->config.n_layers; layer++)
		for (unsigned int role = 0; role < N_ROLES; role++) {
			float *values = m->layers[layer].at[role];

			if (values)
				memset(values, 0,
					dense_count(m, (enum tensor_role)role, layer) *
						sizeof(*values));
		}
}

static int read_layer(struct dense_model *m, struct checkpoint *c, uint32_t layer, uint32_t roles,
	struct reason *reason)
{
	int r = fill_layer(m, layer, roles);

	for (unsigned int role = 0; r == 0 && role < N_ROLES; role++)
		if (roles & 1u << role && m->layers[layer].at[role])
			r = checkpoint_read_f32(c, (enum tensor_role)role, layer,
				m->layers[layer].at[role], reason);
	return r;
}

static int read_roles(
	struct checkpoint *c, uint32_t roles, struct dense_model **ret, struct reason *reason)
{
	_cleanup_(dense_modelp) struct dense_model *m = NULL;
	int r = dense_model_new(checkpoint_config(c), &m);

	for (uint32_t layer = 0; r == 0 && layer < m->config.n_layers; layer++)
		r = read_layer(m, c, layer, roles, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(m);
	return 0;
}

int dense_model_read(struct checkpoint *c, struct dense_model **ret, struct reason *reason)
{
	return read_roles(c, DENSE_ALL, ret, reason);
}

int dense_model_open(struct checkpoint *c, struct dense_model **ret, struct reason *reason)
{
	int r = read_roles(c, OUTER_ROLES, ret, reason);

	if (r == 0)
		(*ret)->source = c;
	return r;
}

int dense_model_open_blocks(struct checkpoint *c, struct dense_model **ret)
{
	int r = dense_model_new(checkpoint_config(c), ret);

	if (r == 0)
		(*ret)->source = c;
	return r;
}

int dense_model_hold(struct dense_model *m, uint32_t layer, struct reason *reason)
{
	int r;

	if (!m->source)
		return 0;
	r = read_layer(m, m->source, layer, DENSE_ALL & ~OUTER_ROLES, reason);
	if (r < 0)
		forget(m, layer, DENSE_ALL & ~OUTER_ROLES);
	return r;
}

void dense_model_drop(struct dense_model *m, uint32_t layer)
{
	if (m->source)
		forget(m, layer, DENSE_ALL & ~OUTER_ROLES);
}

float *dense_head(const struct dense_model *m)
{
	float *head = m->layers[m->config.n_layers - 1].at[ROLE_HEAD];

	return m->config.flags & MODEL_TIED_HEAD ? dense_embedding(m) : head;
}

struct block_weights dense_layer_weights(const struct dense_layer *l)
{
	float *const *at = l->at;

	return (struct block_weights){
		.q = at[ROLE_Q],
		.k = at[ROLE_K],
		.v = at[ROLE_V],
		.o = at[ROLE_O],
		.gate = at[ROLE_GATE],
		.up = at[ROLE_UP],
		.down = at[ROLE_DOWN],
		.attn_norm = at[ROLE_ATTN_NORM],
		.ffn_norm = at[ROLE_FFN_NORM],
		.q_bias = at[ROLE_Q_BIAS],
		.k_bias = at[ROLE_K_BIAS],
		.v_bias = at[ROLE_V_BIAS],
		.o_bias = at[ROLE_O_BIAS],
		.gate_bias = at[ROLE_GATE_BIAS],
		.up_bias = at[ROLE_UP_BIAS],
		.down_bias = at[ROLE_DOWN_BIAS],
		.q_norm = at[ROLE_Q_NORM],
		.k_norm = at[ROLE_K_NORM],
	};
}

struct block_weights dense_block(const struct dense_model *m, uint32_t layer)
{
	return dense_layer_weights(&m->layers[layer]);
}
