/*
 * A tokenizer.json that gets tokens: what a delta's TOKENIZER section says, in the words of the
 * Hugging Face files.
 */
#pragma once

#include "common/reason.h"

#include <jansson.h>

/* Adds the section's tokens to the object of a tokenizer.json, in place of those with the same id.
 * *ret_tokens: new, the tokens as such a file lists them, ascending by id. -EBADMSG if the section
 * is broken. */
int tokenizer_edit_add(json_t *tokenizer, const uint8_t *section, uint64_t n, json_t **ret_tokens,
	struct reason *reason) _must_check_;

/* The spelling of an id, borrowed from the object of a tokenizer.json; NULL if it has none. */
const char *tokenizer_edit_spelling(const json_t *tokenizer, int64_t id);

/* Lists the tokens also in tokenizer_config.json, where that lists tokens. */
int tokenizer_edit_list(json_t *config, const json_t *tokens) _must_check_;

/* Names a token, "eos_token", in tokenizer_config.json or special_tokens_map.json: a string, or an
 * object around one if there is such an object. */
int tokenizer_edit_name(json_t *config, const char *key, const char *token) _must_check_;
