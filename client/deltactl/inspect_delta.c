#include "client/deltactl/document.h"
#include "client/deltactl/inspect.h"
#include "client/deltactl/inspect_config.h"
#include "client/deltactl/inspect_file.h"
#include "compress/certificate.h"
#include "compress/exact.h"
#include "foreign/json.h"
#include "store/delta.h"
#include "store/part.h"
#include "store/tensor_table.h"

#include <math.h>
#include <string.h>

static json_t *describe_certificate(const struct certificate *c)
{
	json_t *certificate = json_object();

	document_set(certificate, "method",
		json_stringn(c->method, strnlen(c->method, sizeof(c->method))));
	document_set(certificate, "calibration",
		c->n_calibration_tokens ? inspect_digest(&c->calibration) : json_null());
	document_set(certificate, "calibration_tokens",
		json_integer((json_int_t)c->n_calibration_tokens));
	document_set(certificate, "eval_tokens", json_integer((json_int_t)c->n_eval_tokens));
	document_set(certificate, "kl", inspect_measured(c->kl));
	document_set(certificate, "agreement", inspect_measured(c->agreement));
	document_set(certificate, "perplexity_base", inspect_measured(c->perplexity_base));
	document_set(certificate, "perplexity_tuned", inspect_measured(c->perplexity_tuned));
	document_set(certificate, "perplexity_delta", inspect_measured(c->perplexity_delta));
	document_set(
		certificate, "projection_bytes", json_integer((json_int_t)c->projection_bytes));
	document_set(certificate, "projection_original_bytes",
		json_integer((json_int_t)c->projection_original_bytes));
	document_set(certificate, "projection_ratio",
		inspect_measured(
			(double)c->projection_original_bytes / (double)c->projection_bytes));
	return certificate;
}

/* Figures on the tasks that were kept back. */
static json_t *describe_tasks(const struct certificate_tasks *t)
{
	json_t *tasks = json_object();

	document_set(tasks, "tasks", json_integer((json_int_t)t->n_tasks));
	document_set(tasks, "tokens", json_integer((json_int_t)t->n_tokens));
	document_set(tasks, "kl", inspect_measured(t->kl));
	document_set(tasks, "agreement", inspect_measured(t->agreement));
	document_set(tasks, "perplexity_base", inspect_measured(t->perplexity_base));
	document_set(tasks, "perplexity_tuned", inspect_measured(t->perplexity_tuned));
	document_set(tasks, "perplexity_delta", inspect_measured(t->perplexity_delta));
	return tasks;
}

static const char *why_name(uint32_t why)
{
	switch ((enum quality_why)why) {
	case WHY_NONE:
		return "-";
	case WHY_METHOD:
		return "method";
	case WHY_LOWEST_COST:
		return "lowest cost";
	case WHY_EXACT:
		return "exact";
	}
	return "-";
}

/* Bits of one code or number. */
static uint32_t number_bits(const struct tensor_record *t)
{
	if (t->codec == CODEC_VECTOR_F32)
		return 32;
	return t->codec == CODEC_ROWS ? 16 : t->bits;
}

static json_t *describe_spectrum(const struct tensor_quality *q)
{
	json_t *spectrum;

	if (q->spectrum[FORMAT_SPECTRUM - 1] == 0)
		return json_null();
	spectrum = json_array();
	for (size_t i = 0; i < FORMAT_SPECTRUM; i++)
		json_array_append_new(spectrum, json_real(q->spectrum[i] / 255.0));
	return spectrum;
}

static void describe_quality(json_t *row, const struct tensor_quality *q)
{
	document_set(row, "weight_error", inspect_measured((double)q->weight_error));
	document_set(row, "activation_error", inspect_measured((double)q->activation_error));
	document_set(row, "why", json_string(why_name(q->why)));
	document_set(row, "loss", inspect_measured((double)q->loss));
	document_set(row, "energy", inspect_measured((double)q->energy));
	document_set(row, "delta_norm", inspect_measured((double)q->delta_norm));
	document_set(row, "unchanged",
		q->unchanged == QUALITY_UNMEASURED
			? json_null()
			: json_real((double)q->unchanged / (QUALITY_UNMEASURED - 1)));
	document_set(row, "spectrum", describe_spectrum(q));
}

