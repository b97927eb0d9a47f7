/*
 * A value as one line of JSON on standard output.
 */
#pragma once

#include "common/reason.h"

#include <jansson.h>

/* Prints and drops the value. `flags` are further ones of jansson's encoder. Fails if the line
 * could not be written, or with NULL, as json_pack() gives for text that is not UTF-8. */
int json_line_print(json_t *value, size_t flags, struct reason *reason) _must_check_;
