/*
 * Conversations to token ids by a declarative chat format (engine/chat_format.h), the CHAT section
 * of an image. Text of messages is never parsed for special tokens, that of the format is.
 */
#pragma once

#include "common/reason.h"
#include "engine/chat_format.h"
#include "engine/tokenizer.h"
#include "store/image.h"

enum chat_role {
	CHAT_ROLE_SYSTEM,
	CHAT_ROLE_USER,
	CHAT_ROLE_ASSISTANT,
};

struct chat_message {
	enum chat_role role;
	const char *text;
	size_t n_text;
};

struct chat_format; /* checked form of the section */

/* -EOPNOTSUPP, with words for the user, if neither image carries a format (the delta's wins). */
int chat_format_of(const struct image *base, const struct image *delta, struct chat_format **ret,
	struct reason *reason) _must_check_;
/* From the bytes of one section, which may be hostile and are copied. -EBADMSG. */
int chat_format_new(const uint8_t *section, uint64_t n, struct chat_format **ret,
	struct reason *reason) _must_check_;
struct chat_format *chat_format_free(struct chat_format *f);
const char *chat_format_name(const struct chat_format *f); /* "chatml", "llama-2", ... */
uint32_t chat_format_flags(const struct chat_format *f);   /* enum chat_flag, or-ed */
/* *ret_n bytes of UTF-8, borrowed, without an end. */
const char *chat_format_piece(const struct chat_format *f, enum chat_piece piece, size_t *ret_n);

/* The prompt that asks for the assistant's next turn, begin-of-text included as the tokenizer's
 * post-processor would. -EBADMSG if the order of roles is one the format cannot express. */
int chat_render(const struct chat_format *f, const struct tokenizer *t,
	const struct chat_message *messages, size_t n_messages, uint32_t **ret_ids, size_t *ret_n,
	struct reason *reason) _must_check_;

/* The text that chat_render() tokenizes, appended; with `generation` it ends where the assistant's
 * turn begins. If `guards` is not NULL it gets the n_messages + 1 ranges at most, *ret_n_guards of
 * them, that are text of messages. */
struct text;
struct guard;
int chat_format_text(const struct chat_format *f, const struct chat_message *messages,
	size_t n_messages, bool generation, struct text *out, struct guard *guards,
	size_t *ret_n_guards, struct reason *reason) _must_check_;

/* A stop string that ends the assistant's turn besides the model's end-of-text ids, or NULL. */
const char *chat_format_stop(const struct chat_format *f);
