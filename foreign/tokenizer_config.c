#include "foreign/tokenizer_config.h"

#include <math.h>

#define MAX_EXACT 9007199254740992.0 /* 2^53: below it every whole number is a double */

static bool is_whole(const json_t *value)
{
	double x = json_real_value(value);

	return json_is_real(value) && fabs(x) < MAX_EXACT && x == trunc(x);
}

/* Whole numbers that were read as reals are whole again where nothing was lost, at any depth, which
 * is limited. */
static int make_whole(json_t *values)
{
	const char *key;
	json_t *value;
	void *next;
	size_t i;
	int r;

	json_object_foreach_safe(values, next, key, value)
	{
		r = is_whole(value) ? json_object_set_new(values, key,
					      json_integer((json_int_t)json_real_value(value)))
				    : make_whole(value);
		if (r < 0)
			return -ENOMEM;
	}
	json_array_foreach(values, i, value)
	{
		r = is_whole(value) ? json_array_set_new(values, i,
					      json_integer((json_int_t)json_real_value(value)))
				    : make_whole(value);
		if (r < 0)
			return -ENOMEM;
	}
	return 0;
}

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
	_cleanup_(json_freep) json_t *config = NULL;
	int r = json_object_load(folder, "tokenizer_config.json", &limits, &config, &absent);

	if (r < 0 && r != -ENOENT)
		return reason_set(reason, r, "%s", absent.text);
	r = make_whole(config);
	if (r == 0)
		*ret = take_ptr(config);
	return r;
}

const char *tokenizer_config_token(const json_t *config, const char *key)
{
	const json_t *value = json_object_get(config, key);

	return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}
