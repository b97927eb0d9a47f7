#include "store/model_digest.h"

struct model_digest {
	struct digest_state *state;
};

static void add_shape(struct digest_state *s, const struct model_config *c)
{
	const uint32_t sizes[] = {
		c->family,
		c->flags,
		c->n_layers,
		c->hidden,
		c->ffn,
		c->n_heads,
		c->n_kv_heads,
		c->head_dim,
		c->vocab,
		c->sliding_window,
		c->first_window_layer,
		c->rope_kind,
		c->rope_original_positions,
	};
	const float constants[] = {
		c->rope_factor,
		c->rope_low_freq_factor,
		c->rope_high_freq_factor,
		c->rope_beta_fast,
		c->rope_beta_slow,
		c->rope_attention_factor,
		c->norm_eps,
	};

	digest_add(s, sizes, sizeof(sizes));
	digest_add(s, &c->rope_theta, sizeof(c->rope_theta));
	digest_add(s, constants, sizeof(constants));
}

struct model_digest *model_digest_new(const struct model_config *config)
{
	struct model_digest *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->state = digest_new();
	if (!m->state)
		return model_digest_free(m);
	add_shape(m->state, config);
	return m;
}

void model_digest_add(struct model_digest *m, enum tensor_role role, uint32_t layer, uint32_t rows,
	uint32_t cols, const void *values, size_t n_bytes)
{
	const uint32_t what[] = {role, layer, rows, cols};
	struct digest d = digest_of(values, n_bytes);

	digest_add(m->state, what, sizeof(what));
	digest_add(m->state, &d, sizeof(d));
}

struct digest model_digest_finish(struct model_digest *m)
{
	struct digest d = digest_finish(take_ptr(m->state));

	model_digest_free(m);
	return d;
}

struct model_digest *model_digest_free(struct model_digest *m)
{
	if (m)
		digest_free(m->state);
	free(m);
	return NULL;
}
