/*
 * Invariant after checkpoint_open(): every role that the config asks for has a tensor of the right
 * shape in a type that we read, and there is no tensor that the model would not use.
 */
#include "foreign/checkpoint.h"

#include "common/progress.h"
#include "foreign/adapted.h"
#include "foreign/config_json.h"
#include "foreign/safetensors_numbers.h"
#include "kernels/convert.h"
#include "store/base.h"
#include "store/model_digest.h"

#include <stdio.h>
#include <string.h>

#define CHUNK_BYTES 65536u

struct checkpoint {
	char *folder;
	struct model_config config;
	struct safetensors *tensors;
	/* Of an adapted one, which has no tensors of its own; else NULL. */
	struct checkpoint *base;
	struct adapter *adapter;
};

static inline void checkpoint_freep(struct checkpoint **c)
{
	checkpoint_free(*c);
}

/* Names as every family has them; those of a block stand under model.layers.N. */
static const struct {
	bool in_block;
	const char *name;
} names[N_ROLES] = {
	[ROLE_EMBED] = {false, "model.embed_tokens.weight"},
	[ROLE_ATTN_NORM] = {true, "input_layernorm.weight"},
	[ROLE_Q] = {true, "self_attn.q_proj.weight"},
	[ROLE_K] = {true, "self_attn.k_proj.weight"},
	[ROLE_V] = {true, "self_attn.v_proj.weight"},
	[ROLE_Q_BIAS] = {true, "self_attn.q_proj.bias"},
	[ROLE_K_BIAS] = {true, "self_attn.k_proj.bias"},
	[ROLE_V_BIAS] = {true, "self_attn.v_proj.bias"},
	[ROLE_Q_NORM] = {true, "self_attn.q_norm.weight"},
	[ROLE_K_NORM] = {true, "self_attn.k_norm.weight"},
	[ROLE_O] = {true, "self_attn.o_proj.weight"},
	[ROLE_O_BIAS] = {true, "self_attn.o_proj.bias"},
	[ROLE_FFN_NORM] = {true, "post_attention_layernorm.weight"},
	[ROLE_GATE] = {true, "mlp.gate_proj.weight"},
	[ROLE_UP] = {true, "mlp.up_proj.weight"},
	[ROLE_GATE_BIAS] = {true, "mlp.gate_proj.bias"},
	[ROLE_UP_BIAS] = {true, "mlp.up_proj.bias"},
	[ROLE_DOWN] = {true, "mlp.down_proj.weight"},
	[ROLE_DOWN_BIAS] = {true, "mlp.down_proj.bias"},
	[ROLE_FINAL_NORM] = {false, "model.norm.weight"},
	[ROLE_HEAD] = {false, "lm_head.weight"},
};

/* Phi-3 stacks the rows of q, k and v in one tensor, those of gate and up in another. */
static void place_fused(const struct model_config *c, enum tensor_role role, uint32_t layer,
	struct checkpoint_place *p)
{
	uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
	const char *name = "self_attn.qkv_proj.weight";

	p->tensor_rows = (uint64_t)q + 2 * (uint64_t)kv;
	if (role == ROLE_K)
		p->first_row = q;
	else if (role == ROLE_V)
		p->first_row = q + kv;
	if (role == ROLE_GATE || role == ROLE_UP) {
		name = "mlp.gate_up_proj.weight";
		p->tensor_rows = 2 * (uint64_t)c->ffn;
		p->first_row = role == ROLE_UP ? c->ffn : 0;
	}
	snprintf(p->name, sizeof(p->name), "model.layers.%u.%s", layer, name);
}

static bool is_fused(const struct model_config *c, enum tensor_role role)
{
	return c->family == MODEL_FAMILY_PHI3 &&
	       (role == ROLE_Q || role == ROLE_K || role == ROLE_V || role == ROLE_GATE ||
		       role == ROLE_UP);
}

