/*
 * What the descriptions of base images and delta files have in common.
 */
#pragma once

#include "common/reason.h"
#include "store/image.h"

#include <jansson.h>

json_t *inspect_digest(const struct digest *d);
/* JSON has no NaN; a number that was not measured is null. */
json_t *inspect_measured(double value);

/* A new object with what stands in the header. `kind` is "base" or "delta". */
json_t *inspect_header(const struct image *image, const char *kind);
/* Sets the name of the chat format; null where the file has none. */
int inspect_chat(json_t *document, const struct image *image, struct reason *reason) _must_check_;
json_t *inspect_sections(const struct format_header *h);
/* A new object with layer, role, codec and shape. */
json_t *inspect_record(const struct tensor_record *t);
