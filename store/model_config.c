#include "store/base.h"

#include <inttypes.h>
#include <math.h>

/* Wide enough for any model that exists, narrow enough that no product of sizes can overflow. */
#define MAX_WIDTH (1u << 20)
#define MAX_HEADS (1u << 12)
#define MAX_HEAD_DIM (1u << 12)
#define MAX_VOCAB (1u << 24)
#define MAX_POSITIONS (1u << 30)
#define ALL_FLAGS (MODEL_TIED_HEAD | MODEL_QKV_BIAS | MODEL_O_BIAS | MODEL_MLP_BIAS | MODEL_QK_NORM)

static int check_range(
	const char *field, uint32_t value, uint32_t least, uint32_t most, struct reason *reason)
{
	if (value >= least && value <= most)
		return 0;
	return reason_set(reason, -EBADMSG,
		"config: %s is %" PRIu32 ", expected %" PRIu32 " to %" PRIu32, field, value, least,
		most);
}

static int check_positive(const char *field, double value, struct reason *reason)
{
	if (isfinite(value) && value > 0)
		return 0;
	return reason_set(
		reason, -EBADMSG, "config: %s is %g, expected a positive number", field, value);
}

static int check_sizes(const struct model_config *c, struct reason *reason)
{
	const struct {
		const char *field;
		uint32_t value, least, most;
	} sizes[] = {
		{"n_layers", c->n_layers, 1, FORMAT_MAX_LAYERS},
		{"hidden", c->hidden, 1, MAX_WIDTH},
		{"ffn", c->ffn, 1, MAX_WIDTH},
		{"n_heads", c->n_heads, 1, MAX_HEADS},
		{"n_kv_heads", c->n_kv_heads, 1, c->n_heads},
		{"head_dim", c->head_dim, 2, MAX_HEAD_DIM},
		{"vocab", c->vocab, 1, MAX_VOCAB},
		{"max_positions", c->max_positions, 1, MAX_POSITIONS},
		{"sliding_window", c->sliding_window, 0, MAX_POSITIONS},
		{"first_window_layer", c->first_window_layer, 0, c->n_layers},
		{"n_eos", c->n_eos, 0, FORMAT_MAX_EOS},
	};

	for (size_t i = 0; i < array_len(sizes); i++) {
		int r = check_range(
			sizes[i].field, sizes[i].value, sizes[i].least, sizes[i].most, reason);

		if (r < 0)
			return r;
	}
	if (c->n_heads % c->n_kv_heads != 0)
		return reason_set(reason, -EBADMSG,
			"config: n_heads %" PRIu32 " is not a multiple of n_kv_heads %" PRIu32,
			c->n_heads, c->n_kv_heads);
	if (c->head_dim % 2 != 0)
		return reason_set(reason, -EBADMSG,
			"config: head_dim is %" PRIu32 ", expected an even number", c->head_dim);
	return 0;
}

static int check_kinds(const struct model_config *c, struct reason *reason)
{
	if (c->family < MODEL_FAMILY_LLAMA || c->family > MODEL_FAMILY_PHI3)
		return reason_set(
			reason, -EOPNOTSUPP, "config: unknown model family %" PRIu32, c->family);
	if (c->flags & ~(uint32_t)ALL_FLAGS)
		return reason_set(reason, -EOPNOTSUPP, "config: unknown flags %#" PRIx32,
			c->flags & ~(uint32_t)ALL_FLAGS);
	if (c->rope_kind > ROPE_KIND_YARN)
		return reason_set(
			reason, -EOPNOTSUPP, "config: unknown rope_kind %" PRIu32, c->rope_kind);
	return 0;
}

static int check_llama3_rope(const struct model_config *c, struct reason *reason)
{
	int r = check_positive("rope_low_freq_factor", c->rope_low_freq_factor, reason);

	if (r < 0)
		return r;
	if (!isfinite(c->rope_high_freq_factor) ||
		c->rope_high_freq_factor <= c->rope_low_freq_factor)
		return reason_set(reason, -EBADMSG,
			"config: rope_high_freq_factor is %g, expected more than "
			"rope_low_freq_factor %g",
			(double)c->rope_high_freq_factor, (double)c->rope_low_freq_factor);
	return 0;
}

static int check_yarn_rope(const struct model_config *c, struct reason *reason)
{
	int r = check_positive("rope_beta_slow", c->rope_beta_slow, reason);

	if (r < 0)
		return r;
	if (!isfinite(c->rope_beta_fast) || c->rope_beta_fast <= c->rope_beta_slow)
		return reason_set(reason, -EBADMSG,
			"config: rope_beta_fast is %g, expected more than rope_beta_slow %g",
			(double)c->rope_beta_fast, (double)c->rope_beta_slow);
	return 0;
}

