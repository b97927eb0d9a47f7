/*
 * The configuration: one table of keys (config.c) says for each its type, default, bounds, whether
 * it may change while the daemon runs, and what it is for. A struct config is checked whole before
 * anybody sees it, and never changes afterwards.
 */
#pragma once

#include "common/reason.h"

#include <stdio.h>

/* Sizes in bytes, durations in milliseconds; see deltad.yaml(5). */
struct config {
	char *store_folder;
	char *store_base;
	char *sockets_inference;
	uint64_t sockets_inference_mode;
	char *sockets_admin;
	uint64_t sockets_admin_mode;
	uint64_t memory_deltas;
	uint64_t memory_kv;
	uint64_t engine_threads;
	uint64_t engine_batch_rows;
	uint64_t engine_prompt_chunk;
	uint64_t engine_jobs;
	uint64_t engine_kv_type; /* enum kv_type */
	uint64_t limits_connections;
	uint64_t limits_connections_per_user;
	uint64_t limits_requests_per_user;
	uint64_t limits_queue_per_user;
	uint64_t queue_high;
	uint64_t queue_low;
	uint64_t queue_stall;
	uint64_t shutdown_drain;
	uint64_t log_level; /* enum log_level */
};

enum config_type {
	CONFIG_TYPE_PATH, /* absolute */
	CONFIG_TYPE_TEXT,
	CONFIG_TYPE_COUNT,
	CONFIG_TYPE_SIZE,     /* bytes, with KiB, MiB, GiB, TiB */
	CONFIG_TYPE_DURATION, /* with ms, s, min */
	CONFIG_TYPE_MODE,     /* octal */
	CONFIG_TYPE_WORD,     /* one of `words`; its index is the value */
};

struct config_key {
	const char *name; /* "section.key" */
	enum config_type type;
	size_t offset; /* in struct config: a char * or a uint64_t */
	const char *initial;
	uint64_t min, max;        /* numbers */
	const char *const *words; /* NULL-terminated */
	bool live;                /* a reload may change it */
};

extern const struct config_key config_keys[];
extern const size_t n_config_keys;

/* Every key at its default. */
int config_new(struct config **ret, struct reason *reason) _must_check_;
struct config *config_free(struct config *c);

/* Defaults, then the file on top; all checks. The reason names file and line. -EBADMSG for wrong
 * content, else the errno of reading. */
int config_read(const char *path, struct config **ret, struct reason *reason) _must_check_;

/* Sets one key from its text. -EBADMSG says what is wrong with it, with the nearest name for a key
 * that does not exist. */
int config_set(struct config *c, const char *name, const char *text, struct reason *reason)
	_must_check_;

/* Conditions between keys. */
int config_check(const struct config *c, struct reason *reason) _must_check_;

/* As YAML that reads back to the same configuration. */
void config_print(const struct config *c, FILE *out);

/* The first key, from *index on, whose values differ; NULL if none. Advances *index past it. */
const struct config_key *config_difference(
	const struct config *a, const struct config *b, size_t *index);

/* Exchanges the values of one key. */
void config_swap(struct config *a, struct config *b, const struct config_key *key);

static inline void config_freep(struct config **c)
{
	config_free(*c);
}
