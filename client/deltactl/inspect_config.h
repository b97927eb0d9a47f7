/*
 * A model's config as a JSON object: what the model has and nothing that it has not.
 */
#pragma once

#include "store/format.h"

#include <jansson.h>

json_t *inspect_config(const struct model_config *c);
