/*
 * config.json and generation_config.json of a Hugging Face folder as a struct model_config.
 * Keys of older and newer writers are understood; whatever would change the arithmetic in a way
 * that we do not implement is refused by name.
 */
#pragma once

#include "common/reason.h"
#include "store/format.h"

#include <jansson.h>

/* -EBADMSG: a key is missing, of the wrong type or out of range. -EOPNOTSUPP: an architecture,
 * activation, position encoding or weight format that is not implemented. `generation` may be NULL;
 * where it names token ids, they win. */
int config_json_parse(const json_t *config, const json_t *generation, struct model_config *ret,
	struct reason *reason) _must_check_;

/* From a folder; generation_config.json may be missing. */
int config_json_load(const char *folder, struct model_config *ret, struct reason *reason)
	_must_check_;

/* "llama", as model_type spells it; "unknown" for a number that is no family. */
const char *model_family_name(uint32_t family);
