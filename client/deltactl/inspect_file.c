#include "client/deltactl/inspect_file.h"

#include "client/deltactl/document.h"
#include "engine/chat.h"
#include "store/base.h"
#include "store/tensor_table.h"

#include <math.h>

json_t *inspect_digest(const struct digest *d)
{
	char hex[DIGEST_HEX_SIZE];

	digest_hex(d, hex);
	return json_string(hex);
}

json_t *inspect_measured(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

static const char *section_name(uint32_t kind)
{
	switch ((enum section_kind)kind) {
	case SECTION_CONFIG:
		return "config";
	case SECTION_TENSORS:
		return "tensors";
	case SECTION_TOKENIZER:
		return "tokenizer";
	case SECTION_CHAT:
		return "chat";
	case SECTION_CERTIFICATE:
		return "certificate";
	case SECTION_SELFTEST:
		return "selftest";
	case SECTION_WEIGHTS:
		return "weights";
	}
	return "unknown";
}

static const char *codec_name(uint32_t codec)
{
	switch ((enum tensor_codec)codec) {
	case CODEC_VECTOR_F32:
		return "vector-f32";
	case CODEC_MAT_BF16:
		return "mat-bf16";
	case CODEC_ROWS:
		return "rows";
	case CODEC_FACTORS:
		return "factors";
	case CODEC_CODES:
		return "codes";
	case CODEC_DROPOUT:
		return "dropout";
	case CODEC_MAT_INT:
		return "mat-int";
	}
	return "unknown";
}

json_t *inspect_header(const struct image *image, const char *kind)
{
	const struct format_header *h = &image->header;
	json_t *document = json_object();

	document_set(document, "kind", json_string(kind));
	document_set(document, "version", json_integer(h->version));
	document_set(document, "file_bytes", json_integer((json_int_t)image->n_bytes));
	document_set(document, "root", inspect_digest(&h->root));
	return document;
}

int inspect_chat(json_t *document, const struct image *image, struct reason *reason)
{
	struct chat_format *format = NULL;
	uint64_t n = 0;
	const uint8_t *section = image_section(image, SECTION_CHAT, &n);
	int r;

	if (!section) {
		document_set(document, "chat_format", json_null());
		return 0;
	}
	r = chat_format_new(section, n, &format, reason);
	if (r < 0)
		return reason_prefix(reason, r, "chat section");
	document_set(document, "chat_format", json_string(chat_format_name(format)));
	chat_format_free(format);
	return 0;
}

json_t *inspect_sections(const struct format_header *h)
{
	json_t *sections = json_array();

	for (uint32_t i = 0; i < h->n_sections; i++) {
		json_t *row = json_object();

		document_set(row, "section", json_string(section_name(h->sections[i].kind)));
		document_set(row, "offset", json_integer((json_int_t)h->sections[i].offset));
		document_set(row, "bytes", json_integer((json_int_t)h->sections[i].bytes));
		json_array_append_new(sections, row);
	}
	return sections;
}

static json_t *describe_shape(const struct tensor_record *t)
{
	return tensor_role_is_vector((enum tensor_role)t->role)
		       ? json_pack("[I]", (json_int_t)t->rows)
		       : json_pack("[I, I]", (json_int_t)t->rows, (json_int_t)t->cols);
}

json_t *inspect_record(const struct tensor_record *t)
{
	json_t *row = json_object();

	document_set(row, "layer", json_integer(t->layer));
	document_set(row, "role", json_string(tensor_role_name((enum tensor_role)t->role)));
	document_set(row, "codec", json_string(codec_name(t->codec)));
	document_set(row, "shape", describe_shape(t));
	return row;
}
