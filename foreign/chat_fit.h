/*
 * What a chat template does, as a declarative format: found by running it on conversations made for
 * the purpose, and believed only if format and template agree on many more.
 */
#pragma once

#include "engine/chat_format.h"
#include "foreign/jinja.h"

struct chat_template {
	struct jinja *jinja;
	const char *bos_token, *eos_token; /* or NULL */
};

/* The CHAT section, appended. -EOPNOTSUPP, in words for the user, if the template is none of the
 * known formats or does what the declarative form cannot say. */
int chat_fit(const struct chat_template *t, struct text *section, struct reason *reason)
	_must_check_;

/* Does the format, made from this template, write what the template writes? Where they part only on
 * conversations that end without a question, or have system messages in their middle, *flags (of
 * enum chat_flag, as in the format) is changed to refuse those, and the format must be made again.
 * -EOPNOTSUPP where they part otherwise. */
int chat_check(const struct chat_template *t, const struct chat_format *format, uint32_t *flags,
	struct reason *reason) _must_check_;

/* Fills the reason for a template that the declarative form cannot express; -EOPNOTSUPP. */
int chat_unfit(struct reason *reason, const char *what);
