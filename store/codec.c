#include "store/codec.h"

#include "kernels/pack.h"

#include <inttypes.h>
#include <math.h>

uint64_t mat_bf16_bytes(uint32_t rows, uint32_t cols)
{
	return (uint64_t)mat_bf16_blocks(rows) * mat_bf16_pairs(cols) * 2 * MAT_BLOCK *
	       sizeof(uint16_t);
}

int codec_expect(const struct payload *p, enum tensor_codec codec, struct reason *reason)
{
	if (p->record->codec == codec)
		return 0;
	return reason_set(reason, -EBADMSG, "has codec %" PRIu32 ", expected %d", p->record->codec,
		(int)codec);
}

int codec_expect_finite(const float *values, uint64_t n, const char *what, struct reason *reason)
{
	for (uint64_t i = 0; i < n; i++)
		if (!isfinite(values[i]))
			return reason_set(reason, -EBADMSG,
				"%s %" PRIu64 " is %g, expected a finite number", what, i,
				(double)values[i]);
	return 0;
}

int codec_expect_finite_f16(
	const uint16_t *values, uint64_t n, const char *what, struct reason *reason)
{
	for (uint64_t i = 0; i < n; i++)
		if ((values[i] & 0x7c00) == 0x7c00)
			return reason_set(
				reason, -EBADMSG, "%s %" PRIu64 " is not a finite number", what, i);
	return 0;
}

int codec_vector_f32(const struct payload *p, const float **ret, struct reason *reason)
{
	const float *values = (const void *)p->bytes;
	int r = codec_expect(p, CODEC_VECTOR_F32, reason);

	if (r == 0)
		r = codec_expect_finite(values, p->record->rows, "value", reason);
	if (r < 0)
		return r;
	*ret = values;
	return 0;
}

int codec_expect_zero_padding(const struct mat_bf16 *m, struct reason *reason)
{
	size_t n_pairs = mat_bf16_pairs(m->cols), n_blocks = mat_bf16_blocks(m->rows);
	uint32_t last_rows = m->rows % MAT_BLOCK;
	const uint16_t *block;
	uint16_t found = 0;

	for (size_t b = 0; m->cols % 2 && b < n_blocks; b++) {
		block = m->data + ((b + 1) * n_pairs - 1) * 2 * MAT_BLOCK;
		for (size_t i = 1; i < 2 * MAT_BLOCK; i += 2)
			found |= block[i];
	}
	if (found)
		return reason_set(reason, -EBADMSG, "padding after column %" PRIu32 " is not zero",
			m->cols - 1);
	block = m->data + (n_blocks - 1) * n_pairs * 2 * MAT_BLOCK;
	for (size_t pair = 0; last_rows && pair < n_pairs; pair++)
		for (size_t i = 2 * last_rows; i < 2 * MAT_BLOCK; i++)
			found |= block[pair * 2 * MAT_BLOCK + i];
	if (found)
		return reason_set(
			reason, -EBADMSG, "padding after row %" PRIu32 " is not zero", m->rows - 1);
	return 0;
}

static int mat_bf16_of(const struct payload *p, struct base_matrix *ret, struct reason *reason)
{
	const struct mat_bf16 m = {
		.data = (const void *)p->bytes,
		.rows = p->record->rows,
		.cols = p->record->cols,
	};
	int r = codec_expect(p, CODEC_MAT_BF16, reason);

	if (r == 0)
		r = codec_expect_zero_padding(&m, reason);
	if (r == 0)
		*ret = base_matrix_of_bf16(&m);
	return r;
}

struct mat_int codec_mat_int(const struct payload *p)
{
	const struct tensor_record *record = p->record;
	struct part_layout l = part_layout(record);

	return (struct mat_int){
		.codes = p->bytes + l.v.codes,
		.scales = record->bits == 4 ? NULL : (const void *)(p->bytes + l.v.scales),
		.grids = record->bits == 4 ? p->bytes + l.v.scales : NULL,
		.rows = record->rows,
		.cols = record->cols,
		.bits = record->bits,
	};
}

/* Codes, steps and zeros have no invalid values. */
static int mat_int_of(const struct payload *p, struct base_matrix *ret, struct reason *reason)
{
	const struct mat_int m = codec_mat_int(p);
	uint64_t finite = mat_int_finite_scales(&m);

	if (finite < mat_int_n_scales(m.rows, m.cols))
		return reason_set(
			reason, -EBADMSG, "scale %" PRIu64 " is not a finite number", finite);
	*ret = (struct base_matrix){CODEC_MAT_INT, m.rows, m.cols, {.ints = m}};
	return 0;
}

int codec_base_matrix(const struct payload *p, struct base_matrix *ret, struct reason *reason)
{
	if (p->record->codec == CODEC_MAT_INT)
		return mat_int_of(p, ret, reason);
	return mat_bf16_of(p, ret, reason);
}

int codec_part(const struct payload *p, struct delta_part *ret, struct reason *reason)
{
	ret->codec = p->record->codec;
	switch ((enum tensor_codec)p->record->codec) {
	case CODEC_ROWS:
		return codec_rows(p, &ret->rows, reason);
	case CODEC_FACTORS:
		return codec_factors(p, &ret->factors, reason);
	case CODEC_CODES:
		return codec_codes(p, &ret->codes, reason);
	case CODEC_DROPOUT:
		return codec_dropout(p, &ret->dropout, reason);
	case CODEC_VECTOR_F32:
	case CODEC_MAT_BF16:
	case CODEC_MAT_INT:
		break;
	}
	return reason_set(reason, -EOPNOTSUPP, "codec %" PRIu32 " cannot stand in a matrix",
		p->record->codec);
}
