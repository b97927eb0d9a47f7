/*
 * One or more messages of every kind, with every field set, for tests of the protocol.
 */
#pragma once

#include "client/proto.h"

struct proto_sample {
	const char *label; /* also the file of its bytes in tests/fuzz/corpus/proto */
	struct proto_message message;
};

/* The n-th sample; NULL past the end. Static storage. */
const struct proto_sample *proto_sample(size_t n);
