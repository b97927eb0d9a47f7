/*
 * The small files of a merged folder: config, generation config, and what else is JSON or a copy.
 */
#pragma once

#include "common/reason.h"
#include "store/format.h"

#include <jansson.h>

/* config.json and generation_config.json of the base with what the fine-tune changed: vocabulary,
 * special tokens, dtype bf16. */
int merge_files_config(const char *base_folder, const char *folder,
	const struct model_config *config, struct reason *reason) _must_check_;

/* A JSON object as a file of the folder, complete on disk. */
int merge_files_json(const char *folder, const char *name, const json_t *json,
	struct reason *reason) _must_check_;

/* A file of the base as it is; nothing if there is none. */
int merge_files_copy(const char *base_folder, const char *folder, const char *name,
	struct reason *reason) _must_check_;
