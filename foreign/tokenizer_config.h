/*
 * tokenizer_config.json: what a model folder says of its tokenizer beside the tables.
 */
#pragma once

#include "foreign/json.h"

/* NULL if there is no such file. */
int tokenizer_config_load(const char *folder, json_t **ret, struct reason *reason) _must_check_;

/* A token that the configuration names, which is a string or an object around one; borrowed, NULL
 * if it is not there. `config` may be NULL. */
const char *tokenizer_config_token(const json_t *config, const char *key);
