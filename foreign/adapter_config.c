#include "foreign/adapter_config.h"

#define PCRE2_CODE_UNIT_WIDTH 8

#include "foreign/json.h"

#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

#define FILE_NAME "adapter_config.json"
#define MAX_PATTERNS 4096u
#define MAX_PATTERN_BYTES 1024u
#define MAX_RANK 65536
#define MATCH_LIMIT 100000u

static const struct json_limits limits = {
	.max_bytes = 4u << 20, .max_depth = 16, .max_values = 1u << 18};

struct pattern {
	pcre2_code *code;
	double value;
};

struct patterns {
	struct pattern *items;
	size_t n;
};

struct adapter_config {
	double rank, alpha;
	bool rs;
	struct patterns ranks, alphas;
};

static void patterns_done(struct patterns *p)
{
	for (size_t i = 0; i < p->n; i++)
		pcre2_code_free(p->items[i].code);
	free(p->items);
}

struct adapter_config *adapter_config_free(struct adapter_config *c)
{
	if (!c)
		return NULL;
	patterns_done(&c->ranks);
	patterns_done(&c->alphas);
	free(c);
	return NULL;
}

/* The whole module name, or what follows a dot in it. */
static int compile_pattern(const char *key, pcre2_code **ret, struct reason *reason)
{
	char text[MAX_PATTERN_BYTES + 32];
	int error;
	PCRE2_SIZE at;

	if (strlen(key) > MAX_PATTERN_BYTES)
		return reason_set(reason, -EOPNOTSUPP, "a pattern is longer than %u bytes",
			MAX_PATTERN_BYTES);
	snprintf(text, sizeof(text), "^(?:.*\\.)?(?:%s)$", key);
	*ret = pcre2_compile(
		(PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_DOLLAR_ENDONLY, &error, &at, NULL);
	if (!*ret)
		return reason_set(reason, -EBADMSG, "'%s' is not a regular expression", key);
	return 0;
}

static int read_patterns(struct json_fields *f, const char *key, double most, struct patterns *ret)
{
	const json_t *object, *value;
	const char *name;

	if (!json_field_present(f, key))
		return 0;
	object = json_field_object(f, key);
	if (!object)
		return f->error;
	if (json_object_size(object) > MAX_PATTERNS) {
		json_fields_fail(f, -EOPNOTSUPP, "%s: more than %u patterns", key, MAX_PATTERNS);
		return f->error;
	}
	ret->items = calloc(json_object_size(object) + 1, sizeof(*ret->items));
	if (!ret->items)
		return -ENOMEM;
	json_object_foreach((json_t *)(uintptr_t)object, name, value)
	{
		struct json_fields item = {.object = object, .name = f->name, .reason = f->reason};
		struct pattern *p = &ret->items[ret->n];
		int r;

		p->value = json_field_real(&item, name, 0, most);
		if (item.error < 0)
			return item.error;
		r = compile_pattern(name, &p->code, f->reason);
		if (r < 0)
			return reason_prefix(f->reason, r, "%s: %s", f->name, key);
		ret->n++;
	}
	return 0;
}

static int refuse(struct json_fields *f, const char *what)
{
	json_fields_fail(f, -EOPNOTSUPP, "%s is not implemented", what);
	return f->error;
}

static bool has_content(const struct json_fields *f, const char *key)
{
	const json_t *value = json_object_get(f->object, key);

	return value && !json_is_null(value) && !json_is_false(value) &&
	       !(json_is_array(value) && json_array_size(value) == 0) &&
	       !(json_is_object(value) && json_object_size(value) == 0);
}

/* Most ways to begin leave the base as it is. Others take something out of it at first, and the
 * trained factors are right beside what remains only. */
static int check_beginning(struct json_fields *f)
{
	static const char *const known[] = {"gaussian", "eva", "orthogonal"};
	const json_t *value = json_object_get(f->object, "init_lora_weights");
	char what[128];

	if (!value || json_is_null(value) || json_is_boolean(value))
		return 0;
	for (size_t i = 0; json_is_string(value) && i < array_len(known); i++)
		if (strcmp(json_string_value(value), known[i]) == 0)
			return 0;
	snprintf(what, sizeof(what), "init_lora_weights '%.64s'",
		json_is_string(value) ? json_string_value(value) : "of an unknown type");
	return refuse(f, what);
}

/* Whatever changes the arithmetic and is not done here. */
static int check_kind(struct json_fields *f)
{
	static const char *const refused[] = {"use_dora", "fan_in_fan_out", "layer_replication",
		"lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens",
		"trainable_token_indices", "target_parameters", "arrow_config"};
	const char *kind = json_field_string(f, "peft_type");
	char what[128];

	if (!kind)
		return f->error;
	if (strcmp(kind, "LORA") != 0) {
		snprintf(what, sizeof(what), "adapter type '%.64s'", kind);
		return refuse(f, what);
	}
	for (size_t i = 0; i < array_len(refused); i++) {
		if (!has_content(f, refused[i]))
			continue;
		if (strcmp(refused[i], "use_dora") == 0)
			return refuse(f, "DoRA (use_dora)");
		return refuse(f, refused[i]);
	}
	return check_beginning(f);
}

static int read_config(struct json_fields *f, struct adapter_config *c)
{
	int r;

	r = check_kind(f);
	if (r < 0)
		return r;
	c->rank = (double)json_field_int(f, "r", 1, MAX_RANK);
	c->alpha = json_field_real(f, "lora_alpha", 0, 1e9);
	c->rs = json_field_bool_or(f, "use_rslora", false);
	if (f->error < 0)
		return f->error;
	r = read_patterns(f, "rank_pattern", MAX_RANK, &c->ranks);
	if (r == 0)
		r = read_patterns(f, "alpha_pattern", 1e9, &c->alphas);
	return r;
}

int adapter_config_parse(const json_t *json, struct adapter_config **ret, struct reason *reason)
{
	_cleanup_(adapter_configp) struct adapter_config *c = calloc(1, sizeof(*c));
	struct json_fields f = {.object = json, .name = FILE_NAME, .reason = reason};
	int r;

	if (!c)
		return -ENOMEM;
	r = read_config(&f, c);
	if (r < 0)
		return r;
	*ret = take_ptr(c);
	return 0;
}

int adapter_config_load(const char *folder, struct adapter_config **ret, struct reason *reason)
{
	_cleanup_(json_freep) json_t *json = NULL;
	int r = json_object_load(folder, FILE_NAME, &limits, &json, reason);

	return r < 0 ? r : adapter_config_parse(json, ret, reason);
}

/* The value of the first pattern that matches, or `otherwise`. */
static int find_value(const struct patterns *p, const char *module, double otherwise, double *ret,
	struct reason *reason)
{
	pcre2_match_context *context = pcre2_match_context_create(NULL);
	pcre2_match_data *match = pcre2_match_data_create(1, NULL);
	int r = context && match ? 0 : -ENOMEM;
	bool found = false;

	if (r == 0)
		pcre2_set_match_limit(context, MATCH_LIMIT);
	*ret = otherwise;
	for (size_t i = 0; r == 0 && !found && i < p->n; i++) {
		int n = pcre2_match(
			p->items[i].code, (PCRE2_SPTR)module, strlen(module), 0, 0, match, context);

		found = n >= 0;
		if (found)
			*ret = p->items[i].value;
		else if (n != PCRE2_ERROR_NOMATCH)
			r = reason_set(reason, -EOPNOTSUPP,
				"%s: a pattern takes too long to match '%s'", FILE_NAME, module);
	}
	pcre2_match_data_free(match);
	pcre2_match_context_free(context);
	return r;
}

int adapter_config_module(const struct adapter_config *c, const char *module, uint32_t *ret_rank,
	double *ret_scale, struct reason *reason)
{
	double rank, alpha;
	int r;

	r = find_value(&c->ranks, module, c->rank, &rank, reason);
	if (r == 0)
		r = find_value(&c->alphas, module, c->alpha, &alpha, reason);
	if (r < 0)
		return r;
	if (rank < 1 || rank != rint(rank))
		return reason_set(reason, -EBADMSG,
			"%s: the rank of '%s' is %g, expected a whole number from 1", FILE_NAME,
			module, rank);
	*ret_rank = (uint32_t)rank;
	*ret_scale = alpha / (c->rs ? sqrt(rank) : rank);
	return 0;
}
