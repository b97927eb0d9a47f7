/*
 * What is inside the library's handle.
 */
#pragma once

#include "client/connection.h"
#include "client/deltad.h"

struct deltad {
	struct connection *connection;
	uint64_t *streams; /* running ones, in no order */
	size_t n_streams, room_streams;
	struct reason reason;
	/* What the last event points into. */
	struct deltad_event event;
	struct deltad_logprob top[PROTO_MAX_LOGPROBS];
	char *strings;
	size_t room_strings;
	struct wire_received in; /* being taken apart */
};
