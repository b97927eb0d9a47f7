/*
 * The public completion options as a protocol message.
 */
#pragma once

#include "client/deltad.h"
#include "client/proto.h"

/*
 * Fills m->complete, which borrows strings and ids from the options; the chat messages are
 * allocated as m->owned. -EINVAL, with words, for options that no daemon could take. `options` may
 * be shorter or longer than the struct we know, as its size says: what a shorter one lacks has its
 * default, what a longer one adds must be zero.
 */
int options_message(const struct deltad_complete_options *options, struct proto_message *m,
	struct reason *reason) _must_check_;
