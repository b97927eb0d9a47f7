/*
 * The small files of a merged folder: config, generation config, tokenizer, index of shards.
 */
#pragma once

#include "common/reason.h"
#include "store/format.h"

#include <jansson.h>

/* config.json and generation_config.json of the base with what the fine-tune changed: vocabulary,
 * special tokens, dtype bf16; the tokenizer's files as they are. */
int merge_files_write(const char *base_folder, const char *folder,
	const struct model_config *config, struct reason *reason) _must_check_;

/* A JSON object as a file of the folder, complete on disk. */
int merge_files_json(const char *folder, const char *name, const json_t *json,
	struct reason *reason) _must_check_;
