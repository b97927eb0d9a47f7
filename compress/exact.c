#include "compress/exact.h"

#include "kernels/pack.h"
#include "store/base.h"

#include <string.h>

#define ROW_NUMBERS_ALIGNMENT 64u

/* Nothing is lost. */
static const struct tensor_quality exact = {.weight_error = 0, .activation_error = 0, .energy = 1};

int exact_vector(struct delta_file *f, enum tensor_role role, uint32_t layer, const float *values,
	uint32_t rows)
{
	struct tensor_record record = {
		.role = role, .layer = layer, .codec = CODEC_VECTOR_F32, .rows = rows, .cols = 1};
	struct tensor_quality quality = exact;
	uint64_t n_bytes = rows * sizeof(*values);
	uint8_t *payload = malloc(n_bytes + 1);

	if (!payload)
		return -ENOMEM;
	memcpy(payload, values, n_bytes);
	quality.delta_norm = __builtin_nanf("");
	return delta_file_add(f, &record, &quality, payload, n_bytes);
}

int exact_rows(
	struct delta_file *f, enum tensor_role role, uint32_t layer, const struct pair_rows *rows)
{
	struct tensor_record record = {
		.role = role,
		.layer = layer,
		.codec = CODEC_DENSE_ROWS,
		.n_parts = rows->n_changed,
		.rows = rows->rows,
		.cols = rows->cols,
	};
	struct tensor_quality quality = exact;
	uint64_t n_numbers =
		align_up(rows->n_changed * sizeof(*rows->changed), ROW_NUMBERS_ALIGNMENT);
	uint64_t n_bytes =
		n_numbers + mat_bf16_size(rows->n_changed, rows->cols) * sizeof(uint16_t);
	uint8_t *payload;

	if (rows->n_changed == 0)
		return 0;
	payload = calloc(1, n_bytes);
	if (!payload)
		return -ENOMEM;
	memcpy(payload, rows->changed, rows->n_changed * sizeof(*rows->changed));
	for (uint32_t i = 0; i < rows->n_changed; i++)
		mat_bf16_pack_row((uint16_t *)(void *)(payload + n_numbers), rows->cols, i,
			rows->values + (size_t)rows->changed[i] * rows->cols);
	quality.delta_norm = __builtin_nanf("");
	return delta_file_add(f, &record, &quality, payload, n_bytes);
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
