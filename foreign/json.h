/*
 * Foreign JSON, read with suspicion: size, nesting and number of values are bounded before anything
 * is built, duplicate keys are refused, and fields are taken out by type and range.
 */
#pragma once

#include "common/reason.h"

#include <jansson.h>

struct json_limits {
	size_t max_bytes;
	unsigned int max_depth;
	size_t max_values; /* counted as commas and opening brackets */
	size_t flags;      /* what else jansson's decoder shall allow */
};

static inline void json_freep(json_t **json)
{
	json_decref(*json);
}

/* -EBADMSG: not JSON, not an object, duplicate keys, or past the limits. */
int json_object_parse(const char *text, size_t n, const struct json_limits *limits, json_t **ret,
	struct reason *reason) _must_check_;

/* A whole file of a folder. -ENOENT (with a reason) if there is none. */
int json_object_load(const char *folder, const char *name, const struct json_limits *limits,
	json_t **ret, struct reason *reason) _must_check_;

/* "a string", "a whole number", ... */
const char *json_type_name(const json_t *value);

/*
 * Takes fields out of an object. The first thing that is wrong stays in `error` and fills the
 * reason; later calls return their least value, so a reader takes all its fields and checks once.
 */
struct json_fields {
	const json_t *object;
	const char *name; /* of the object, for messages: "config.json" */
	struct reason *reason;
	int error;
};

/* Is the key there with a value other than null? */
bool json_field_present(const struct json_fields *f, const char *key);
/* Whole numbers in [min, max]. */
int64_t json_field_int(struct json_fields *f, const char *key, int64_t min, int64_t max);
/* Numbers in [min, max]; whole numbers count. */
double json_field_real(struct json_fields *f, const char *key, double min, double max);
/* Borrowed from the object. NULL on error. */
const char *json_field_string(struct json_fields *f, const char *key);
const json_t *json_field_array(struct json_fields *f, const char *key);
const json_t *json_field_object(struct json_fields *f, const char *key);
/* The same for keys that may be missing or null. */
int64_t json_field_int_or(
	struct json_fields *f, const char *key, int64_t min, int64_t max, int64_t otherwise);
double json_field_real_or(
	struct json_fields *f, const char *key, double min, double max, double otherwise);
bool json_field_bool_or(struct json_fields *f, const char *key, bool otherwise);
const char *json_field_string_or(struct json_fields *f, const char *key, const char *otherwise);

/* Records that a key is wrong, if nothing was wrong before. */
void json_fields_fail(struct json_fields *f, int error, const char *fmt, ...) _printf_(3, 4);