/* What the table has room for comes first. */
static json_t *describe_part(const struct delta *delta, size_t i)
{
	const struct tensor_record *t = &delta->records[i];
	uint64_t expanded = part_layout(t).expanded_bytes;
	json_t *row = inspect_record(t);

	document_set(row, "level", json_integer(t->level));
	document_set(row, "bits", json_integer(number_bits(t)));
	document_set(row, "bits_per_weight",
		inspect_measured(8.0 * (double)t->bytes / ((double)t->rows * t->cols)));
	document_set(row, "bytes", json_integer((json_int_t)t->bytes));
	document_set(row, "memory_bytes", json_integer((json_int_t)(t->bytes + expanded)));
	if (delta->qualities)
		describe_quality(row, &delta->qualities[i]);
	document_set(row, "n", json_integer(t->n));
	document_set(row, "coded", json_boolean(t->coding == CODING_STREAM));
	document_set(row, "expanded_bytes", json_integer((json_int_t)expanded));
	document_set(row, "offset", json_integer((json_int_t)t->offset));
	return row;
}

static bool is_cut(const struct delta *delta)
{
	return delta->image->n_levels < delta->image->header.n_levels;
}

/* Of levels 0 .. n_levels - 1: payloads and records of the tensors that the function is true of. */
static uint64_t sum_bytes(
	const struct delta *delta, uint32_t n_levels, bool (*of)(enum tensor_role role))
{
	uint64_t sum = 0;

	for (size_t i = 0; i < delta->n_records; i++) {
		const struct tensor_record *t = &delta->records[i];

		if (t->level < n_levels && of((enum tensor_role)t->role))
			sum += t->bytes + sizeof(*t);
	}
	return sum;
}

static bool is_outer_matrix(enum tensor_role role)
{
	return role == ROLE_EMBED || role == ROLE_HEAD;
}

/* Bits of a weight of the projections that changed. */
static double projection_bits(const struct delta *delta, uint32_t n_levels)
{
	uint64_t bytes = sum_bytes(delta, n_levels, tensor_role_is_projection);

	if (!delta->certificate || delta->certificate->projection_original_bytes == 0)
		return (double)NAN;
	return 16.0 * (double)bytes / (double)delta->certificate->projection_original_bytes;
}

static double level_kl(const struct delta *delta, uint32_t level)
{
	const struct format_header *h = &delta->image->header;
	const struct certificate *c = delta->certificate;

	if (c && level + 1 == h->n_levels)
		return c->kl;
	for (uint64_t i = 0; c && i < c->n_points; i++)
		if (delta->points[i].file_bytes == h->level_end[level])
			return delta->points[i].kl;
	return (double)NAN;
}

static json_t *describe_levels(const struct delta *delta)
{
	json_t *levels = json_array();

	for (uint32_t i = 0; i < delta->image->n_levels; i++) {
		json_t *row = json_object();
		uint64_t end = delta->image->header.level_end[i];

		document_set(row, "level", json_integer(i));
		document_set(row, "file_bytes", json_integer((json_int_t)end));
		document_set(
			row, "bits_per_weight", inspect_measured(projection_bits(delta, i + 1)));
		document_set(row, "kl", inspect_measured(level_kl(delta, i)));
		json_array_append_new(levels, row);
	}
	return levels;
}

static json_t *describe_point(double bits, uint64_t file_bytes, double kl)
{
	json_t *row = json_object();

	document_set(row, "bits_per_weight", inspect_measured(bits));
	document_set(
		row, "file_bytes", file_bytes ? json_integer((json_int_t)file_bytes) : json_null());
	document_set(row, "kl", inspect_measured(kl));
	return row;
}

/* Points that the method measured itself are of text of its own: the certificate's KL is no part of
 * that curve, and their last is the file. */
static bool is_of_method(const struct delta *delta)
{
	uint64_t n = delta->certificate->n_points;

	return n > 0 && delta->points[n - 1].file_bytes == 0;
}

static int compare_points(const void *left, const void *right)
{
	const struct rate_point *a = left, *b = right;

	return (a->bits > b->bits) - (a->bits < b->bits);
}

