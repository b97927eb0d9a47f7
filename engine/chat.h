/*
 * Conversations to token ids by a declarative chat format (engine/chat_format.h), the CHAT section
 * of an image. Text of messages is never parsed for special tokens, that of the format is.
 */
#pragma once

#include "common/reason.h"
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
struct chat_format *chat_format_free(struct chat_format *f);
const char *chat_format_name(const struct chat_format *f); /* "chatml", "llama-2", ... */

/* The prompt that asks for the assistant's next turn, begin-of-text included as the tokenizer's
 * post-processor would. -EBADMSG if the order of roles is one the format cannot express. */
int chat_render(const struct chat_format *f, const struct tokenizer *t,
	const struct chat_message *messages, size_t n_messages, uint32_t **ret_ids, size_t *ret_n,
	struct reason *reason) _must_check_;

/* A stop string that ends the assistant's turn besides the model's end-of-text ids, or NULL. */
const char *chat_format_stop(const struct chat_format *f);
