/*
 * A tokenizer.json being compiled: what it says, in the terms of engine/tokenizer_tables.h.
 */
#pragma once

#include "common/reason.h"
#include "engine/buffer.h"
#include "engine/tokenizer_tables.h"

#include <jansson.h>

/* Offsets of strings count in `strings` here; the tokens go before them in the section. */
struct tokenizer_steps {
	struct tokenizer_step items[TOKENIZER_MAX_STEPS];
	uint32_t n;
};

struct tokenizer_source {
	json_t *json;   /* owned */
	json_t *config; /* tokenizer_config.json, or NULL; owned */
	uint32_t flags;
	uint32_t unk;
	const char **tokens; /* by id, NULL where an id has none; borrowed from json; owned array */
	uint32_t n_tokens;
	struct tokenizer_merge *merges;
	uint32_t n_merges;
	struct tokenizer_added *added; /* ascending by id */
	uint32_t n_added;
	struct tokenizer_steps normalizers, pretokenizers, decoders;
	struct id_list prefix, suffix;
	struct text strings;
};

/* How the file calls the flags of an added token. */
struct tokenizer_added_key {
	const char *key;
	uint32_t flag;
};
extern const struct tokenizer_added_key tokenizer_added_keys[5];

/* Reads a folder's tokenizer.json and, if there is one, tokenizer_config.json. -ENOENT without the
 * former. Half-done sources are to be given to source_done(), too. */
int source_open(struct tokenizer_source *s, const char *folder, struct reason *reason) _must_check_;
void source_done(struct tokenizer_source *s);

/* The object of a folder's tokenizer.json. -ENOENT if it has none. */
int tokenizer_json_load(const char *folder, json_t **ret, struct reason *reason) _must_check_;

/* Appends a string to `strings`. */
int source_string(struct tokenizer_source *s, const char *string, size_t n,
	struct tokenizer_text *ret) _must_check_;

/* These fill one list each from their part of the file (NULL or JSON null: nothing is done).
 * -EOPNOTSUPP names what is not implemented. foreign/tokenizer_steps.c. */
int source_read_normalizer(struct tokenizer_source *s, const json_t *j, struct reason *reason)
	_must_check_;
int source_read_pretokenizer(struct tokenizer_source *s, const json_t *j, struct reason *reason)
	_must_check_;
int source_read_decoder(struct tokenizer_source *s, const json_t *j, struct reason *reason)
	_must_check_;
int source_read_postprocessor(struct tokenizer_source *s, const json_t *j, struct reason *reason)
	_must_check_;
