#include "compress/exact.h"

#include "compress/parts.h"
#include "store/base.h"

#include <string.h>

int exact_vector(struct delta_file *f, enum tensor_role role, uint32_t layer, const float *values,
	uint32_t rows)
{
	const struct part_place place = {.role = role, .layer = layer, .rows = rows, .cols = 1};
	struct part part;
	int r;

	r = part_vector(&place, values, &part);
	return r < 0 ? r : delta_file_add(f, &part);
}

/* The rows that changed, one after the other. */
static uint16_t *gather(const struct pair_rows *rows)
{
	uint16_t *values = malloc(((size_t)rows->n_changed * rows->cols + 1) * sizeof(*values));

	for (uint32_t i = 0; values && i < rows->n_changed; i++)
		memcpy(values + (size_t)i * rows->cols,
			rows->values + (size_t)rows->changed[i] * rows->cols,
			rows->cols * sizeof(*values));
	return values;
}

int exact_rows(
	struct delta_file *f, enum tensor_role role, uint32_t layer, const struct pair_rows *rows)
{
	const struct part_place place = {
		.role = role, .layer = layer, .rows = rows->rows, .cols = rows->cols};
	_cleanup_(freep) uint16_t *values = gather(rows);
	const struct new_rows new_rows = {
		.n = rows->n_changed, .rows = rows->changed, .values = values};
	struct part part;
	int r;

	if (rows->n_changed == 0)
		return 0;
	if (!values)
		return -ENOMEM;
	r = part_rows(&place, &new_rows, &part);
	if (r < 0)
		return r;
	part.quality.weight_error = part.quality.activation_error = 0;
	part.quality.why = WHY_EXACT;
	return delta_file_add(f, &part);
}

uint64_t model_16bit_bytes(const struct model_config *c)
{
	uint64_t numbers = 0;
	uint32_t rows, cols;

	for (uint32_t layer = 0; layer < c->n_layers; layer++)
		for (uint32_t role = 0; role < N_ROLES; role++)
			if (model_config_shape(c, (enum tensor_role)role, layer, &rows, &cols))
				numbers += (uint64_t)rows * cols;
	return numbers * sizeof(uint16_t);
}
