#include "store/tensor_table.h"

#include "store/part.h"

#include <inttypes.h>
#include <string.h>

int tensor_reason(const struct tensor_record *record, int error, struct reason *reason)
{
	return reason_prefix(reason, error, "layer %" PRIu32 " %s", record->layer,
		tensor_role_name((enum tensor_role)record->role));
}

int tensor_table_config(const struct image *image, struct model_config *ret, struct reason *reason)
{
	struct model_config config;
	uint64_t n_bytes;
	const uint8_t *bytes = image_section(image, SECTION_CONFIG, &n_bytes);
	int r;

	if (!bytes)
		return reason_set(reason, -EBADMSG, "config: the section is missing");
	if (n_bytes != sizeof(config))
		return reason_set(reason, -EBADMSG,
			"config: the section has %" PRIu64 " bytes, expected %zu", n_bytes,
			sizeof(config));
	memcpy(&config, bytes, sizeof(config));
	r = model_config_check(&config, reason);
	if (r < 0)
		return r;
	*ret = config;
	return 0;
}

static bool comes_after(const struct tensor_record *r, const struct tensor_record *previous)
{
	if (r->level != previous->level)
		return r->level > previous->level;
	if (r->layer != previous->layer)
		return r->layer > previous->layer;
	return r->role > previous->role;
}

static int check_identity(const struct tensor_record *record, const struct tensor_record *previous,
	const struct model_config *config, struct reason *reason)
{
	uint32_t rows, cols;

	if (record->role >= N_ROLES)
		return reason_set(reason, -EOPNOTSUPP, "role %" PRIu32 " is unknown", record->role);
	if (!model_config_shape(
		    config, (enum tensor_role)record->role, record->layer, &rows, &cols))
		return reason_set(reason, -EBADMSG, "the model has no such tensor");
	if (previous && !comes_after(record, previous))
		return reason_set(reason, -EBADMSG,
			"stands after level %u layer %" PRIu32
			" %s, expected ascending (level, layer, role), each once",
			previous->level, previous->layer,
			tensor_role_name((enum tensor_role)previous->role));
	if (record->rows != rows || record->cols != cols)
		return reason_set(reason, -EBADMSG,
			"is %" PRIu32 " x %" PRIu32 ", the config makes it %" PRIu32 " x %" PRIu32,
			record->rows, record->cols, rows, cols);
	return 0;
}

static int check_place(
	const struct tensor_record *record, uint64_t free_from, uint64_t end, struct reason *reason)
{
	if (record->offset % PART_ALIGNMENT != 0)
		return reason_set(reason, -EBADMSG,
			"payload at %" PRIu64 ", expected a multiple of %u", record->offset,
			PART_ALIGNMENT);
	if (record->offset < free_from || !range_inside(record->offset, record->bytes, end))
		return reason_set(reason, -EBADMSG,
			"payload takes %" PRIu64 " bytes at %" PRIu64 ", free are %" PRIu64
			" to %" PRIu64,
			record->bytes, record->offset, free_from, end);
	return 0;
}

static int check_level(
	const struct tensor_record *record, const struct format_header *h, struct reason *reason)
{
	if (record->level >= h->n_levels)
		return reason_set(reason, -EBADMSG, "has level %u, the file has %" PRIu32 " levels",
			record->level, h->n_levels);
	if (record->level > 0 && tensor_role_is_vector((enum tensor_role)record->role))
		return reason_set(
			reason, -EBADMSG, "is a vector of level %u, expected 0", record->level);
	return 0;
}

static int check_records(const struct tensor_table *t, const struct model_config *config,
	const struct format_header *h, struct reason *reason)
{
	uint64_t free_from = t->weights_begin;

	for (size_t i = 0; i < t->n_all; i++) {
		const struct tensor_record *record = &t->records[i];
		int r = check_identity(record, i ? record - 1 : NULL, config, reason);

		if (r == 0)
			r = part_check(record, reason);
		if (r == 0)
			r = check_level(record, h, reason);
		if (r == 0 && record->level > 0)
			free_from = max_u64(free_from, h->level_end[record->level - 1]);
		if (r == 0)
			r = check_place(record, free_from,
				min_u64(t->weights_end, h->level_end[record->level]), reason);
		if (r < 0)
			return tensor_reason(record, r, reason);
		free_from = record->offset + record->bytes;
	}
	return 0;
}

static size_t count_present(const struct tensor_table *t, uint32_t n_levels)
{
	size_t n = 0;

	while (n < t->n_all && t->records[n].level < n_levels)
		n++;
	return n;
}

/* Of the weights as the writer made them: in a file that was cut, past its end. */
static uint64_t weights_end(const struct format_header *h)
{
	for (uint32_t i = 0; i < h->n_sections; i++)
		if (h->sections[i].kind == SECTION_WEIGHTS)
			return h->sections[i].offset + h->sections[i].bytes;
	return 0;
}

int tensor_table_open(const struct image *image, const struct model_config *config,
	struct tensor_table *ret, struct reason *reason)
{
	struct tensor_table t = {.bytes = image->bytes};
	uint64_t n_bytes, n_weights;
	const uint8_t *weights = image_section(image, SECTION_WEIGHTS, &n_weights);
	int r;

	t.records = (const void *)image_section(image, SECTION_TENSORS, &n_bytes);
	if (!t.records || !weights)
		return reason_set(reason, -EBADMSG, "tensors: the section of %s is missing",
			t.records ? "weights" : "tensor records");
	if (n_bytes % sizeof(struct tensor_record) != 0)
		return reason_set(reason, -EBADMSG,
			"tensors: the section has %" PRIu64 " bytes, expected a multiple of %zu",
			n_bytes, sizeof(struct tensor_record));
	t.n_all = n_bytes / sizeof(struct tensor_record);
	t.weights_begin = (uint64_t)(weights - image->bytes);
	t.weights_end = weights_end(&image->header);
	r = check_records(&t, config, &image->header, reason);
	if (r < 0)
		return r;
	t.n = count_present(&t, image->n_levels);
	*ret = t;
	return 0;
}
