/*
 * A chat format as a Jinja template, for programs that know no other form.
 */
#pragma once

#include "common/reason.h"
#include "engine/buffer.h"

/* Appends a template that writes what the CHAT section says, and refuses what it refuses. The
 * template is believed only if it compiles again and agrees with the section on many conversations:
 * else -EOPNOTSUPP. -EBADMSG if the section is broken. */
int chat_print(const uint8_t *section, uint64_t n, struct text *out, struct reason *reason)
	_must_check_;
