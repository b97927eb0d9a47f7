#include "client/deltactl/inspect_config.h"

#include "client/deltactl/document.h"
#include "foreign/config_json.h"

static const char *rope_kind_name(uint32_t kind)
{
	switch ((enum rope_kind)kind) {
	case ROPE_KIND_DEFAULT:
		return "default";
	case ROPE_KIND_LINEAR:
		return "linear";
	case ROPE_KIND_LLAMA3:
		return "llama3";
	case ROPE_KIND_YARN:
		return "yarn";
	}
	return "unknown";
}

static void describe_rope(json_t *config, const struct model_config *c)
{
	document_set(config, "rope", json_string(rope_kind_name(c->rope_kind)));
	document_set(config, "rope_theta", json_real(c->rope_theta));
	if (c->rope_kind == ROPE_KIND_DEFAULT)
		return;
	document_set(config, "rope_factor", json_real((double)c->rope_factor));
	if (c->rope_kind == ROPE_KIND_LINEAR)
		return;
	document_set(config, "rope_original_positions", json_integer(c->rope_original_positions));
	if (c->rope_kind == ROPE_KIND_LLAMA3) {
		document_set(
			config, "rope_low_freq_factor", json_real((double)c->rope_low_freq_factor));
		document_set(config, "rope_high_freq_factor",
			json_real((double)c->rope_high_freq_factor));
		return;
	}
	document_set(config, "rope_beta_fast", json_real((double)c->rope_beta_fast));
	document_set(config, "rope_beta_slow", json_real((double)c->rope_beta_slow));
	document_set(config, "rope_attention_factor", json_real((double)c->rope_attention_factor));
}

static json_t *token_or_null(int32_t id)
{
	return id < 0 ? json_null() : json_integer(id);
}

json_t *inspect_config(const struct model_config *c)
{
	json_t *config = json_object(), *eos = json_array();

	document_set(config, "family", json_string(model_family_name(c->family)));
	document_set(config, "layers", json_integer(c->n_layers));
	document_set(config, "hidden", json_integer(c->hidden));
	document_set(config, "ffn", json_integer(c->ffn));
	document_set(config, "heads", json_integer(c->n_heads));
	document_set(config, "kv_heads", json_integer(c->n_kv_heads));
	document_set(config, "head_dim", json_integer(c->head_dim));
	document_set(config, "vocabulary", json_integer(c->vocab));
	document_set(config, "max_positions", json_integer(c->max_positions));
	document_set(config, "tied_head", json_boolean(c->flags & MODEL_TIED_HEAD));
	document_set(config, "qkv_bias", json_boolean(c->flags & MODEL_QKV_BIAS));
	document_set(config, "o_bias", json_boolean(c->flags & MODEL_O_BIAS));
	document_set(config, "mlp_bias", json_boolean(c->flags & MODEL_MLP_BIAS));
	document_set(config, "qk_norm", json_boolean(c->flags & MODEL_QK_NORM));
	document_set(config, "norm_eps", json_real((double)c->norm_eps));
	if (c->sliding_window) {
		document_set(config, "sliding_window", json_integer(c->sliding_window));
		document_set(config, "first_window_layer", json_integer(c->first_window_layer));
	}
	describe_rope(config, c);
	for (uint32_t i = 0; i < c->n_eos && i < FORMAT_MAX_EOS; i++)
		json_array_append_new(eos, json_integer(c->eos[i]));
	document_set(config, "bos", token_or_null(c->bos));
	document_set(config, "eos", eos);
	document_set(config, "pad", token_or_null(c->pad));
	return config;
}
