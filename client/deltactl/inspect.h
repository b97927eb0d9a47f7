/*
 * Descriptions of files for `deltactl inspect`: each returns a new document for document_print().
 */
#pragma once

#include "common/progress.h"
#include "common/reason.h"

#include <jansson.h>

/* Foreign bytes: call them in the sandbox. */
int inspect_safetensors(const char *path, json_t **ret, struct reason *reason) _must_check_;
int inspect_folder(const char *path, json_t **ret, struct reason *reason) _must_check_;

/* Our own: every byte is read and checked. */
int inspect_base(const char *path, const struct progress *progress, json_t **ret,
	struct reason *reason) _must_check_;
int inspect_delta(const char *path, const struct progress *progress, json_t **ret,
	struct reason *reason) _must_check_;
