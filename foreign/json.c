#include "foreign/json.h"

#include "common/file.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*
 * The parser's memory grows with values and its stack with nesting, so both are counted in the text
 * first. Text that is not JSON may be counted wrongly; the parser refuses it anyway.
 */
static int check_limits(
	const char *text, size_t n, const struct json_limits *limits, struct reason *reason)
{
	bool in_string = false;
	size_t depth = 0, values = 0;

	for (size_t i = 0; i < n; i++) {
		char c = text[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
			continue;
		}
		if (c == '"')
			in_string = true;
		else if (c == '{' || c == '[')
			depth++, values++;
		else if (c == '}' || c == ']')
			depth -= depth > 0;
		else if (c == ',')
			values++;
		if (depth > limits->max_depth)
			return reason_set(reason, -EBADMSG, "nested deeper than %u levels",
				limits->max_depth);
		if (values > limits->max_values)
			return reason_set(
				reason, -EBADMSG, "more than %zu values", limits->max_values);
	}
	return 0;
}

int json_object_parse(const char *text, size_t n, const struct json_limits *limits, json_t **ret,
	struct reason *reason)
{
	_cleanup_(json_freep) json_t *json = NULL;
	json_error_t error;
	int r;

	if (n > limits->max_bytes)
		return reason_set(reason, -EBADMSG, "%zu bytes of JSON, expected at most %zu", n,
			limits->max_bytes);
	r = check_limits(text, n, limits, reason);
	if (r < 0)
		return r;
	json = json_loadb(text, n, JSON_REJECT_DUPLICATES | limits->flags, &error);
	if (!json && json_error_code(&error) == json_error_out_of_memory)
		return reason_set(reason, -ENOMEM, "out of memory");
	if (!json)
		return reason_set(reason, -EBADMSG, "not valid JSON: %s (line %d, column %d)",
			error.text, error.line, error.column);
	if (!json_is_object(json))
		return reason_set(
			reason, -EBADMSG, "found %s, expected an object", json_type_name(json));
	*ret = take_ptr(json);
	return 0;
}

int json_object_load(const char *folder, const char *name, const struct json_limits *limits,
	json_t **ret, struct reason *reason)
{
	_cleanup_(freep) char *path = NULL, *text = NULL;
	size_t n = 0;
	int r;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = file_load(path, limits->max_bytes, &text, &n, reason);
	if (r < 0)
		return r;
	r = json_object_parse(text, n, limits, ret, reason);
	return r < 0 ? reason_prefix(reason, r, "%s", path) : 0;
}

const char *json_type_name(const json_t *value)
{
	if (!value)
		return "nothing";
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "a whole number";
	case JSON_REAL:
		return "a number with a fraction";
	case JSON_TRUE:
		return "true";
	case JSON_FALSE:
		return "false";
	case JSON_NULL:
		return "null";
	}
	return "an unknown type";
}

void json_fields_fail(struct json_fields *f, int error, const char *fmt, ...)
{
	char text[384];
	va_list args;

	if (f->error)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	f->error = reason_set(f->reason, error, "%s: %s", f->name, text);
}

static void fail_type(struct json_fields *f, const char *key, const char *expected)
{
	json_fields_fail(f, -EBADMSG, "%s: found %s, expected %s", key,
		json_type_name(json_object_get(f->object, key)), expected);
}

bool json_field_present(const struct json_fields *f, const char *key)
{
	const json_t *value = json_object_get(f->object, key);

	return value && !json_is_null(value);
}

int64_t json_field_int(struct json_fields *f, const char *key, int64_t min, int64_t max)
{
	const json_t *value = json_object_get(f->object, key);
	int64_t number = json_integer_value(value);

	if (!json_is_integer(value)) {
		fail_type(f, key, "a whole number");
		return min;
	}
	if (number < min || number > max) {
		json_fields_fail(f, -EBADMSG, "%s: found %lld, expected %lld to %lld", key,
			(long long)number, (long long)min, (long long)max);
		return min;
	}
	return number;
}

double json_field_real(struct json_fields *f, const char *key, double min, double max)
{
	const json_t *value = json_object_get(f->object, key);
	double number = json_number_value(value);

	if (!json_is_number(value)) {
		fail_type(f, key, "a number");
		return min;
	}
	if (!(number >= min && number <= max)) {
		json_fields_fail(
			f, -EBADMSG, "%s: found %g, expected %g to %g", key, number, min, max);
		return min;
	}
	return number;
}

const char *json_field_string(struct json_fields *f, const char *key)
{
	const json_t *value = json_object_get(f->object, key);

	if (!json_is_string(value))
		fail_type(f, key, "a string");
	return json_string_value(value);
}

const json_t *json_field_array(struct json_fields *f, const char *key)
{
	const json_t *value = json_object_get(f->object, key);

	if (json_is_array(value))
		return value;
	fail_type(f, key, "an array");
	return NULL;
}

const json_t *json_field_object(struct json_fields *f, const char *key)
{
	const json_t *value = json_object_get(f->object, key);

	if (json_is_object(value))
		return value;
	fail_type(f, key, "an object");
	return NULL;
}

int64_t json_field_int_or(
	struct json_fields *f, const char *key, int64_t min, int64_t max, int64_t otherwise)
{
	return json_field_present(f, key) ? json_field_int(f, key, min, max) : otherwise;
}

double json_field_real_or(
	struct json_fields *f, const char *key, double min, double max, double otherwise)
{
	return json_field_present(f, key) ? json_field_real(f, key, min, max) : otherwise;
}

bool json_field_bool_or(struct json_fields *f, const char *key, bool otherwise)
{
	const json_t *value = json_object_get(f->object, key);

	if (!json_field_present(f, key))
		return otherwise;
	if (!json_is_boolean(value))
		fail_type(f, key, "true or false");
	return json_is_true(value);
}

const char *json_field_string_or(struct json_fields *f, const char *key, const char *otherwise)
{
	return json_field_present(f, key) ? json_field_string(f, key) : otherwise;
}
