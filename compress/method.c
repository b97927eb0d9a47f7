#include "compress/method.h"

#include "compress/methods.h"

#include <string.h>

static const struct method *const methods[] = {
	&method_auto,
	&method_delta_come,
	&method_delta_come_solved,
	&method_delta_come_whitened,
	&method_deltadq,
	&method_k_bit,
	&method_sign,
	&method_sign_row,
	&method_low_rank,
	&method_low_rank_whitened,
	&method_low_rank_k_bit,
	&method_sparse,
	&method_lossless,
	&method_dense,
	&method_zero,
	&method_lora,
};

const struct method *method_at(size_t i)
{
	return i < array_len(methods) ? methods[i] : NULL;
}

const struct method *method_find(const char *name)
{
	for (size_t i = 0; i < array_len(methods); i++)
		if (strcmp(methods[i]->name, name) == 0)
			return methods[i];
	return NULL;
}

const struct method *method_taking(enum method_takes what)
{
	for (size_t i = 0; i < array_len(methods); i++)
		if (methods[i]->takes & what)
			return methods[i];
	return NULL;
}

int method_check_ratio(const struct method_options *o, struct reason *reason)
{
	if (o->ratio != 0 && o->bits != 0)
		return reason_set(
			reason, -EINVAL, "ratio and bits are both given, expected one of them");
	if (o->ratio != 0 && !(o->ratio >= 1 && o->ratio <= 100000))
		return reason_set(reason, -EINVAL, "ratio is %g, expected 1 to 100000", o->ratio);
	if (o->bits != 0 && !(o->bits >= 16.0 / 100000 && o->bits <= 16))
		return reason_set(reason, -EINVAL, "bits are %g, expected 0.00016 to 16", o->bits);
	return 0;
}

double method_ratio(const struct method *m, const struct method_options *options)
{
	if (options->ratio > 0)
		return options->ratio;
	if (options->bits > 0 && m->default_ratio > 0)
		return 16 / options->bits;
	return m->default_ratio;
}

uint64_t method_codes_bytes(uint32_t rows, uint32_t cols, uint8_t bits, enum grid_kind grid)
{
	const struct tensor_record record = {
		.codec = CODEC_CODES,
		.n = rows,
		.rows = rows,
		.cols = cols,
		.bits = bits,
		.grid = (uint8_t)grid,
	};

	return part_layout(&record).end + METHOD_RECORD_BYTES;
}

struct part_place method_matrix_place(const struct method_matrix *m, uint8_t level)
{
	return (struct part_place){
		.role = m->role,
		.layer = m->layer,
		.rows = m->rows,
		.cols = m->cols,
		.level = level,
	};
}

int method_matrix_add(struct method_matrix *m, struct part *part)
{
	if (m->n_parts == METHOD_MAX_PARTS) {
		part_done(part);
		return -E2BIG;
	}
	m->parts[m->n_parts++] = part_take(part);
	return 0;
}

void method_matrix_done(struct method_matrix *m)
{
	for (uint32_t i = 0; i < m->n_parts; i++)
		part_done(&m->parts[i]);
	m->n_parts = 0;
}
