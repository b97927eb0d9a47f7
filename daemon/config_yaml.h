/*
 * The YAML that a configuration may be: one document, sections of scalars, nothing else.
 */
#pragma once

#include "common/reason.h"

/* Called for each key, in the order of the text; a negative result ends the walk and is returned
 * with "line N: " before its reason. */
typedef int config_yaml_fn(void *user, const char *name, const char *text, struct reason *reason);

/* `name` is "section.key". -EBADMSG, with the line, for anything but such a document and for a key
 * that comes twice. An empty document has no keys. */
int config_yaml_walk(const char *bytes, size_t n, config_yaml_fn *fn, void *user,
	struct reason *reason) _must_check_;
