#include "compress/merge_tensor.h"

#include "kernels/convert.h"
#include "kernels/pack.h"
#include "store/codec.h"

#include <string.h>

#define ROWS_AT_ONCE 64u

static const struct tensor_record *find_record(const struct merge_tensor *m)
{
	for (size_t i = 0; i < m->delta->n_records; i++) {
		const struct tensor_record *t = &m->delta->records[i];

		if (t->layer == m->layer && t->role == (uint32_t)m->role)
			return t;
	}
	return NULL;
}

/* Coefficients of the rank-one terms for rows [row, row + n): z[t][r] = u[r][row + t] sigma[r]. */
static void fill_coefficients(
	float *z, const struct mixed_svd_view *band, const float *u, uint32_t row, uint32_t n)
{
	for (uint32_t t = 0; t < n; t++)
		for (uint32_t r = 0; r < band->u.rows; r++)
			z[(size_t)t * band->u.rows + r] =
				u[(size_t)r * band->u.cols + row + t] * band->sigma[r];
}

/* Adds U S V^T of one band to the rows. */
static int add_band(const struct merge_tensor *m, const struct mixed_svd_view *band, float *rows,
	struct reason *reason)
{
	uint32_t n_rows = band->u.cols, n_cols = band->v.cols, n_ranks = band->u.rows;
	_cleanup_(freep) float *u = malloc((size_t)n_ranks * n_rows * sizeof(*u));
	_cleanup_(freep) float *z = malloc((size_t)ROWS_AT_ONCE * n_ranks * sizeof(*z));

	if (!u || !z)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (uint32_t r = 0; r < n_ranks; r++)
		qmat_row_values(u + (size_t)r * n_rows, &band->u, r);
	for (uint32_t row = 0; row < n_rows; row += ROWS_AT_ONCE) {
		uint32_t n = (uint32_t)min_u64(ROWS_AT_ONCE, n_rows - row);

		fill_coefficients(z, band, u, row, n);
		m->kernels->qmat_accumulate(rows + (size_t)row * n_cols, n_cols, &band->v, z,
			n_ranks, n, 0, qmat_groups(n_cols));
	}
	return 0;
}

static int merge_mixed_svd(
	const struct merge_tensor *m, const struct payload *p, uint16_t *ret, struct reason *reason)
{
	size_t n = (size_t)p->record->rows * p->record->cols;
	_cleanup_(freep) float *rows = malloc(n * sizeof(*rows));
	struct mixed_svd svd;
	int r;

	if (!rows)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = codec_mixed_svd(p, &svd, reason);
	for (size_t i = 0; r == 0 && i < n; i++)
		rows[i] = bf16_to_f32(ret[i]);
	for (uint32_t i = 0; r == 0 && i < svd.n_bands; i++)
		r = add_band(m, &svd.bands[i], rows, reason);
	for (size_t i = 0; r == 0 && i < n; i++)
		ret[i] = bf16_from_f32(rows[i]);
	return r;
}

static int merge_dense_rows(const struct payload *p, uint16_t *ret, struct reason *reason)
{
	struct dense_rows dense;
	int r = codec_dense_rows(p, &dense, reason);

	for (uint32_t i = 0; r == 0 && i < dense.n_rows; i++)
		mat_bf16_unpack_row(
			ret + (size_t)dense.rows[i] * p->record->cols, &dense.values, i);
	return r;
}

static int merge_vector(const struct payload *p, uint16_t *ret, struct reason *reason)
{
	const float *values = NULL;
	int r = codec_vector_f32(p, &values, reason);

	for (uint32_t i = 0; r == 0 && i < p->record->rows; i++)
		ret[i] = bf16_from_f32(values[i]);
	return r;
}

static int apply(
	const struct merge_tensor *m, const struct payload *p, uint16_t *ret, struct reason *reason)
{
	switch ((enum tensor_codec)p->record->codec) {
	case CODEC_VECTOR_F32:
		return merge_vector(p, ret, reason);
	case CODEC_DENSE_ROWS:
		return merge_dense_rows(p, ret, reason);
	case CODEC_MIXED_SVD:
		return merge_mixed_svd(m, p, ret, reason);
	case CODEC_MAT_BF16:
		break;
	}
	return reason_set(reason, -EOPNOTSUPP, "codec %u cannot be merged", p->record->codec);
}

int merge_tensor(
	const struct merge_tensor *m, uint16_t *ret, bool *ret_changed, struct reason *reason)
{
	const struct tensor_record *record = find_record(m);
	const struct payload payload = {
		.record = record,
		.bytes = record ? m->delta->image->bytes + record->offset : NULL,
	};
	int r;

	r = checkpoint_read_bf16(m->base, m->role, m->layer, ret, NULL, reason);
	if (r < 0)
		return r;
	*ret_changed = record != NULL;
	if (!record)
		return 0;
	r = apply(m, &payload, ret, reason);
	if (r < 0)
		return reason_prefix(reason, r, "layer %u %s", m->layer, tensor_role_name(m->role));
	return 0;
}
