/*
 * Defaults for missing keys are those of the classes in transformers, since that is what a folder
 * without the key means to everybody else. Keys that every writer gives are required.
 */
#include "foreign/config_json.h"

#include "foreign/json.h"
#include "store/base.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_FILE_BYTES (1u << 20)
#define MAX_DEPTH 32u
#define MAX_VALUES (1u << 16)

#define MAX_HIDDEN (1 << 20)
#define MAX_FFN (1 << 22)
#define MAX_HEADS (1 << 14)
#define MAX_HEAD_DIM (1 << 12)
#define MAX_VOCAB (1 << 24)

/* What a Mistral or Qwen config without the key means. */
#define DEFAULT_WINDOW 4096
#define DEFAULT_MAX_WINDOW_LAYERS 28
#define DEFAULT_ROPE_THETA 10000.0

struct family {
	enum model_family id;
	const char *model_type;
	const char *architecture;
	uint32_t default_head_dim; /* 0: hidden / heads */
	uint32_t default_kv_heads; /* 0: as many as heads */
};

static const struct family families[] = {
	{MODEL_FAMILY_LLAMA, "llama", "LlamaForCausalLM", 0, 0},
	{MODEL_FAMILY_MISTRAL, "mistral", "MistralForCausalLM", 0, 8},
	{MODEL_FAMILY_QWEN2, "qwen2", "Qwen2ForCausalLM", 0, 32},
	{MODEL_FAMILY_QWEN3, "qwen3", "Qwen3ForCausalLM", 128, 32},
	{MODEL_FAMILY_PHI3, "phi3", "Phi3ForCausalLM", 0, 0},
};

const char *model_family_name(uint32_t family)
{
	for (size_t i = 0; i < array_len(families); i++)
		if (families[i].id == family)
			return families[i].model_type;
	return "unknown";
}

static const struct family *read_family(struct json_fields *f)
{
	const char *type = json_field_string(f, "model_type");

	for (size_t i = 0; type && i < array_len(families); i++)
		if (strcmp(type, families[i].model_type) == 0)
			return &families[i];
	json_fields_fail(f, -EOPNOTSUPP,
		"model_type '%.64s' is not implemented (llama, mistral, qwen2, qwen3 and phi3 are)",
		type ? type : "");
	return NULL;
}

/* The same weights with another head (a classifier, say) are another model. */
static void check_architecture(struct json_fields *f, const struct family *family)
{
	const json_t *list, *first;

	if (!json_field_present(f, "architectures"))
		return;
	list = json_field_array(f, "architectures");
	first = json_array_get(list, 0);
	if (list && (json_array_size(list) != 1 || !json_is_string(first)))
		json_fields_fail(f, -EBADMSG, "architectures: expected a list of one name");
	else if (list && strcmp(json_string_value(first), family->architecture) != 0)
		json_fields_fail(f, -EOPNOTSUPP,
			"architecture '%.64s' of model_type '%s' is not implemented (%s is)",
			json_string_value(first), family->model_type, family->architecture);
}

/* Keys whose presence means layers or weights that the engine does not have. */
static void check_extensions(struct json_fields *f)
{
	static const char *const experts[] = {
		"num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"};

	if (json_field_present(f, "quantization_config")) {
		const json_t *q = json_object_get(f->object, "quantization_config");
		const char *method = json_string_value(json_object_get(q, "quant_method"));

		json_fields_fail(f, -EOPNOTSUPP,
			"quantization_config: quantised weights (%.32s) are not implemented; "
			"use the model in bf16, f16 or f32",
			method ? method : "of an unnamed method");
	}
	for (size_t i = 0; i < array_len(experts); i++)
		if (json_field_present(f, experts[i]))
			json_fields_fail(f, -EOPNOTSUPP,
				"%s: mixtures of experts are not implemented", experts[i]);
	if (json_field_bool_or(f, "use_mrope", false))
		json_fields_fail(
			f, -EOPNOTSUPP, "use_mrope: multimodal positions are not implemented");
}

