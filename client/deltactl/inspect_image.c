#include "client/deltactl/document.h"
#include "client/deltactl/inspect.h"
#include "client/deltactl/inspect_config.h"

#include "engine/chat.h"
#include "foreign/json.h"
#include "store/delta.h"
#include "store/part.h"
#include "store/tensor_table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static json_t *digest_text(const struct digest *d)
{
	char hex[DIGEST_HEX_SIZE];

	digest_hex(d, hex);
	return json_string(hex);
}

/* JSON has no NaN; a number that was not measured is null. */
static json_t *measured(double value)
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
	}
	return "unknown";
}

static json_t *describe_header(const struct image *image, const char *kind)
{
	const struct format_header *h = &image->header;
	json_t *document = json_object();

	document_set(document, "kind", json_string(kind));
	document_set(document, "version", json_integer(h->version));
	document_set(document, "file_bytes", json_integer((json_int_t)h->file_bytes));
	document_set(document, "root", digest_text(&h->root));
	return document;
}

/* null where the file has no format of its own. */
static int describe_chat(json_t *document, const struct image *image, struct reason *reason)
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

static json_t *describe_sections(const struct format_header *h)
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

static json_t *describe_record(const struct tensor_record *t)
{
	json_t *row = json_object();

	document_set(row, "layer", json_integer(t->layer));
	document_set(row, "role", json_string(tensor_role_name((enum tensor_role)t->role)));
	document_set(row, "codec", json_string(codec_name(t->codec)));
	document_set(row, "shape", describe_shape(t));
	return row;
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
	document = describe_header(base->image, "base");
	rows = json_array();
	for (size_t i = 0; i < table.n; i++) {
		const struct tensor_record *t = &table.records[i];
		json_t *row = describe_record(t);

		document_set(row, "offset", json_integer((json_int_t)t->offset));
		document_set(row, "bytes", json_integer((json_int_t)t->bytes));
		json_array_append_new(rows, row);
		parameters += (uint64_t)t->rows * t->cols;
	}
	document_set(document, "model", digest_text(base_model_digest(base)));
	r = describe_chat(document, base->image, reason);
	document_set(document, "parameters", json_integer((json_int_t)parameters));
	document_set(document, "config", inspect_config(&base->config));
	document_set(document, "sections", describe_sections(&base->image->header));
	document_set(document, "tensors", rows);
	if (r < 0)
		return reason_prefix(reason, r, "%s", path);
	*ret = take_ptr(document);
	return 0;
}

static json_t *describe_certificate(const struct certificate *c)
{
	json_t *certificate = json_object();

	document_set(certificate, "method",
		json_stringn(c->method, strnlen(c->method, sizeof(c->method))));
	document_set(certificate, "calibration", digest_text(&c->calibration));
	document_set(certificate, "calibration_tokens",
		json_integer((json_int_t)c->n_calibration_tokens));
	document_set(certificate, "eval_tokens", json_integer((json_int_t)c->n_eval_tokens));
	document_set(certificate, "kl", measured(c->kl));
	document_set(certificate, "agreement", measured(c->agreement));
	document_set(certificate, "perplexity_base", measured(c->perplexity_base));
	document_set(certificate, "perplexity_tuned", measured(c->perplexity_tuned));
	document_set(certificate, "perplexity_delta", measured(c->perplexity_delta));
	document_set(
		certificate, "projection_bytes", json_integer((json_int_t)c->projection_bytes));
	document_set(certificate, "projection_original_bytes",
		json_integer((json_int_t)c->projection_original_bytes));
	document_set(certificate, "projection_ratio",
		measured((double)c->projection_original_bytes / (double)c->projection_bytes));
	return certificate;
}

static uint32_t number_bits(const struct tensor_record *t)
{
	if (t->codec == CODEC_VECTOR_F32)
		return 32;
	return t->codec == CODEC_ROWS ? 16 : t->bits;
}

/* How a part is stored; the bits are those of one code or number. */
static void describe_storage(json_t *row, const struct tensor_record *t)
{
	document_set(row, "level", json_integer(t->level));
	document_set(row, "bits", json_integer(number_bits(t)));
	document_set(row, "n", json_integer(t->n));
	document_set(row, "coded", json_boolean(t->coding == CODING_STREAM));
	document_set(row, "expanded_bytes",
		json_integer((json_int_t)part_layout(t).expanded_bytes));
}

static json_t *describe_delta_record(const struct delta *delta, size_t i)
{
	const struct tensor_record *t = &delta->records[i];
	const struct tensor_quality *q = delta->qualities ? &delta->qualities[i] : NULL;
	json_t *row = describe_record(t);

	describe_storage(row, t);
	document_set(row, "bytes", json_integer((json_int_t)t->bytes));
	document_set(row, "bits_per_weight",
		measured(8.0 * (double)t->bytes / ((double)t->rows * t->cols)));
	document_set(row, "weight_error", q ? measured((double)q->weight_error) : json_null());
	document_set(
		row, "activation_error", q ? measured((double)q->activation_error) : json_null());
	document_set(row, "energy", q ? measured((double)q->energy) : json_null());
	document_set(row, "delta_norm", q ? measured((double)q->delta_norm) : json_null());
	document_set(row, "offset", json_integer((json_int_t)t->offset));
	return row;
}

int inspect_delta(
	const char *path, const struct progress *progress, json_t **ret, struct reason *reason)
{
	_cleanup_(deltap) struct delta *delta = NULL;
	_cleanup_(json_freep) json_t *document = NULL;
	json_t *rows;
	int r;

	r = delta_open(path, NULL, &delta, progress, reason);
	if (r < 0)
		return r;
	document = describe_header(delta->image, "delta");
	rows = json_array();
	for (size_t i = 0; i < delta->n_records; i++)
		json_array_append_new(rows, describe_delta_record(delta, i));
	document_set(document, "fits_base", digest_text(&delta->image->header.model));
	document_set(document, "tuned", digest_text(&delta->image->header.tuned));
	r = describe_chat(document, delta->image, reason);
	document_set(document, "config", inspect_config(&delta->config));
	if (delta->certificate)
		document_set(document, "certificate", describe_certificate(delta->certificate));
	document_set(document, "sections", describe_sections(&delta->image->header));
	document_set(document, "tensors", rows);
	if (r < 0)
		return reason_prefix(reason, r, "%s", path);
	*ret = take_ptr(document);
	return 0;
}
