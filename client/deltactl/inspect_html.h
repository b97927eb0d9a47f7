/*
 * The description of a delta file as a page: self-contained HTML with its pictures inline, readable
 * on a phone and in light and dark, that fetches nothing.
 */
#pragma once

#include "common/reason.h"

#include <jansson.h>

/* `document` as inspect_delta() makes it; `name` is shown as the title. Replaces `path`. -ENOMEM if
 * the document is incomplete. */
int inspect_html(const json_t *document, const char *name, const char *path, struct reason *reason)
	_must_check_;