static int check_rope(const struct model_config *c, struct reason *reason)
{
	enum rope_kind kind = (enum rope_kind)c->rope_kind;
	int r = check_positive("rope_theta", c->rope_theta, reason);

	if (r == 0)
		r = check_positive("rope_attention_factor", c->rope_attention_factor, reason);
	if (r == 0 && kind != ROPE_KIND_DEFAULT)
		r = check_positive("rope_factor", c->rope_factor, reason);
	if (r == 0 && (kind == ROPE_KIND_LLAMA3 || kind == ROPE_KIND_YARN))
		r = check_range("rope_original_positions", c->rope_original_positions, 1,
			MAX_POSITIONS, reason);
	if (r < 0)
		return r;
	switch (kind) {
	case ROPE_KIND_DEFAULT:
	case ROPE_KIND_LINEAR:
		return 0;
	case ROPE_KIND_LLAMA3:
		return check_llama3_rope(c, reason);
	case ROPE_KIND_YARN:
		return check_yarn_rope(c, reason);
	}
	return 0;
}

static int check_token(
	const char *field, int32_t id, int32_t least, uint32_t vocab, struct reason *reason)
{
	if (id >= least && id < (int32_t)vocab)
		return 0;
	return reason_set(reason, -EBADMSG,
		"config: %s is token %" PRId32 ", expected %" PRId32 " to %" PRIu32, field, id,
		least, vocab - 1);
}

static int check_tokens(const struct model_config *c, struct reason *reason)
{
	int r = check_token("bos", c->bos, -1, c->vocab, reason);

	if (r == 0)
		r = check_token("pad", c->pad, -1, c->vocab, reason);
	for (uint32_t i = 0; r == 0 && i < c->n_eos; i++)
		r = check_token("eos", c->eos[i], 0, c->vocab, reason);
	return r;
}

int model_config_check(const struct model_config *c, struct reason *reason)
{
	int r = check_kinds(c, reason);

	if (r == 0)
		r = check_sizes(c, reason);
	if (r == 0)
		r = check_rope(c, reason);
	if (r == 0)
		r = check_positive("norm_eps", c->norm_eps, reason);
	if (r == 0)
		r = check_tokens(c, reason);
	return r;
}

/* Does the model have a tensor of that role in that layer? */
static bool has_tensor(const struct model_config *c, enum tensor_role role, uint32_t layer)
{
	if (layer >= c->n_layers)
		return false;
	switch (role) {
	case ROLE_EMBED:
		return layer == 0;
	case ROLE_FINAL_NORM:
		return layer == c->n_layers - 1;
	case ROLE_HEAD:
		return layer == c->n_layers - 1 && !(c->flags & MODEL_TIED_HEAD);
	case ROLE_Q_BIAS:
	case ROLE_K_BIAS:
	case ROLE_V_BIAS:
		return c->flags & MODEL_QKV_BIAS;
	case ROLE_O_BIAS:
		return c->flags & MODEL_O_BIAS;
	case ROLE_GATE_BIAS:
	case ROLE_UP_BIAS:
	case ROLE_DOWN_BIAS:
		return c->flags & MODEL_MLP_BIAS;
	case ROLE_Q_NORM:
	case ROLE_K_NORM:
		return c->flags & MODEL_QK_NORM;
	case ROLE_ATTN_NORM:
	case ROLE_Q:
	case ROLE_K:
	case ROLE_V:
	case ROLE_O:
	case ROLE_FFN_NORM:
	case ROLE_GATE:
	case ROLE_UP:
	case ROLE_DOWN:
		return true;
	case N_ROLES:
		break;
	}
	return false;
}

static uint32_t role_rows(const struct model_config *c, enum tensor_role role)
{
	switch (role) {
	case ROLE_EMBED:
	case ROLE_HEAD:
		return c->vocab;
	case ROLE_Q:
	case ROLE_Q_BIAS:
		return c->n_heads * c->head_dim;
	case ROLE_K:
	case ROLE_V:
	case ROLE_K_BIAS:
	case ROLE_V_BIAS:
		return c->n_kv_heads * c->head_dim;
	case ROLE_Q_NORM:
	case ROLE_K_NORM:
		return c->head_dim;
	case ROLE_GATE:
	case ROLE_UP:
	case ROLE_GATE_BIAS:
	case ROLE_UP_BIAS:
		return c->ffn;
	case ROLE_ATTN_NORM:
	case ROLE_FFN_NORM:
	case ROLE_FINAL_NORM:
	case ROLE_O:
	case ROLE_O_BIAS:
	case ROLE_DOWN:
	case ROLE_DOWN_BIAS:
		return c->hidden;
	case N_ROLES:
		break;
	}
	return 0;
}

