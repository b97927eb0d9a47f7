#include "compress/part_values.h"

#include "kernels/blas.h"
#include "kernels/convert.h"
#include "kernels/pack.h"
#include "store/codec.h"

#define ROWS_AT_ONCE 256u

/* U diag(sigma) V^T while it is added. */
struct factors_sum {
	uint32_t rows, cols, n_ranks;
	const double *u; /* n_ranks x rows */
	const double *v; /* n_ranks x cols, times sigma */
	double *change;  /* ROWS_AT_ONCE x cols for each worker */
	float *weights;
};

static void add_rows(void *arg, size_t piece, size_t worker)
{
	const struct factors_sum *s = arg;
	size_t first = piece * ROWS_AT_ONCE;
	size_t n_rows = min_u64(ROWS_AT_ONCE, s->rows - first);
	double *change = s->change + worker * ROWS_AT_ONCE * s->cols;
	float *weights = s->weights + first * s->cols;
	struct blas_gemm gemm = {
		.m = n_rows,
		.n = s->cols,
		.k = s->n_ranks,
		.transpose_a = true,
		.alpha = 1,
		.a_stride = s->rows,
	};

	blas_gemm_f64(&gemm, s->u + first, s->v, change);
	for (size_t i = 0; i < n_rows * s->cols; i++)
		weights[i] = (float)((double)weights[i] + change[i]);
}

static int factor_values(const struct qmat *m, const float *sigma, double *ret)
{
	_cleanup_(freep) float *row = malloc(((size_t)m->cols + 1) * sizeof(*row));

	if (!row)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->rows; i++) {
		double scale = sigma ? (double)sigma[i] : 1;

		qmat_row_values(row, m, i);
		for (uint32_t c = 0; c < m->cols; c++)
			ret[(size_t)i * m->cols + c] = (double)row[c] * scale;
	}
	return 0;
}

static int add_factors(struct pool *pool, const struct factors *f, float *weights)
{
	uint32_t n_ranks = f->v.rows, rows = f->u.cols, cols = f->v.cols;
	size_t n_workers = pool ? pool_threads(pool) : 1;
	_cleanup_(freep) double *u = malloc(((size_t)n_ranks * rows + 1) * sizeof(*u));
	_cleanup_(freep) double *v = malloc(((size_t)n_ranks * cols + 1) * sizeof(*v));
	_cleanup_(freep) double *change = malloc(n_workers * ROWS_AT_ONCE * cols * sizeof(*change));
	struct factors_sum sum = {
		.rows = rows,
		.cols = cols,
		.n_ranks = n_ranks,
		.u = u,
		.v = v,
		.change = change,
		.weights = weights,
	};
	int r;

	if (!u || !v || !change)
		return -ENOMEM;
	r = factor_values(&f->u, NULL, u);
	if (r == 0)
		r = factor_values(&f->v, f->sigma, v);
	if (r < 0)
		return r;
	pool_run(pool, add_rows, &sum, div_up(rows, ROWS_AT_ONCE));
	return 0;
}

static void add_codes(const struct row_codes *codes, float *weights)
{
	double values[QMAT_GROUP];

	for (uint32_t i = 0; i < codes->q.rows; i++) {
		float *row = weights + (size_t)(codes->rows ? codes->rows[i] : i) * codes->q.cols;

		for (uint32_t c = 0; c < codes->q.cols; c += QMAT_GROUP) {
			uint32_t n = (uint32_t)min_u64(QMAT_GROUP, codes->q.cols - c);

			qmat_group_values(values, &codes->q, i, c / QMAT_GROUP);
			for (uint32_t k = 0; k < n; k++)
				row[c + k] = (float)((double)row[c + k] + values[k]);
		}
	}
}

static int add_survivors(const struct dropmat *m, float *weights)
{
	_cleanup_(freep) float *row = malloc(((size_t)m->cols + 1) * sizeof(*row));

	if (!row)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->rows; i++) {
		dropmat_row_values(row, m, i);
		for (uint32_t c = 0; c < m->cols; c++)
			weights[(size_t)i * m->cols + c] += row[c];
	}
	return 0;
}

static int replace_rows(const struct replaced_rows *rows, float *weights)
{
	uint32_t cols = rows->values.cols;
	_cleanup_(freep) uint16_t *row = malloc(((size_t)cols + 1) * sizeof(*row));

	if (!row)
		return -ENOMEM;
	for (uint32_t i = 0; i < rows->n_rows; i++) {
		float *to = weights + (size_t)(rows->rows ? rows->rows[i] : i) * cols;

		mat_bf16_unpack_row(row, &rows->values, i);
		for (uint32_t c = 0; c < cols; c++)
			to[c] = bf16_to_f32(row[c]);
	}
	return 0;
}

static int apply(struct pool *pool, const struct delta_part *part, float *weights)
{
	switch ((enum tensor_codec)part->codec) {
	case CODEC_ROWS:
		return replace_rows(&part->rows, weights);
	case CODEC_FACTORS:
		return add_factors(pool, &part->factors, weights);
	case CODEC_CODES:
		add_codes(&part->codes, weights);
		return 0;
	case CODEC_DROPOUT:
		return add_survivors(&part->dropout, weights);
	case CODEC_VECTOR_F32:
	case CODEC_MAT_BF16:
	case CODEC_MAT_INT:
		break;
	}
	return -EOPNOTSUPP;
}

/* The weights as a base would hold them; none unless the part is told from them. */
static int pack_base(
	const struct tensor_record *record, const float *weights, struct base_matrix *ret)
{
	size_t n = (size_t)record->rows * record->cols;
	_cleanup_(freep) uint16_t *words = NULL;
	uint16_t *packed;

	*ret = (struct base_matrix){0};
	if (record->codec != CODEC_ROWS || record->coding != CODING_STREAM)
		return 0;
	words = malloc((n + 1) * sizeof(*words));
	packed = aligned_alloc(PART_ALIGNMENT,
		align_up(mat_bf16_bytes(record->rows, record->cols) + 1, PART_ALIGNMENT));
	*ret = base_matrix_of_bf16(&(struct mat_bf16){packed, record->rows, record->cols});
	if (!words || !packed)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		words[i] = bf16_from_f32(weights[i]);
	mat_bf16_pack(packed, words, record->rows, record->cols);
	return 0;
}

int part_values_apply(struct pool *pool, const struct tensor_record *record, const uint8_t *payload,
	float *weights, struct reason *reason)
{
	uint64_t n_room = align_up(part_layout(record).expanded_bytes + 1, PART_ALIGNMENT);
	_cleanup_(freep) uint8_t *room = aligned_alloc(PART_ALIGNMENT, n_room);
	struct payload p = {.record = record, .bytes = payload, .room = room};
	struct base_matrix base;
	struct delta_part part;
	int r;

	r = pack_base(record, weights, &base);
	p.base = base.codec ? &base : NULL;
	if (r == 0 && !room)
		r = -ENOMEM;
	if (r == 0)
		r = codec_part(&p, &part, reason);
	if (r == 0)
		r = apply(pool, &part, weights);
	free((void *)(uintptr_t)base.bf16.data);
	return r;
}