bool checkpoint_place(const struct model_config *c, enum tensor_role role, uint32_t layer,
	struct checkpoint_place *p)
{
	*p = (struct checkpoint_place){0};
	if (!model_config_shape(c, role, layer, &p->rows, &p->cols))
		return false;
	p->tensor_rows = p->rows;
	if (is_fused(c, role))
		place_fused(c, role, layer, p);
	else if (names[role].in_block)
		snprintf(p->name, sizeof(p->name), "model.layers.%u.%s", layer, names[role].name);
	else
		snprintf(p->name, sizeof(p->name), "%s", names[role].name);
	return true;
}

static int check_tensor(const struct checkpoint_place *p, bool vector,
	const struct safetensors_tensor *t, struct reason *reason)
{
	char shape[192];
	uint32_t n_dims = vector ? 1 : 2;

	if (!t)
		return reason_set(reason, -EBADMSG, "tensor '%s' is missing", p->name);
	if (t->n_dims != n_dims || t->shape[0] != p->tensor_rows ||
		(!vector && t->shape[1] != p->cols)) {
		safetensors_shape_text(t, shape);
		if (vector)
			return reason_set(reason, -EBADMSG,
				"tensor '%s': shape %s, expected [%llu]", p->name, shape,
				(unsigned long long)p->tensor_rows);
		return reason_set(reason, -EBADMSG, "tensor '%s': shape %s, expected [%llu, %u]",
			p->name, shape, (unsigned long long)p->tensor_rows, p->cols);
	}
	if (!safetensors_has_numbers(t))
		return reason_set(reason, -EOPNOTSUPP,
			"tensor '%s': dtype %s is not implemented (BF16, F16 and F32 are)", p->name,
			safetensors_dtype_name(t->dtype));
	return 0;
}

/* Checks every role and marks the tensors that they use. */
static int check_roles(const struct checkpoint *c, bool *ret_used, struct reason *reason)
{
	const struct safetensors_tensor *t;
	struct checkpoint_place place;
	int r;

	for (uint32_t layer = 0; layer < c->config.n_layers; layer++)
		for (int role = 0; role < N_ROLES; role++) {
			if (!checkpoint_place(&c->config, (enum tensor_role)role, layer, &place))
				continue;
			t = safetensors_find(c->tensors, place.name);
			r = check_tensor(
				&place, tensor_role_is_vector((enum tensor_role)role), t, reason);
			if (r < 0)
				return r;
			ret_used[t - safetensors_at(c->tensors, 0)] = true;
		}
	return 0;
}

/* Some writers store the head although it is tied. It must then be the embedding, byte for byte. */
static int check_tied_head(
	const struct checkpoint *c, const struct safetensors_tensor *head, struct reason *reason)
{
	const struct safetensors_tensor *embed =
		safetensors_find(c->tensors, names[ROLE_EMBED].name);
	_cleanup_(freep) uint8_t *a = malloc(CHUNK_BYTES), *b = malloc(CHUNK_BYTES);
	bool equal = head->dtype == embed->dtype && head->bytes == embed->bytes;
	int r;

	if (!a || !b)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (uint64_t at = 0; equal && at < head->bytes; at += CHUNK_BYTES) {
		size_t n = (size_t)min_u64(CHUNK_BYTES, head->bytes - at);

		r = safetensors_read(c->tensors, head, at, a, n, reason);
		if (r == 0)
			r = safetensors_read(c->tensors, embed, at, b, n, reason);
		if (r < 0)
			return r;
		equal = memcmp(a, b, n) == 0;
	}
	if (!equal)
		return reason_set(reason, -EBADMSG,
			"lm_head.weight differs from the embedding though tie_word_embeddings is "
			"true");
	return 0;
}

/* Rotation frequencies that old writers stored; the config gives the same numbers. */
static bool is_ignored(const char *name)
{
	static const char suffix[] = ".rotary_emb.inv_freq";
	size_t n = strlen(name);

	return n >= sizeof(suffix) && strcmp(name + n - strlen(suffix), suffix) == 0;
}

