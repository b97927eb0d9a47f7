/*
 * adapter_config.json of a LoRA adapter: the rank and the scale of each module.
 */
#pragma once

#include "common/reason.h"

#include <jansson.h>

struct adapter_config;

/* -EBADMSG; -EOPNOTSUPP names what is not implemented. */
int adapter_config_parse(const json_t *json, struct adapter_config **ret, struct reason *reason)
	_must_check_;
/* The file of that name in a folder. */
int adapter_config_load(const char *folder, struct adapter_config **ret, struct reason *reason)
	_must_check_;
struct adapter_config *adapter_config_free(struct adapter_config *c);

static inline void adapter_configp(struct adapter_config **c)
{
	adapter_config_free(*c);
}

/* Rank and scale of a module: "model.layers.0.self_attn.q_proj". -EOPNOTSUPP: a pattern that takes
 * too long to match. */
int adapter_config_module(const struct adapter_config *c, const char *module, uint32_t *ret_rank,
	double *ret_scale, struct reason *reason) _must_check_;