static void check_activation(struct json_fields *f)
{
	const char *act = json_field_string_or(f, "hidden_act", "silu");

	if (act && strcmp(act, "silu") != 0)
		json_fields_fail(
			f, -EOPNOTSUPP, "hidden_act '%.64s' is not implemented (silu is)", act);
}

static void check_dtype(struct json_fields *f)
{
	static const char *const names[] = {"bfloat16", "float16", "float32"};
	const char *key = json_field_present(f, "dtype") ? "dtype" : "torch_dtype";
	const char *dtype = json_field_string_or(f, key, names[0]);

	for (size_t i = 0; dtype && i < array_len(names); i++)
		if (strcmp(dtype, names[i]) == 0)
			return;
	json_fields_fail(f, -EOPNOTSUPP,
		"%s '%.64s' is not implemented (bfloat16, float16 and float32 are)", key,
		dtype ? dtype : "");
}

static void read_sizes(struct json_fields *f, const struct family *family, struct model_config *c)
{
	uint32_t kv_default;

	c->family = family->id;
	c->n_layers = (uint32_t)json_field_int(f, "num_hidden_layers", 1, FORMAT_MAX_LAYERS);
	c->hidden = (uint32_t)json_field_int(f, "hidden_size", 1, MAX_HIDDEN);
	c->ffn = (uint32_t)json_field_int(f, "intermediate_size", 1, MAX_FFN);
	c->n_heads = (uint32_t)json_field_int(f, "num_attention_heads", 1, MAX_HEADS);
	kv_default = family->default_kv_heads ? family->default_kv_heads : c->n_heads;
	c->n_kv_heads =
		(uint32_t)json_field_int_or(f, "num_key_value_heads", 1, MAX_HEADS, kv_default);
	c->head_dim = (uint32_t)json_field_int_or(
		f, "head_dim", 1, MAX_HEAD_DIM, family->default_head_dim);
	c->vocab = (uint32_t)json_field_int(f, "vocab_size", 1, MAX_VOCAB);
	c->max_positions = (uint32_t)json_field_int(f, "max_position_embeddings", 1, INT_MAX);
	c->norm_eps = (float)json_field_real(f, "rms_norm_eps", 1e-12, 1e-1);
	if (c->head_dim == 0 && c->hidden % c->n_heads != 0)
		json_fields_fail(f, -EBADMSG,
			"hidden_size %u is not a multiple of num_attention_heads %u", c->hidden,
			c->n_heads);
	if (c->head_dim == 0)
		c->head_dim = c->hidden / c->n_heads;
	if (c->head_dim % 2 != 0)
		json_fields_fail(
			f, -EBADMSG, "head_dim: found %u, expected an even number", c->head_dim);
	if (c->n_heads % c->n_kv_heads != 0)
		json_fields_fail(f, -EBADMSG,
			"num_attention_heads %u is not a multiple of num_key_value_heads %u",
			c->n_heads, c->n_kv_heads);
}

static void read_flags(struct json_fields *f, struct model_config *c)
{
	bool attention_bias = json_field_bool_or(f, "attention_bias", false);
	bool mlp_bias = json_field_bool_or(f, "mlp_bias", false);

	if (json_field_bool_or(f, "tie_word_embeddings", false))
		c->flags |= MODEL_TIED_HEAD;
	switch ((enum model_family)c->family) {
	case MODEL_FAMILY_LLAMA:
		c->flags |= attention_bias ? MODEL_QKV_BIAS | MODEL_O_BIAS : 0;
		c->flags |= mlp_bias ? MODEL_MLP_BIAS : 0;
		return;
	case MODEL_FAMILY_QWEN2:
		c->flags |= MODEL_QKV_BIAS;
		break;
	case MODEL_FAMILY_QWEN3:
		c->flags |= MODEL_QK_NORM;
		c->flags |= attention_bias ? MODEL_QKV_BIAS | MODEL_O_BIAS : 0;
		attention_bias = false;
		break;
	case MODEL_FAMILY_MISTRAL:
	case MODEL_FAMILY_PHI3:
		break;
	}
	if ((attention_bias && c->family != MODEL_FAMILY_QWEN2) || mlp_bias)
		json_fields_fail(f, -EOPNOTSUPP, "%s: this family has no such biases",
			mlp_bias ? "mlp_bias" : "attention_bias");
}

