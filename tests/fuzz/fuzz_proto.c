/*
 * A packet from a stranger. What decodes must encode to the very same bytes, since the form has
 * only one way to say each thing.
 */
#include "client/proto.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode_and_encode(const struct proto_header *h, const uint8_t *body, size_t n)
{
	struct reason reason;
	struct proto_message m;
	uint8_t *again;
	size_t n_again;

	if (proto_decode(h, body, n, &m, &reason) < 0)
		return;
	again = malloc(PROTO_HEADER_BYTES + n);
	if (!again || proto_encode(&m, again, PROTO_HEADER_BYTES + n, &n_again) < 0)
		abort();
	if (n_again != PROTO_HEADER_BYTES + n || memcmp(again + PROTO_HEADER_BYTES, body, n) != 0)
		abort();
	free(again);
	proto_message_done(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct proto_header h;

	if (size < PROTO_HEADER_BYTES)
		return proto_decode_header(data, size, &h) == 0;
	/* The header as it is, then one that lets the body through. */
	if (proto_decode_header(data, size, &h) < 0)
		h = (struct proto_header){.length = (uint32_t)size, .op = data[4], .request = 1};
	decode_and_encode(&h, data + PROTO_HEADER_BYTES, size - PROTO_HEADER_BYTES);
	return 0;
}
