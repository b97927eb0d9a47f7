/*
 * A description of something as a JSON object, printed for programs or for people.
 */
#pragma once

#include "common/base.h"

#include <jansson.h>

/* Sets a key; that of a NULL value (out of memory) makes the document incomplete. Takes the value.
 */
void document_set(json_t *object, const char *key, json_t *value);

/* Was everything set in it, and in all that it holds? */
bool document_complete(const json_t *document);

/*
 * On stdout, as JSON in one line or as text: plain values line by line, objects indented, and lists
 * of objects as tables with a column for each of the first object's first keys, as many as a table
 * holds. Control characters, which may come from foreign bytes, are printed as '?'.
 * -ENOMEM if the document is incomplete or there is none to print it, -EIO where stdout is full;
 * what it buffers may fail later.
 */
int document_print(const json_t *document, bool as_json) _must_check_;
