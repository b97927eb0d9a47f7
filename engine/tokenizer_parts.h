/*
 * What a tokenizer is made of: for the file that builds one from tables and the file that uses it.
 */
#pragma once

#include "engine/added_tokens.h"
#include "engine/bpe.h"
#include "engine/buffer.h"
#include "engine/detokenizer.h"
#include "engine/normalizer.h"
#include "engine/pretokenizer.h"
#include "engine/tokenizer_view.h"
#include "engine/vocabulary.h"

struct tokenizer {
	struct vocabulary vocabulary;
	struct bpe bpe;
	struct normalizer normalizer;
	struct pretokenizer pretokenizer;
	struct detokenizer detokenizer;
	struct added_tokens plain;      /* looked for in the text as it is */
	struct added_tokens normalized; /* looked for in normalised text */
	struct text normal_spellings;   /* of the latter */
	struct id_list prefix, suffix;
	uint32_t n_ids;
	struct spelling *spellings; /* n_ids */
};

/* Fills a zeroed tokenizer from the tables of a base and of a delta (NULL: none), which it borrows.
 * What is there after a failure is tokenizer_free()'s. */
int tokenizer_bind(struct tokenizer *t, const struct tokenizer_view *base,
	const struct tokenizer_view *extra, struct reason *reason) _must_check_;
