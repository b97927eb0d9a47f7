#include "foreign/safetensors_write.h"

#include "common/file.h"
#include "foreign/json.h"

#include <string.h>

#define HEADER_ALIGNMENT 8u

static bool tensor_bytes(const struct safetensors_tensor *t, uint64_t *ret)
{
	uint64_t bits = safetensors_dtype_bits(t->dtype);

	for (uint32_t i = 0; i < t->n_dims; i++)
		if (!mul_u64(bits, t->shape[i], &bits))
			return false;
	*ret = bits / 8;
	return bits % 8 == 0;
}

static json_t *describe(const struct safetensors_tensor *t)
{
	json_t *shape = json_array();

	for (uint32_t i = 0; i < t->n_dims; i++)
		json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
	return json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_dtype_name(t->dtype), "shape",
		shape, "data_offsets", (json_int_t)t->offset, (json_int_t)(t->offset + t->bytes));
}

/* Offsets count from the header's end here, as they do in the file. */
static int build_header(
	struct safetensors_tensor *tensors, size_t n, char **ret, struct reason *reason)
{
	_cleanup_(json_freep) json_t *header =
		json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
	uint64_t at = 0;

	for (size_t i = 0; i < n; i++) {
		struct safetensors_tensor *t = &tensors[i];

		t->offset = at;
		if (!tensor_bytes(t, &t->bytes) || !add_u64(at, t->bytes, &at))
			return reason_set(reason, -EINVAL, "tensor '%.128s' has no size", t->name);
		if (json_object_set_new(header, t->name, describe(t)) < 0)
			return reason_set(reason, -ENOMEM, "out of memory");
	}
	*ret = json_dumps(header, JSON_COMPACT);
	return *ret ? 0 : reason_set(reason, -ENOMEM, "out of memory");
}

int safetensors_write_header(
	int fd, struct safetensors_tensor *tensors, size_t n, struct reason *reason)
{
	_cleanup_(freep) char *text = NULL, *padded = NULL;
	size_t n_text, n_padded;
	uint64_t length;
	int r;

	r = build_header(tensors, n, &text, reason);
	if (r < 0)
		return r;
	n_text = strlen(text);
	n_padded = (size_t)align_up(n_text, HEADER_ALIGNMENT);
	padded = malloc(n_padded);
	if (!padded)
		return reason_set(reason, -ENOMEM, "out of memory");
	memset(padded, ' ', n_padded);
	memcpy(padded, text, n_text);
	length = htole64(n_padded);
	r = file_write_at(fd, &length, sizeof(length), 0);
	if (r == 0)
		r = file_write_at(fd, padded, n_padded, sizeof(length));
	if (r < 0)
		return reason_set(reason, r, "cannot write: %s", strerror(-r));
	for (size_t i = 0; i < n; i++)
		tensors[i].offset += sizeof(length) + n_padded;
	return 0;
}
