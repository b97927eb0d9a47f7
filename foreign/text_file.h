/*
 * Small files of a model folder, read whole.
 */
#pragma once

#include "common/reason.h"

#include <jansson.h>

/* A file of the folder as a malloc'ed text of *ret_n bytes. -ENOENT if there is none, -EOPNOTSUPP
 * if it is not a plain file of at most max_bytes. */
int file_load_text(const char *folder, const char *name, long long max_bytes, char **ret,
	size_t *ret_n, struct reason *reason) _must_check_;

/* A JSON object; duplicate keys are -EBADMSG. `flags` are further ones of jansson's. */
int json_file_load(const char *folder, const char *name, size_t flags, json_t **ret,
	struct reason *reason) _must_check_;

/* A token named in tokenizer_config.json, which is a string or an object around one; borrowed, NULL
 * if it is not there. `config` may be NULL. */
const char *json_config_token(const json_t *config, const char *key);
