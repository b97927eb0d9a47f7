/*
 * A TOKENIZER section cut into its arrays: sizes checked, contents not yet.
 */
#pragma once

#include "common/reason.h"
#include "engine/tokenizer_tables.h"

struct tokenizer_view {
	struct tokenizer_tables head; /* in host order */
	const uint8_t *token_ends, *merges, *added, *normalizers, *pretokenizers, *decoders;
	const uint8_t *prefix, *suffix;
	const char *text;
};

/* `magic` says which of the two kinds is expected. -EBADMSG if anything is missing or left over. */
int tokenizer_view_init(struct tokenizer_view *v, const char *magic, const uint8_t *bytes,
	uint64_t n, struct reason *reason) _must_check_;

/* Record i of an array, in host order, its strings inside text[]. -EBADMSG. */
int tokenizer_view_added(const struct tokenizer_view *v, uint32_t i, struct tokenizer_added *ret,
	struct reason *reason) _must_check_;
int tokenizer_view_step(const struct tokenizer_view *v, const uint8_t *steps, uint32_t i,
	struct tokenizer_step *ret, struct reason *reason) _must_check_;
uint32_t tokenizer_view_id(const uint8_t *ids, uint32_t i);