bool model_config_shape(const struct model_config *c, enum tensor_role role, uint32_t layer,
	uint32_t *ret_rows, uint32_t *ret_cols)
{
	if (!has_tensor(c, role, layer))
		return false;
	*ret_rows = role_rows(c, role);
	if (tensor_role_is_vector(role))
		*ret_cols = 1;
	else if (role == ROLE_O)
		*ret_cols = c->n_heads * c->head_dim;
	else if (role == ROLE_DOWN)
		*ret_cols = c->ffn;
	else
		*ret_cols = c->hidden;
	return true;
}

const char *tensor_role_name(enum tensor_role role)
{
	static const char *const names[N_ROLES] = {
		[ROLE_EMBED] = "embed",
		[ROLE_ATTN_NORM] = "attn_norm",
		[ROLE_Q] = "q",
		[ROLE_K] = "k",
		[ROLE_V] = "v",
		[ROLE_Q_BIAS] = "q_bias",
		[ROLE_K_BIAS] = "k_bias",
		[ROLE_V_BIAS] = "v_bias",
		[ROLE_Q_NORM] = "q_norm",
		[ROLE_K_NORM] = "k_norm",
		[ROLE_O] = "o",
		[ROLE_O_BIAS] = "o_bias",
		[ROLE_FFN_NORM] = "ffn_norm",
		[ROLE_GATE] = "gate",
		[ROLE_UP] = "up",
		[ROLE_GATE_BIAS] = "gate_bias",
		[ROLE_UP_BIAS] = "up_bias",
		[ROLE_DOWN] = "down",
		[ROLE_DOWN_BIAS] = "down_bias",
		[ROLE_FINAL_NORM] = "final_norm",
		[ROLE_HEAD] = "head",
	};

	return (uint32_t)role < N_ROLES ? names[role] : "unknown";
}

bool tensor_role_is_projection(enum tensor_role role)
{
	switch (role) {
	case ROLE_Q:
	case ROLE_K:
	case ROLE_V:
	case ROLE_O:
	case ROLE_GATE:
	case ROLE_UP:
	case ROLE_DOWN:
		return true;
	case ROLE_EMBED:
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
	case ROLE_HEAD:
	case N_ROLES:
		break;
	}
	return false;
}

bool tensor_role_is_vector(enum tensor_role role)
{
	return (uint32_t)role < N_ROLES && role != ROLE_EMBED && role != ROLE_HEAD &&
	       !tensor_role_is_projection(role);
}

/* clang-format off */
#define FIELD(name) {#name, (double)tuned->name, (double)base->name}
#define FLAG(flag, words) {words, (tuned->flags & (flag)) != 0, (base->flags & (flag)) != 0}
/* clang-format on */

int model_config_fits(
	const struct model_config *tuned, const struct model_config *base, struct reason *reason)
{
	const struct {
		const char *name;
		double tuned, base;
	} fields[] = {
		FIELD(family),
		FLAG(MODEL_TIED_HEAD, "tied head"),
		FLAG(MODEL_QKV_BIAS, "bias of q, k and v"),
		FLAG(MODEL_O_BIAS, "bias of o"),
		FLAG(MODEL_MLP_BIAS, "bias of the MLP"),
		FLAG(MODEL_QK_NORM, "norm of q and k"),
		FIELD(n_layers),
		FIELD(hidden),
		FIELD(ffn),
		FIELD(n_heads),
		FIELD(n_kv_heads),
		FIELD(head_dim),
		FIELD(sliding_window),
		FIELD(first_window_layer),
		FIELD(rope_kind),
		FIELD(rope_original_positions),
		FIELD(rope_theta),
		FIELD(rope_factor),
		FIELD(rope_low_freq_factor),
		FIELD(rope_high_freq_factor),
		FIELD(rope_beta_fast),
		FIELD(rope_beta_slow),
		FIELD(rope_attention_factor),
		FIELD(norm_eps),
	};

	for (size_t i = 0; i < array_len(fields); i++)
		if (fields[i].tuned != fields[i].base)
			return reason_set(reason, -EMEDIUMTYPE,
				"config: %s is %.9g, the base has %.9g", fields[i].name,
				fields[i].tuned, fields[i].base);
	if (tuned->vocab < base->vocab)
		return reason_set(reason, -EMEDIUMTYPE,
			"config: vocabulary of %" PRIu32 ", the base has %" PRIu32
			" and it can only grow",
			tuned->vocab, base->vocab);
	return 0;
}
