#include "foreign/tokenizer_config.h"

int tokenizer_config_load(const char *folder, json_t **ret, struct reason *reason)
{
	/* Some configurations say "no limit" by an integer of a hundred bits. */
	static const struct json_limits limits = {
		.max_bytes = 64u << 20,
		.max_depth = 64,
		.max_values = 1u << 22,
		.flags = JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL,
	};
	struct reason absent = {0};
	json_t *config = NULL;
	int r = json_object_load(folder, "tokenizer_config.json", &limits, &config, &absent);

	if (r < 0 && r != -ENOENT)
		return reason_set(reason, r, "%s", absent.text);
	*ret = config;
	return 0;
}

const char *tokenizer_config_token(const json_t *config, const char *key)
{
	const json_t *value = json_object_get(config, key);

	return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}