static int check_unused(const struct checkpoint *c, const bool *used, struct reason *reason)
{
	int r;

	for (size_t i = 0; i < safetensors_n_tensors(c->tensors); i++) {
		const struct safetensors_tensor *t = safetensors_at(c->tensors, i);

		if (used[i] || is_ignored(t->name))
			continue;
		if (strcmp(t->name, names[ROLE_HEAD].name) != 0)
			return reason_set(reason, -EOPNOTSUPP,
				"tensor '%.128s' is not part of this architecture", t->name);
		r = check_tied_head(c, t, reason);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_tensors(const struct checkpoint *c, struct reason *reason)
{
	_cleanup_(freep) bool *used = calloc(safetensors_n_tensors(c->tensors) + 1, sizeof(*used));
	int r;

	if (!used)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = check_roles(c, used, reason);
	if (r == 0)
		r = check_unused(c, used, reason);
	return r < 0 ? reason_prefix(reason, r, "%s", c->folder) : 0;
}

int checkpoint_open(const char *folder, struct checkpoint **ret, struct reason *reason)
{
	_cleanup_(checkpoint_freep) struct checkpoint *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return reason_set(reason, -ENOMEM, "out of memory");
	c->folder = strdup(folder);
	if (!c->folder)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = config_json_load(folder, &c->config, reason);
	if (r == 0)
		r = safetensors_open_folder(folder, &c->tensors, reason);
	if (r == 0)
		r = check_tensors(c, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(c);
	return 0;
}

int checkpoint_open_adapted(const char *base_folder, const char *adapter_folder,
	struct checkpoint **ret, struct reason *reason)
{
	_cleanup_(checkpoint_freep) struct checkpoint *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return reason_set(reason, -ENOMEM, "out of memory");
	c->folder = strdup(adapter_folder);
	if (!c->folder)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = checkpoint_open(base_folder, &c->base, reason);
	if (r == 0)
		r = adapter_open(adapter_folder, &c->base->config, &c->adapter, reason);
	if (r < 0)
		return r;
	c->config = *adapter_config(c->adapter);
	*ret = take_ptr(c);
	return 0;
}

struct checkpoint *checkpoint_free(struct checkpoint *c)
{
	if (!c)
		return NULL;
	checkpoint_free(c->base);
	adapter_free(c->adapter);
	safetensors_free(c->tensors);
	free(c->folder);
	free(c);
	return NULL;
}

const char *checkpoint_folder(const struct checkpoint *c)
{
	return c->folder;
}

const struct model_config *checkpoint_config(const struct checkpoint *c)
{
	return &c->config;
}

const struct adapter *checkpoint_adapter(const struct checkpoint *c)
{
	return c->adapter;
}

const struct safetensors *checkpoint_tensors(const struct checkpoint *c)
{
	return c->base ? checkpoint_tensors(c->base) : c->tensors;
}

bool checkpoint_part(const struct checkpoint *c, enum tensor_role role, uint32_t layer,
	struct checkpoint_part *ret)
{
	struct checkpoint_place place;

	if (c->base)
		return checkpoint_part(c->base, role, layer, ret);
	if (!checkpoint_place(&c->config, role, layer, &place))
		return false;
	*ret = (struct checkpoint_part){
		.tensor = safetensors_find(c->tensors, place.name),
		.first_row = place.first_row,
		.rows = place.rows,
		.cols = place.cols,
	};
	return true;
}

/* Where numbers go as they are read: one of the two. */
struct sink {
	float *floats;
	uint16_t *halves;
	uint64_t n_inexact;
};

static int read_part(const struct checkpoint *c, const struct checkpoint_part *part,
	struct sink *sink, struct reason *reason)
{
	uint64_t n = (uint64_t)part->rows * part->cols;
	uint64_t first = (uint64_t)part->first_row * part->cols;
	int r;

	r = sink->floats ? safetensors_read_f32(
				   c->tensors, part->tensor, first, sink->floats, (size_t)n, reason)
			 : safetensors_read_bf16(c->tensors, part->tensor, first, sink->halves,
				   (size_t)n, &sink->n_inexact, reason);
	return r < 0 ? reason_prefix(reason, r, "%s", c->folder) : 0;
}

/* All numbers at once. */
static void sink_put(struct sink *sink, const float *values, size_t n)
{
	if (sink->floats)
		memcpy(sink->floats, values, n * sizeof(*values));
	else
		sink->n_inexact = numbers_to_bf16(sink->halves, values, n);
}

static int read_adapted(const struct checkpoint *c, enum tensor_role role, uint32_t layer,
	struct sink *sink, struct reason *reason)
{
	_cleanup_(freep) float *values = NULL;
	size_t n;
	int r;

	r = adapted_read(c->base, c->adapter, role, layer, &values, &n, reason);
	if (r < 0)
		return r;
	sink_put(sink, values, n);
	return 0;
}

static int read_role(const struct checkpoint *c, enum tensor_role role, uint32_t layer,
	struct sink *sink, struct reason *reason)
{
	struct checkpoint_part part;

	if (c->adapter)
		return read_adapted(c, role, layer, sink, reason);
	if (!checkpoint_part(c, role, layer, &part))
		return reason_set(reason, -EINVAL, "%s: the model has no %s in layer %u", c->folder,
			tensor_role_name(role), layer);
	return read_part(c, &part, sink, reason);
}

int checkpoint_read_f32(struct checkpoint *c, enum tensor_role role, uint32_t layer, float *ret,
	struct reason *reason)
{
	struct sink sink = {.floats = ret};

	return read_role(c, role, layer, &sink, reason);
}

int checkpoint_read_bf16(struct checkpoint *c, enum tensor_role role, uint32_t layer, uint16_t *ret,
	uint64_t *ret_inexact, struct reason *reason)
{
	struct sink sink = {.halves = ret};
	int r = read_role(c, role, layer, &sink, reason);

	if (r < 0)
		return r;
	if (ret_inexact)
		*ret_inexact = sink.n_inexact;
	return 0;
}

static int digest_role(struct checkpoint *c, enum tensor_role role, uint32_t layer,
	struct model_digest *digest, struct reason *reason)
{
	_cleanup_(freep) void *values = NULL;
	bool vector = tensor_role_is_vector(role);
	uint32_t rows, cols;
	size_t n_bytes;
	int r;

	if (!model_config_shape(&c->config, role, layer, &rows, &cols))
		return 0;
	n_bytes = (size_t)rows * cols * (vector ? sizeof(float) : sizeof(uint16_t));
	values = malloc(n_bytes);
	if (!values)
		return reason_set(reason, -ENOMEM, "%s: out of memory for %s of layer %u",
			c->folder, tensor_role_name(role), layer);
	if (vector)
		r = checkpoint_read_f32(c, role, layer, values, reason);
	else
		r = checkpoint_read_bf16(c, role, layer, values, NULL, reason);
	if (r < 0)
		return r;
	model_digest_add(digest, role, layer, rows, cols, values, n_bytes);
	return 0;
}

int checkpoint_digest(struct checkpoint *c, const struct progress *progress, struct digest *ret,
	struct reason *reason)
{
	_cleanup_(model_digestp) struct model_digest *digest = model_digest_new(&c->config);
	int r;

	if (!digest)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (uint32_t layer = 0; layer < c->config.n_layers; layer++) {
		for (int role = 0; role < N_ROLES; role++) {
			r = digest_role(c, (enum tensor_role)role, layer, digest, reason);
			if (r < 0)
				return r;
		}
		progress_update(progress, "digesting", layer + 1, c->config.n_layers);
	}
	*ret = model_digest_finish(take_ptr(digest));
	return 0;
}
