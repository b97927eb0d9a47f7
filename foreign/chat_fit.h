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
