/*
 * tokenizer_config.json: what a model folder says of its tokenizer beside the tables.
 */
#pragma once

#include "foreign/json.h"

/* NULL if there is no such file. Whole numbers of more than 53 bits are reals. */
int tokenizer_config_load(const char *folder, json_t **ret, struct reason *reason) _must_check_;

/* A token that the configuration names, which is a string or an object around one; borrowed, NULL
 * if it is not there. `config` may be NULL. */
const char *tokenizer_config_token(const json_t *config, const char *key);

/* chat_format_compile() of a folder whose tokenizer_config.json says this (NULL: there is none). */
int chat_format_configured(const char *folder, const json_t *config, uint8_t **ret, size_t *ret_n,
	struct reason *reason) _must_check_;
