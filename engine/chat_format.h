/*
 * The CHAT section: how a conversation is written as text. Little-endian:
 *
 *   struct chat_format_head
 *   u8 text[n_text]            UTF-8, what the pieces point into
 *
 * A conversation is BEGIN, then one turn for each message: the prefix of its role, its text, the
 * suffix of its role; then GENERATION, which opens the assistant's next turn. Without a system
 * message NO_SYSTEM stands where its turn would. If a flag says that the system text is folded, its
 * turn is not there; instead SYSTEM_PREFIX, its text and SYSTEM_SUFFIX go between USER_PREFIX and
 * the text of the first or last user turn (without one, NO_SYSTEM goes there). Where one piece ends
 * and the next begins has no meaning; only the text they make together has.
 */
#pragma once

#include "common/base.h"

#define CHAT_FORMAT_MAGIC "DELTCHT1"
#define CHAT_FORMAT_MAX_TEXT (1u << 20)
/* Of all pieces in one conversation: room for thousands of messages, not for a format that makes
 * gigabytes of them. */
#define CHAT_FORMAT_MAX_PIECES (4u << 20)

enum chat_piece {
	CHAT_BEGIN,
	CHAT_NO_SYSTEM,
	CHAT_SYSTEM_PREFIX,
	CHAT_SYSTEM_SUFFIX,
	CHAT_USER_PREFIX,
	CHAT_USER_SUFFIX,
	CHAT_ASSISTANT_PREFIX,
	CHAT_ASSISTANT_SUFFIX,
	CHAT_GENERATION,
	CHAT_EMPTY, /* a conversation without messages, before GENERATION; see the flag */
	CHAT_STOP,  /* what ends the assistant's turn; may be empty */
	N_CHAT_PIECES,
};

enum chat_flag {
	CHAT_SYSTEM_LTRIM = 1 << 0, /* white space before the text of that role is dropped */
	CHAT_SYSTEM_RTRIM = 1 << 1,
	CHAT_USER_LTRIM = 1 << 2,
	CHAT_USER_RTRIM = 1 << 3,
	CHAT_ASSISTANT_LTRIM = 1 << 4,
	CHAT_ASSISTANT_RTRIM = 1 << 5,
	/* A user text and the system text folded before it lose white space as one text would: none
	 * between them, at the end even what SYSTEM_SUFFIX ends with. */
	CHAT_FOLDED_AS_ONE = 1 << 6,
	CHAT_FOLD_FIRST = 1 << 7,
	CHAT_FOLD_LAST = 1 << 8,
	CHAT_SYSTEM_REFUSED = 1 << 9,
	CHAT_LATE_SYSTEM = 1 << 10,          /* system messages may come later than first */
	CHAT_EMPTY_SYSTEM_DROPPED = 1 << 11, /* a first system text that is empty counts as none */
	CHAT_ALTERNATE = 1 << 12,     /* user and assistant must take turns, the user first */
	CHAT_END_WITH_USER = 1 << 13, /* the last message must be the user's */
	CHAT_EMPTY_ALLOWED = 1 << 14, /* there may be no messages at all */
	/* Of an assistant's text what stands before the last "</think>" is dropped, with the
	 * newlines after it. */
	CHAT_DROP_THINKING = 1 << 15,
	CHAT_ALL_FLAGS = (1 << 16) - 1,
};

struct chat_text {
	uint32_t offset, bytes; /* in text[] */
};

struct chat_format_head {
	uint8_t magic[8];
	char name[24];  /* zero-terminated: "chatml", "llama-2", ... */
	uint32_t flags; /* enum chat_flag, or-ed */
	uint32_t n_text;
	struct chat_text pieces[N_CHAT_PIECES];
};

_Static_assert(sizeof(struct chat_format_head) == 128, "no padding");