/* A named list of layer kinds must say what the other keys say: full attention up to some layer and
 * the window from there on. */
static void read_layer_types(struct json_fields *f, struct model_config *c)
{
	const json_t *types = json_field_array(f, "layer_types");
	uint32_t n_full = 0;

	if (types && json_array_size(types) != c->n_layers)
		json_fields_fail(f, -EBADMSG, "layer_types: %zu entries, num_hidden_layers is %u",
			json_array_size(types), c->n_layers);
	for (uint32_t i = 0; i < c->n_layers && !f->error; i++) {
		const char *type = json_string_value(json_array_get(types, i));
		bool full = type && strcmp(type, "full_attention") == 0;

		if (!type)
			json_fields_fail(f, -EBADMSG, "layer_types: entry %u is not a string", i);
		else if (!full && strcmp(type, "sliding_attention") != 0)
			json_fields_fail(f, -EOPNOTSUPP,
				"layer_types: '%.64s' is not implemented (full_attention and "
				"sliding_attention are)",
				type);
		else if (full && n_full != i)
			json_fields_fail(f, -EOPNOTSUPP,
				"layer_types: full attention after sliding attention (layer %u) is "
				"not implemented",
				i);
		n_full += full;
	}
	if (f->error)
		return;
	if (c->sliding_window == 0 && n_full != c->n_layers)
		json_fields_fail(f, -EBADMSG, "layer_types: sliding attention without a window");
	else if (c->family == MODEL_FAMILY_QWEN2 || c->family == MODEL_FAMILY_QWEN3)
		c->first_window_layer = n_full;
	else if (c->sliding_window != 0 && n_full != 0)
		json_fields_fail(f, -EOPNOTSUPP,
			"layer_types: full attention in some layers of a model_type that slides in "
			"all");
}

static uint32_t window_size(struct json_fields *f, int64_t absent)
{
	if (!json_object_get(f->object, "sliding_window"))
		return (uint32_t)absent;
	return (uint32_t)json_field_int_or(f, "sliding_window", 1, INT_MAX, 0);
}

static void read_window(struct json_fields *f, struct model_config *c)
{
	switch ((enum model_family)c->family) {
	case MODEL_FAMILY_LLAMA:
		break;
	case MODEL_FAMILY_MISTRAL:
		c->sliding_window = window_size(f, DEFAULT_WINDOW);
		break;
	case MODEL_FAMILY_PHI3:
		c->sliding_window = window_size(f, 0);
		break;
	case MODEL_FAMILY_QWEN2:
	case MODEL_FAMILY_QWEN3:
		if (json_field_bool_or(f, "use_sliding_window", false))
			c->sliding_window = window_size(f, DEFAULT_WINDOW);
		c->first_window_layer = (uint32_t)json_field_int_or(
			f, "max_window_layers", 0, INT_MAX, DEFAULT_MAX_WINDOW_LAYERS);
		break;
	}
	if (json_field_present(f, "layer_types"))
		read_layer_types(f, c);
	/* One spelling for "no layer has a window". */
	if (c->first_window_layer >= c->n_layers)
		c->sliding_window = 0;
	if (c->sliding_window == 0)
		c->first_window_layer = 0;
}

