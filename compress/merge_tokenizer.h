/*
 * The tokenizer's files of a merged folder: the base's, with the tokens, the names of special
 * tokens and the chat template that the delta says.
 */
#pragma once

#include "common/reason.h"
#include "store/image.h"

struct merge_tokenizer {
	const char *base_folder, *folder;
	const struct model_config *base_config, *config; /* of the base and the fine-tune */
	const struct image *delta;
};

struct merge_tokenizer_report {
	uint32_t n_tokens;   /* added or changed */
	bool wrote_template; /* from the delta's chat format; else the base's stays, if it has one
			      */
	/* In words, what could not be written; empty where all was. */
	struct reason tokens_refused, template_refused;
};

/* -EMEDIUMTYPE if the base's tokenizer is not the one that the delta was made with; -EBADMSG if a
 * section of the delta or a file of the base is broken. */
int merge_tokenizer(const struct merge_tokenizer *m, struct merge_tokenizer_report *ret,
	struct reason *reason) _must_check_;
