/*
 * The header of a safetensors file: u64 length, header, data. What is accepted must cover the data.
 */
#include "foreign/safetensors_header.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_cover(const struct safetensors_header *h, uint64_t data_bytes)
{
	char shape[192];
	uint64_t at = 0;

	for (size_t i = 0; i < h->n_tensors; i++) {
		const struct safetensors_tensor *t = &h->tensors[i];

		if (t->offset != at || !range_inside(t->offset, t->bytes, data_bytes))
			abort();
		at += t->bytes;
		safetensors_shape_text(t, shape);
	}
	if (at != data_bytes)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct safetensors_header header;
	struct reason reason = {0};
	uint64_t length, data_bytes;

	if (n < sizeof(length))
		return 0;
	memcpy(&length, data, sizeof(length));
	if (length > n - sizeof(length))
		return 0;
	data_bytes = n - sizeof(length) - length;
	if (safetensors_header_parse((const char *)data + sizeof(length), length, data_bytes,
		    &header, &reason) < 0) {
		if (!reason.text[0])
			abort();
		return 0;
	}
	check_cover(&header, data_bytes);
	safetensors_header_done(&header);
	return 0;
}
