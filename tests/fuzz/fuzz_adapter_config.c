/*
 * adapter_config.json. What is accepted gives a module a rank and a scale, or says why not.
 */
#include "foreign/adapter_config.h"
#include "foreign/json.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void ask(const struct adapter_config *c, const char *module)
{
	struct reason reason = {0};
	uint32_t rank = 0;
	double scale = NAN;

	if (adapter_config_module(c, module, &rank, &scale, &reason) < 0) {
		if (!reason.text[0])
			abort();
		return;
	}
	if (rank < 1 || !(scale >= 0) || !isfinite(scale))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const struct json_limits limits = {1u << 16, 16, 1u << 12, 0};
	_cleanup_(json_freep) json_t *json = NULL;
	_cleanup_(adapter_configp) struct adapter_config *config = NULL;
	struct reason reason = {0};

	if (json_object_parse((const char *)data, n, &limits, &json, &reason) < 0)
		return 0;
	if (adapter_config_parse(json, &config, &reason) < 0) {
		if (!reason.text[0])
			abort();
		return 0;
	}
	ask(config, "model.layers.0.self_attn.q_proj");
	ask(config, "lm_head");
	return 0;
}
