#include "store/codec.h"

#include <inttypes.h>
#include <math.h>

uint64_t mat_bf16_bytes(uint32_t rows, uint32_t cols)
{
	return (uint64_t)mat_bf16_blocks(rows) * mat_bf16_pairs(cols) * 2 * MAT_BLOCK *
	       sizeof(uint16_t);
}

uint64_t dense_rows_layout(uint32_t n_rows, uint32_t cols, uint64_t *ret_values)
{
	*ret_values = align_up((uint64_t)n_rows * sizeof(uint32_t), 64);
	return *ret_values + mat_bf16_bytes(n_rows, cols);
}

int codec_expect(
	const struct payload *p, enum tensor_codec codec, uint64_t n_bytes, struct reason *reason)
{
	if (p->record->codec != codec)
		return reason_set(reason, -EBADMSG, "has codec %" PRIu32 ", expected %d",
			p->record->codec, (int)codec);
	if (p->record->bytes != n_bytes)
		return reason_set(reason, -EBADMSG,
			"payload has %" PRIu64 " bytes, expected %" PRIu64, p->record->bytes,
			n_bytes);
	return 0;
}

static int expect_no_parts(const struct payload *p, struct reason *reason)
{
	if (p->record->n_parts == 0)
		return 0;
	return reason_set(
		reason, -EBADMSG, "has %" PRIu32 " parts, expected none", p->record->n_parts);
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

int codec_vector_f32(const struct payload *p, const float **ret, struct reason *reason)
{
	const float *values = (const void *)p->bytes;
	int r = codec_expect(
		p, CODEC_VECTOR_F32, (uint64_t)p->record->rows * sizeof(float), reason);

	if (r == 0)
		r = expect_no_parts(p, reason);
	if (r == 0)
		r = codec_expect_finite(values, p->record->rows, "value", reason);
	if (r < 0)
		return r;
	*ret = values;
	return 0;
}

/* Kernels compute whole blocks and pairs; what they find beyond the matrix must count as nothing.
 */
static int expect_zero_padding(const struct mat_bf16 *m, struct reason *reason)
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

int codec_mat_bf16(const struct payload *p, struct mat_bf16 *ret, struct reason *reason)
{
	const struct mat_bf16 m = {
		.data = (const void *)p->bytes,
		.rows = p->record->rows,
		.cols = p->record->cols,
	};
	int r = codec_expect(p, CODEC_MAT_BF16, mat_bf16_bytes(m.rows, m.cols), reason);

	if (r == 0)
		r = expect_no_parts(p, reason);
	if (r == 0)
		r = expect_zero_padding(&m, reason);
	if (r < 0)
		return r;
	*ret = m;
	return 0;
}

static int check_rows(const uint32_t *rows, uint32_t n, uint32_t n_all, struct reason *reason)
{
	for (uint32_t i = 0; i < n; i++) {
		if (rows[i] >= n_all)
			return reason_set(reason, -EBADMSG, "replaces row %" PRIu32 " of %" PRIu32,
				rows[i], n_all);
		if (i > 0 && rows[i] <= rows[i - 1])
			return reason_set(reason, -EBADMSG,
				"replaces row %" PRIu32 " after row %" PRIu32
				", expected ascending rows",
				rows[i], rows[i - 1]);
	}
	return 0;
}

int codec_dense_rows(const struct payload *p, struct dense_rows *ret, struct reason *reason)
{
	uint32_t n = p->record->n_parts, cols = p->record->cols;
	const uint32_t *rows = (const void *)p->bytes;
	struct dense_rows d = {.n_rows = n, .rows = rows};
	uint64_t values;
	int r;

	if (n == 0 || n > p->record->rows)
		return reason_set(reason, -EBADMSG,
			"replaces %" PRIu32 " rows, expected 1 to %" PRIu32, n, p->record->rows);
	r = codec_expect(p, CODEC_DENSE_ROWS, dense_rows_layout(n, cols, &values), reason);
	if (r == 0)
		r = check_rows(rows, n, p->record->rows, reason);
	if (r < 0)
		return r;
	d.values = (struct mat_bf16){
		.data = (const void *)(p->bytes + values),
		.rows = n,
		.cols = cols,
	};
	r = expect_zero_padding(&d.values, reason);
	if (r < 0)
		return r;
	*ret = d;
	return 0;
}
