/*
 * config.json, then after a zero byte generation_config.json. What is accepted must be a config
 * that base images may hold.
 */
#include "foreign/config_json.h"
#include "foreign/json.h"
#include "store/base.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const struct json_limits limits = {1u << 20, 32, 1u << 16, 0};
	const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
	size_t n_config = zero ? (size_t)(zero - data) : n;
	_cleanup_(json_freep) json_t *config = NULL, *generation = NULL;
	struct model_config result;
	struct reason reason = {0};

	if (json_object_parse((const char *)data, n_config, &limits, &config, &reason) < 0)
		return 0;
	if (zero && json_object_parse((const char *)zero + 1, n - n_config - 1, &limits,
			    &generation, &reason) < 0)
		return 0;
	if (config_json_parse(config, generation, &result, &reason) < 0) {
		if (!reason.text[0])
			abort();
		return 0;
	}
	if (model_config_check(&result, &reason) < 0)
		abort();
	return 0;
}
