/*
 * The header of a safetensors file: from JSON to a list of tensors that cover the data exactly.
 */
#include "foreign/safetensors_header.h"

#include <stdio.h>
#include <string.h>

#define MAX_VALUES (1u << 20) /* nine belong to a tensor */

static const struct {
	const char *name;
	uint32_t bits;
} dtypes[SAFETENSORS_N_DTYPES] = {
	[SAFETENSORS_BOOL] = {"BOOL", 8},
	[SAFETENSORS_F4] = {"F4", 4},
	[SAFETENSORS_F6_E2M3] = {"F6_E2M3", 6},
	[SAFETENSORS_F6_E3M2] = {"F6_E3M2", 6},
	[SAFETENSORS_U8] = {"U8", 8},
	[SAFETENSORS_I8] = {"I8", 8},
	[SAFETENSORS_F8_E5M2] = {"F8_E5M2", 8},
	[SAFETENSORS_F8_E4M3] = {"F8_E4M3", 8},
	[SAFETENSORS_F8_E8M0] = {"F8_E8M0", 8},
	[SAFETENSORS_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
	[SAFETENSORS_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
	[SAFETENSORS_I16] = {"I16", 16},
	[SAFETENSORS_U16] = {"U16", 16},
	[SAFETENSORS_F16] = {"F16", 16},
	[SAFETENSORS_BF16] = {"BF16", 16},
	[SAFETENSORS_I32] = {"I32", 32},
	[SAFETENSORS_U32] = {"U32", 32},
	[SAFETENSORS_F32] = {"F32", 32},
	[SAFETENSORS_C64] = {"C64", 64},
	[SAFETENSORS_F64] = {"F64", 64},
	[SAFETENSORS_I64] = {"I64", 64},
	[SAFETENSORS_U64] = {"U64", 64},
};

const char *safetensors_dtype_name(enum safetensors_dtype dtype)
{
	return dtypes[dtype].name;
}

uint32_t safetensors_dtype_bits(enum safetensors_dtype dtype)
{
	return dtypes[dtype].bits;
}

const char *safetensors_shape_text(const struct safetensors_tensor *tensor, char ret[static 192])
{
	size_t n = (size_t)snprintf(ret, 192, "[");

	for (uint32_t i = 0; i < tensor->n_dims; i++)
		n += (size_t)snprintf(ret + n, 192 - n, "%s%llu", i ? ", " : "",
			(unsigned long long)tensor->shape[i]);
	snprintf(ret + n, 192 - n, "]");
	return ret;
}

static int parse_dtype(struct json_fields *f, enum safetensors_dtype *ret)
{
	const char *name = json_field_string(f, "dtype");

	if (!name)
		return f->error;
	for (int i = 0; i < SAFETENSORS_N_DTYPES; i++)
		if (strcmp(name, dtypes[i].name) == 0) {
			*ret = (enum safetensors_dtype)i;
			return 0;
		}
	json_fields_fail(f, -EBADMSG, "dtype: found '%.32s', expected one of the format's", name);
	return f->error;
}

/* Fills shape and the size in bytes that it means. */
static int parse_shape(
	struct json_fields *f, struct safetensors_tensor *t, uint64_t *ret_expected_bytes)
{
	const json_t *shape = json_field_array(f, "shape");
	uint64_t bits = safetensors_dtype_bits(t->dtype);

	if (!shape)
		return f->error;
	if (json_array_size(shape) > SAFETENSORS_MAX_DIMS)
		json_fields_fail(f, -EOPNOTSUPP, "shape: %zu dimensions, at most %d are supported",
			json_array_size(shape), SAFETENSORS_MAX_DIMS);
	for (size_t i = 0; i < json_array_size(shape) && !f->error; i++) {
		const json_t *size = json_array_get(shape, i);

		if (!json_is_integer(size) || json_integer_value(size) < 0) {
			json_fields_fail(f, -EBADMSG,
				"shape: dimension %zu is %s, expected a whole number from 0", i,
				json_is_integer(size) ? "negative" : json_type_name(size));
			break;
		}
		t->shape[t->n_dims++] = (uint64_t)json_integer_value(size);
		if (!mul_u64(bits, t->shape[i], &bits))
			json_fields_fail(f, -EBADMSG, "shape: the product of its sizes overflows");
	}
	if (!f->error && bits % 8 != 0)
		json_fields_fail(f, -EBADMSG, "shape: %llu bits are not whole bytes",
			(unsigned long long)bits);
	*ret_expected_bytes = bits / 8;
	return f->error;
}

static int parse_offsets(struct json_fields *f, struct safetensors_tensor *t, uint64_t data_bytes)
{
	const json_t *offsets = json_field_array(f, "data_offsets");
	const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
	int64_t from = json_integer_value(begin), to = json_integer_value(end);

	if (!offsets)
		return f->error;
	if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
		json_fields_fail(f, -EBADMSG, "data_offsets: expected two whole numbers");
	else if (from < 0 || to < from)
		json_fields_fail(f, -EBADMSG,
			"data_offsets: found [%lld, %lld], expected 0 <= begin <= end",
			(long long)from, (long long)to);
	else if ((uint64_t)to > data_bytes)
		json_fields_fail(f, -EBADMSG,
			"data_offsets: end %lld is past the %llu bytes of data", (long long)to,
			(unsigned long long)data_bytes);
	t->offset = (uint64_t)from;
	t->bytes = (uint64_t)to - (uint64_t)from;
	return f->error;
}

static int parse_tensor(const char *name, const json_t *info, uint64_t data_bytes,
	struct safetensors_tensor *ret, struct reason *reason)
{
	char label[160];
	struct json_fields f = {.object = info, .name = label, .reason = reason};
	uint64_t expected = 0;
	int r;

	snprintf(label, sizeof(label), "tensor '%.128s'", name);
	if (!json_is_object(info))
		return reason_set(reason, -EBADMSG, "%s: found %s, expected an object", label,
			json_type_name(info));
	ret->name = name;
	r = parse_dtype(&f, &ret->dtype);
	if (r == 0)
		r = parse_shape(&f, ret, &expected);
	if (r == 0)
		r = parse_offsets(&f, ret, data_bytes);
	if (r < 0)
		return r;
	if (json_object_size(info) != 3)
		json_fields_fail(&f, -EBADMSG,
			"%zu keys, expected dtype, shape and data_offsets only",
			json_object_size(info));
	if (ret->bytes != expected)
		json_fields_fail(&f, -EBADMSG, "data_offsets hold %llu bytes, its shape needs %llu",
			(unsigned long long)ret->bytes, (unsigned long long)expected);
	return f.error;
}

static int check_metadata(json_t *metadata, struct reason *reason)
{
	json_t *value;
	const char *key;

	if (!json_is_object(metadata))
		return reason_set(reason, -EBADMSG, "__metadata__: found %s, expected an object",
			json_type_name(metadata));
	json_object_foreach(metadata, key, value)
	{
		if (!json_is_string(value))
			return reason_set(reason, -EBADMSG,
				"__metadata__: '%.64s': found %s, expected a string", key,
				json_type_name(value));
	}
	return 0;
}

static int compare_offsets(const void *a, const void *b)
{
	const struct safetensors_tensor *x = a, *y = b;

	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	if (x->bytes != y->bytes)
		return x->bytes < y->bytes ? -1 : 1;
	return strcmp(x->name, y->name);
}

/* Sorted by offset, the tensors must cover the data exactly: no hole, no overlap, nothing behind.
 */
static int check_coverage(const struct safetensors_tensor *tensors, size_t n, uint64_t data_bytes,
	struct reason *reason)
{
	uint64_t at = 0;

	for (size_t i = 0; i < n; i++) {
		if (tensors[i].offset != at)
			return reason_set(reason, -EBADMSG,
				"tensor '%.128s' begins at %llu, expected %llu: %s",
				tensors[i].name, (unsigned long long)tensors[i].offset,
				(unsigned long long)at,
				tensors[i].offset < at ? "tensors overlap" : "a hole in the data");
		at += tensors[i].bytes;
	}
	if (at != data_bytes)
		return reason_set(reason, -EBADMSG, "%llu bytes after the last tensor's end",
			(unsigned long long)(data_bytes - at));
	return 0;
}

/* Every key but __metadata__ is a tensor. */
static int parse_tensors(struct safetensors_header *h, uint64_t data_bytes, struct reason *reason)
{
	const char *name;
	json_t *info;
	int r;

	h->tensors = calloc(json_object_size(h->json) + 1, sizeof(*h->tensors));
	if (!h->tensors)
		return reason_set(reason, -ENOMEM, "out of memory");
	json_object_foreach(h->json, name, info)
	{
		if (strcmp(name, "__metadata__") == 0)
			r = check_metadata(info, reason);
		else
			r = parse_tensor(
				name, info, data_bytes, &h->tensors[h->n_tensors++], reason);
		if (r < 0)
			return r;
	}
	return 0;
}

int safetensors_header_parse(const char *text, size_t n, uint64_t data_bytes,
	struct safetensors_header *ret, struct reason *reason)
{
	static const struct json_limits limits = {SAFETENSORS_MAX_HEADER, 3, MAX_VALUES, 0};
	_cleanup_(safetensors_header_done) struct safetensors_header h = {0};
	int r;

	if (n == 0 || text[0] != '{')
		return reason_set(reason, -EBADMSG, "header: does not begin with '{'");
	r = json_object_parse(text, n, &limits, &h.json, reason);
	if (r < 0)
		return reason_prefix(reason, r, "header");
	r = parse_tensors(&h, data_bytes, reason);
	if (r < 0)
		return r;
	qsort(h.tensors, h.n_tensors, sizeof(*h.tensors), compare_offsets);
	r = check_coverage(h.tensors, h.n_tensors, data_bytes, reason);
	if (r < 0)
		return r;
	*ret = h;
	h = (struct safetensors_header){0};
	return 0;
}

void safetensors_header_done(struct safetensors_header *h)
{
	json_decref(h->json);
	free(h->tensors);
	*h = (struct safetensors_header){0};
}
