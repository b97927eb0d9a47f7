/*
 * Chat templates are programs in Jinja. This runs the part of the language that they use on plain
 * conversations, so that foreign/chat_template.c can find out what a template does instead of
 * guessing from its looks. Offline only; the engine never sees a template. Bounded in time, memory
 * and depth; knows no files, no clock and no network.
 *
 * Blocks are trimmed as the reference does for chat templates (trim_blocks and lstrip_blocks on).
 */
#pragma once

#include "common/reason.h"
#include "engine/buffer.h"
#include "engine/chat.h"

struct jinja;

/* Parses a template. -EBADMSG: not well formed; -EOPNOTSUPP names what is not implemented. */
int jinja_new(const char *source, size_t n, struct jinja **ret, struct reason *reason) _must_check_;
struct jinja *jinja_free(struct jinja *j);

struct jinja_input {
	const struct chat_message *messages; /* texts are UTF-8 */
	size_t n_messages;
	bool add_generation_prompt;
	const char *bos_token, *eos_token; /* or NULL */
	bool tools_undefined; /* `tools` and `documents` do not exist, rather than being none */
};

/* The template refuses this conversation, by raise_exception() or by an error at run time. */
enum jinja_result {
	JINJA_RAISED = 1,
};

/* Appends the rendering. 0, JINJA_RAISED, or -EOPNOTSUPP naming what is not implemented. */
int jinja_render(const struct jinja *j, const struct jinja_input *input, struct text *out,
	struct reason *reason) _must_check_;

/* The string literals of the template, one after the other from NULL; borrowed. They are what it
 * may look for in messages. */
struct jinja_literal {
	const char *text;
	size_t n;
};
size_t jinja_literals(const struct jinja *j, struct jinja_literal *ret, size_t room);
