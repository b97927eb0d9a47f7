#include "client/deltactl/document.h"
#include "client/deltactl/inspect.h"
#include "client/deltactl/inspect_config.h"

#include "foreign/checkpoint.h"

static json_t *describe_shape(const struct safetensors_tensor *t)
{
	json_t *shape = json_array();

	for (uint32_t i = 0; i < t->n_dims; i++)
		json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
	return shape;
}

static json_t *describe_tensor(
	const struct safetensors *s, const struct safetensors_tensor *t, bool with_file)
{
	json_t *row = json_object();

	document_set(row, "name", json_string(t->name));
	document_set(row, "dtype", json_string(safetensors_dtype_name(t->dtype)));
	document_set(row, "shape", describe_shape(t));
	document_set(row, "offset", json_integer((json_int_t)t->offset));
	document_set(row, "bytes", json_integer((json_int_t)t->bytes));
	if (with_file)
		document_set(row, "file", json_string(safetensors_file_name(s, t->file)));
	return row;
}

static void describe_tensors(json_t *document, const struct safetensors *s)
{
	size_t n = safetensors_n_tensors(s);
	json_t *rows = json_array();
	uint64_t bytes = 0;

	for (size_t i = 0; i < n; i++) {
		const struct safetensors_tensor *t = safetensors_at(s, i);

		bytes += t->bytes;
		json_array_append_new(rows, describe_tensor(s, t, safetensors_n_files(s) > 1));
	}
	document_set(document, "files", json_integer((json_int_t)safetensors_n_files(s)));
	document_set(document, "tensor_bytes", json_integer((json_int_t)bytes));
	document_set(document, "n_tensors", json_integer((json_int_t)n));
	document_set(document, "tensors", rows);
}

int inspect_safetensors(const char *path, json_t **ret, struct reason *reason)
{
	struct safetensors *s = NULL;
	json_t *document;
	int r;

	r = safetensors_open(path, &s, reason);
	if (r < 0)
		return r;
	document = json_object();
	document_set(document, "kind", json_string("safetensors"));
	describe_tensors(document, s);
	safetensors_free(s);
	*ret = document;
	return 0;
}

int inspect_folder(const char *path, json_t **ret, struct reason *reason)
{
	struct checkpoint *checkpoint = NULL;
	json_t *document;
	int r;

	r = checkpoint_open(path, &checkpoint, reason);
	if (r < 0)
		return r;
	document = json_object();
	document_set(document, "kind", json_string("folder"));
	document_set(document, "config", inspect_config(checkpoint_config(checkpoint)));
	describe_tensors(document, checkpoint_tensors(checkpoint));
	checkpoint_free(checkpoint);
	*ret = document;
	return 0;
}