/* The scale of long-context attention, as transformers derives it (arXiv 2309.00071, 3.4). */
static double yarn_scale(double factor, double mscale)
{
	return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static void read_yarn(struct json_fields *f, struct model_config *c)
{
	double factor, derived, mscale, mscale_all_dim, fast, slow;

	c->rope_kind = ROPE_KIND_YARN;
	c->rope_original_positions = (uint32_t)json_field_int_or(
		f, "original_max_position_embeddings", 1, INT_MAX, c->max_positions);
	factor = json_field_real_or(
		f, "factor", 1, 1e6, (double)c->max_positions / c->rope_original_positions);
	mscale = json_field_real_or(f, "mscale", 0, 100, 0);
	mscale_all_dim = json_field_real_or(f, "mscale_all_dim", 0, 100, 0);
	derived = yarn_scale(factor, 1);
	if (mscale != 0 && mscale_all_dim != 0)
		derived = yarn_scale(factor, mscale) / yarn_scale(factor, mscale_all_dim);
	fast = json_field_real_or(f, "beta_fast", 0, 1e6, 0);
	slow = json_field_real_or(f, "beta_slow", 0, 1e6, 0);
	c->rope_factor = (float)factor;
	c->rope_attention_factor =
		(float)json_field_real_or(f, "attention_factor", 1e-3, 100, derived);
	c->rope_beta_fast = fast != 0 ? (float)fast : 32;
	c->rope_beta_slow = slow != 0 ? (float)slow : 1;
	if (!json_field_bool_or(f, "truncate", true))
		json_fields_fail(f, -EOPNOTSUPP, "truncate: false is not implemented");
}

static void read_llama3(struct json_fields *f, struct model_config *c)
{
	c->rope_kind = ROPE_KIND_LLAMA3;
	c->rope_factor = (float)json_field_real(f, "factor", 1, 1e6);
	c->rope_low_freq_factor = (float)json_field_real(f, "low_freq_factor", 1e-3, 1e6);
	c->rope_high_freq_factor = (float)json_field_real(f, "high_freq_factor", 1e-3, 1e6);
	c->rope_original_positions =
		(uint32_t)json_field_int(f, "original_max_position_embeddings", 1, INT_MAX);
	if (c->rope_high_freq_factor <= c->rope_low_freq_factor)
		json_fields_fail(
			f, -EBADMSG, "high_freq_factor: expected more than low_freq_factor");
}

static void read_rope_kind(struct json_fields *f, struct model_config *c)
{
	const char *key = json_field_present(f, "rope_type") ? "rope_type" : "type";
	const char *type = json_field_string_or(f, key, "default");

	if (!type)
		return;
	if (strcmp(type, "default") == 0) {
		c->rope_kind = ROPE_KIND_DEFAULT;
	} else if (strcmp(type, "linear") == 0) {
		c->rope_kind = ROPE_KIND_LINEAR;
		c->rope_factor = (float)json_field_real(f, "factor", 1, 1e6);
	} else if (strcmp(type, "llama3") == 0) {
		read_llama3(f, c);
	} else if (strcmp(type, "yarn") == 0) {
		read_yarn(f, c);
	} else {
		json_fields_fail(f, -EOPNOTSUPP,
			"%s '%.64s' is not implemented (default, linear, llama3 and yarn are)", key,
			type);
	}
}

static void check_partial_rotation(struct json_fields *f)
{
	double share = json_field_real_or(f, "partial_rotary_factor", 0, 1, 1);

	if (share != 1)
		json_fields_fail(f, -EOPNOTSUPP,
			"partial_rotary_factor %g is not implemented (1 is)", share);
}

/* Newer folders have rope_parameters, with rope_theta inside; older ones rope_scaling beside it. */
static void read_rope(struct json_fields *f, struct model_config *c)
{
	bool newer = json_field_present(f, "rope_parameters");
	bool older = json_field_present(f, "rope_scaling");
	const char *key = newer ? "rope_parameters" : "rope_scaling";
	struct json_fields inner = {.name = "config.json: rope_scaling", .reason = f->reason};

	c->rope_theta = json_field_real_or(f, "rope_theta", 1, 1e15, DEFAULT_ROPE_THETA);
	c->rope_attention_factor = 1;
	check_partial_rotation(f);
	if (newer && older &&
		!json_equal(json_object_get(f->object, "rope_parameters"),
			json_object_get(f->object, "rope_scaling")))
		json_fields_fail(
			f, -EBADMSG, "rope_parameters and rope_scaling contradict each other");
	if (f->error || (!newer && !older))
		return;
	if (newer)
		inner.name = "config.json: rope_parameters";
	inner.object = json_field_object(f, key);
	if (!inner.object)
		return;
	c->rope_theta = json_field_real_or(&inner, "rope_theta", 1, 1e15, c->rope_theta);
	check_partial_rotation(&inner);
	read_rope_kind(&inner, c);
	f->error = inner.error;
}

/* -1 in a config, like null, means none. */
static int32_t read_token(struct json_fields *f, const char *key, uint32_t vocab, int32_t otherwise)
{
	return (int32_t)json_field_int_or(f, key, -1, (int64_t)vocab - 1, otherwise);
}

static void read_eos_list(struct json_fields *f, const json_t *list, struct model_config *c)
{
	if (json_array_size(list) > FORMAT_MAX_EOS)
		json_fields_fail(f, -EOPNOTSUPP, "eos_token_id: %zu ids, at most %u are supported",
			json_array_size(list), FORMAT_MAX_EOS);
	for (size_t i = 0; i < json_array_size(list) && !f->error; i++) {
		const json_t *id = json_array_get(list, i);

		if (!json_is_integer(id) || json_integer_value(id) < 0 ||
			json_integer_value(id) >= c->vocab)
			json_fields_fail(f, -EBADMSG,
				"eos_token_id: entry %zu is not a token id below %u", i, c->vocab);
		else
			c->eos[c->n_eos++] = (int32_t)json_integer_value(id);
	}
}

static void read_tokens(struct json_fields *f, struct model_config *c)
{
	const json_t *eos = json_object_get(f->object, "eos_token_id");

	c->bos = read_token(f, "bos_token_id", c->vocab, c->bos);
	c->pad = read_token(f, "pad_token_id", c->vocab, c->pad);
	if (!eos || json_is_null(eos))
		return;
	c->n_eos = 0;
	memset(c->eos, 0, sizeof(c->eos));
	if (json_is_array(eos)) {
		read_eos_list(f, eos, c);
		return;
	}
	c->eos[0] = read_token(f, "eos_token_id", c->vocab, -1);
	c->n_eos = c->eos[0] >= 0;
	if (c->n_eos == 0)
		c->eos[0] = 0;
}

int config_json_parse(const json_t *config, const json_t *generation, struct model_config *ret,
	struct reason *reason)
{
	struct json_fields f = {.object = config, .name = "config.json", .reason = reason};
	struct json_fields g = {
		.object = generation, .name = "generation_config.json", .reason = reason};
	struct model_config c = {.bos = -1, .pad = -1};
	const struct family *family = read_family(&f);
	int r;

	if (!family)
		return f.error;
	check_architecture(&f, family);
	check_extensions(&f);
	check_activation(&f);
	check_dtype(&f);
	read_sizes(&f, family, &c);
	read_flags(&f, &c);
	read_window(&f, &c);
	read_rope(&f, &c);
	read_tokens(&f, &c);
	if (f.error)
		return f.error;
	read_tokens(&g, &c);
	if (g.error)
		return g.error;
	r = model_config_check(&c, reason);
	if (r < 0)
		return reason_prefix(reason, r, "config.json");
	*ret = c;
	return 0;
}

static int load_json(const char *folder, const char *name, json_t **ret, struct reason *reason)
{
	static const struct json_limits limits = {MAX_FILE_BYTES, MAX_DEPTH, MAX_VALUES, 0};

	return json_object_load(folder, name, &limits, ret, reason);
}

int config_json_load(const char *folder, struct model_config *ret, struct reason *reason)
{
	_cleanup_(json_freep) json_t *config = NULL, *generation = NULL;
	struct reason absent;
	int r;

	r = load_json(folder, "config.json", &config, reason);
	if (r < 0)
		return r;
	r = load_json(folder, "generation_config.json", &generation, &absent);
	if (r < 0 && r != -ENOENT)
		return reason_set(reason, r, "%s", absent.text);
	r = config_json_parse(config, generation, ret, reason);
	return r < 0 ? reason_prefix(reason, r, "%s", folder) : 0;
}