static json_t *describe_points_of_method(const struct delta *delta)
{
	struct rate_point sorted[FORMAT_MAX_POINTS];
	json_t *points = json_array();
	size_t n = 0;

	for (uint64_t i = 0; i < delta->certificate->n_points; i++)
		if (delta->points[i].file_bytes == 0)
			sorted[n++] = delta->points[i];
	qsort(sorted, n, sizeof(*sorted), compare_points);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(points, describe_point(sorted[i].bits, 0, sorted[i].kl));
	return points;
}

/* The points that the compressor left and the whole file. */
static json_t *describe_rate_curve(const struct delta *delta)
{
	const struct certificate *c = delta->certificate;
	json_t *points;

	if (is_of_method(delta))
		return describe_points_of_method(delta);
	points = json_array();

	for (uint64_t i = 0; i < c->n_points; i++)
		json_array_append_new(
			points, describe_point(delta->points[i].bits, delta->points[i].file_bytes,
					delta->points[i].kl));
	if (c->projection_original_bytes > 0)
		json_array_append_new(
			points, describe_point(16.0 * (double)c->projection_bytes /
						       (double)c->projection_original_bytes,
					delta->image->header.file_bytes, c->kl));
	return points;
}

/* The file itself and what its parts are expanded into. */
static uint64_t memory_bytes(const struct delta *delta)
{
	uint64_t sum = delta->image->n_bytes;

	for (size_t i = 0; i < delta->n_records; i++)
		sum += part_layout(&delta->records[i]).expanded_bytes;
	return sum;
}

static json_t *describe_totals(const struct delta *delta)
{
	uint32_t n_levels = delta->image->n_levels;
	uint64_t file = delta->image->n_bytes, original = model_16bit_bytes(&delta->config);
	uint64_t projections = sum_bytes(delta, n_levels, tensor_role_is_projection);
	uint64_t outer = sum_bytes(delta, n_levels, is_outer_matrix);
	double bits = projection_bits(delta, n_levels);
	json_t *totals = json_object();

	document_set(totals, "file_bytes", json_integer((json_int_t)file));
	document_set(totals, "original_bytes", json_integer((json_int_t)original));
	document_set(totals, "file_ratio", inspect_measured((double)original / (double)file));
	document_set(totals, "memory_bytes", json_integer((json_int_t)memory_bytes(delta)));
	document_set(totals, "projection_bytes", json_integer((json_int_t)projections));
	document_set(totals, "projection_bits", inspect_measured(bits));
	document_set(totals, "projection_ratio", inspect_measured(16 / bits));
	document_set(totals, "embedding_bytes", json_integer((json_int_t)outer));
	document_set(totals, "rest_bytes", json_integer((json_int_t)(file - projections - outer)));
	document_set(totals, "kl", inspect_measured(level_kl(delta, n_levels - 1)));
	return totals;
}

static json_t *describe_delta(const struct delta *delta)
{
	const struct format_header *h = &delta->image->header;
	json_t *document = inspect_header(delta->image, "delta"), *parts = json_array();

	for (size_t i = 0; i < delta->n_records; i++)
		json_array_append_new(parts, describe_part(delta, i));
	document_set(document, "cut", json_boolean(is_cut(delta)));
	document_set(document, "fits_base", inspect_digest(&h->model));
	document_set(document, "tuned", inspect_digest(&h->tuned));
	document_set(document, "totals", describe_totals(delta));
	document_set(document, "config", inspect_config(&delta->config));
	if (delta->certificate) {
		document_set(document, "certificate", describe_certificate(delta->certificate));
		if (delta->tasks)
			document_set(document, "certificate_text",
				json_string(certificate_text_name(delta->tasks->text)));
		if (delta->tasks && delta->tasks->n_tasks > 0)
			document_set(document, "kept_back_tasks", describe_tasks(delta->tasks));
		document_set(document, "rate_curve", describe_rate_curve(delta));
	}
	document_set(document, "levels", describe_levels(delta));
	document_set(document, "sections", inspect_sections(h));
	document_set(document, "tensors", parts);
	return document;
}

int inspect_delta(
	const char *path, const struct progress *progress, json_t **ret, struct reason *reason)
{
	_cleanup_(deltap) struct delta *delta = NULL;
	_cleanup_(json_freep) json_t *document = NULL;
	int r;

	r = delta_open(path, NULL, &delta, progress, reason);
	if (r < 0)
		return r;
	document = describe_delta(delta);
	r = inspect_chat(document, delta->image, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", path);
	*ret = take_ptr(document);
	return 0;
}
