#include "client/deltactl/document.h"
#include "client/deltactl/inspect.h"
#include "client/deltactl/inspect_config.h"
#include "client/deltactl/inspect_file.h"
#include "foreign/json.h"
#include "store/base.h"
#include "store/tensor_table.h"

static uint32_t number_bits(const struct tensor_record *t)
{
	if (t->codec == CODEC_VECTOR_F32)
		return 32;
	return t->codec == CODEC_MAT_INT ? t->bits : 16;
}

int inspect_base(
	const char *path, const struct progress *progress, json_t **ret, struct reason *reason)
{
	_cleanup_(basep) struct base *base = NULL;
	struct tensor_table table;
	_cleanup_(json_freep) json_t *document = NULL;
	json_t *rows;
	uint64_t parameters = 0;
	int r;

	r = base_open(path, &base, progress, reason);
	if (r == 0)
		r = tensor_table_open(base->image, &base->config, &table, reason);
	if (r < 0)
		return r;
	document = inspect_header(base->image, "base");
	rows = json_array();
	for (size_t i = 0; i < table.n; i++) {
		const struct tensor_record *t = &table.records[i];
		json_t *row = inspect_record(t);

		document_set(row, "bits", json_integer(number_bits(t)));
		document_set(row, "offset", json_integer((json_int_t)t->offset));
		document_set(row, "bytes", json_integer((json_int_t)t->bytes));
		json_array_append_new(rows, row);
		parameters += (uint64_t)t->rows * t->cols;
	}
	document_set(document, "model", inspect_digest(base_model_digest(base)));
	document_set(document, "served", inspect_digest(base_served_digest(base)));
	document_set(document, "weights", json_string(base_weights_name(base)));
	r = inspect_chat(document, base->image, reason);
	document_set(document, "parameters", json_integer((json_int_t)parameters));
	document_set(document, "config", inspect_config(&base->config));
	document_set(document, "sections", inspect_sections(&base->image->header));
	document_set(document, "tensors", rows);
	if (r < 0)
		return reason_prefix(reason, r, "%s", path);
	*ret = take_ptr(document);
	return 0;
}
