/*
 * tokenizer.json and tokenizer_config.json compiled into the sections that the engine reads.
 */
#pragma once

#include "common/reason.h"

#include <stddef.h>

/* TOKENIZER section of a base, malloc'ed. -EOPNOTSUPP names the normalizer, pre-tokenizer, model or
 * decoder that is not implemented. -ENOENT if the folder has no tokenizer.json. */
int tokenizer_compile(const char *folder, uint8_t **ret, size_t *ret_n, struct reason *reason)
	_must_check_;

/* TOKENIZER section of a delta: the added tokens of `tuned` where they differ from those of `base`;
 * *ret_n = 0 where nothing differs or `tuned` has no tokenizer.json. A different vocabulary or
 * other merges are -EOPNOTSUPP. */
int tokenizer_compile_extra(const char *base_folder, const char *tuned_folder, uint8_t **ret,
	size_t *ret_n, struct reason *reason) _must_check_;

/* CHAT section, malloc'ed, from the folder's chat template. -EOPNOTSUPP if there is no template or
 * an unknown one; the reason says so in words fit for the user. */
int chat_format_compile(const char *folder, uint8_t **ret, size_t *ret_n, struct reason *reason)
	_must_check_;
