/*
 * Two parallel regions. In the first, pieces are blocks of base outputs for all rows, and beside
 * them each codec's `prepare` for each run of rows, which may only write scratch. In the second,
 * each codec's `apply` finishes the outputs. Every output is written by one piece, in an order of
 * sums that the kernels fix, so that neither threads nor company change a result.
 *
 * A codec is a pair of functions, prepare and apply; each does one slice of its work.
 */
#include "engine/linear.h"

#include <assert.h>
#include <string.h>

/* A piece of the base's product reads about this much of the weights: long enough to hide the cost
 * of taking it, short enough that a preempted thread holds up little. */
#define PIECE_BYTES (48u << 10)
#define PIECES_PER_THREAD 4

/* Rows and blocks that one call of a scattered product computes on the stack. */
#define SCATTER_ROWS 16
#define SCATTER_BLOCKS 4

/* One codec's work for one part and one run of rows. */
struct delta_work {
	const struct kernels *kernels;
	const struct projection_delta *delta;
	const float *x;
	size_t x_stride;
	size_t n;
	float *y;
	size_t y_stride;
	float *z;
	size_t z_stride;
	uint32_t n_outputs;
};

struct plan {
	const struct linear_call *call;
	size_t blocks_per_piece;
	size_t part_pieces[LINEAR_MAX_PARTS]; /* of the base */
	size_t base_pieces;
	size_t slices; /* of the work of one delta */
};

struct slice {
	size_t begin, end;
};

static struct slice slice_of(size_t n, size_t index, size_t n_slices)
{
	return (struct slice){n * index / n_slices, n * (index + 1) / n_slices};
}

/* Delta-CoMe (arXiv 2406.08903): y += U diag(sigma) V x, band by band. */
static void svd_prepare(const struct delta_work *w, size_t index, size_t n_slices)
{
	float *z = w->z;

	for (uint32_t b = 0; b < w->delta->svd->n_bands; b++) {
		const struct mixed_svd_view *band = &w->delta->svd->bands[b];
		struct slice ranks = slice_of(band->v.rows, index, n_slices);

		w->kernels->qmat_dot(
			z, w->z_stride, &band->v, w->x, w->x_stride, w->n, ranks.begin, ranks.end);
		for (size_t t = 0; t < w->n; t++)
			for (size_t r = ranks.begin; r < ranks.end; r++)
				z[t * w->z_stride + r] *= band->sigma[r];
		z += band->v.rows;
	}
}

static void svd_apply(const struct delta_work *w, size_t index, size_t n_slices)
{
	struct slice groups = slice_of(qmat_groups(w->n_outputs), index, n_slices);
	const float *z = w->z;

	for (uint32_t b = 0; b < w->delta->svd->n_bands; b++) {
		const struct mixed_svd_view *band = &w->delta->svd->bands[b];

		w->kernels->qmat_accumulate(w->y, w->y_stride, &band->u, z, w->z_stride, w->n,
			groups.begin, groups.end);
		z += band->v.rows;
	}
}

/* Replaced rows: y[t][rows[i]] = values[i] x[t], a few blocks at a time. */
static void rows_scatter(const struct delta_work *w, size_t block, size_t n_blocks)
{
	const struct dense_rows *from = w->delta->rows;
	uint32_t first = (uint32_t)(block * MAT_BLOCK);
	uint32_t n_outputs = (uint32_t)min_u64(n_blocks * MAT_BLOCK, from->n_rows - first);
	struct mat_bf16 part = {
		.data = from->values.data +
			block * mat_bf16_pairs(from->values.cols) * 2 * MAT_BLOCK,
		.rows = n_outputs,
		.cols = from->values.cols,
	};
	float out[SCATTER_ROWS * SCATTER_BLOCKS * MAT_BLOCK];

	for (size_t t = 0; t < w->n; t += SCATTER_ROWS) {
		size_t n = min_u64(SCATTER_ROWS, w->n - t);

		w->kernels->matmul(out, SCATTER_BLOCKS * MAT_BLOCK, &part, w->x + t * w->x_stride,
			w->x_stride, n, 0, n_blocks);
		for (size_t i = 0; i < n; i++)
			for (uint32_t o = 0; o < n_outputs; o++)
				w->y[(t + i) * w->y_stride + from->rows[first + o]] =
					out[i * SCATTER_BLOCKS * MAT_BLOCK + o];
	}
}

static void rows_apply(const struct delta_work *w, size_t index, size_t n_slices)
{
	struct slice blocks = slice_of(mat_bf16_blocks(w->delta->rows->n_rows), index, n_slices);

	for (size_t b = blocks.begin; b < blocks.end; b += SCATTER_BLOCKS)
		rows_scatter(w, b, min_u64(SCATTER_BLOCKS, blocks.end - b));
}

static void delta_prepare(const struct delta_work *w, size_t index, size_t n_slices)
{
	switch ((enum tensor_codec)w->delta->codec) {
	case CODEC_MIXED_SVD:
		svd_prepare(w, index, n_slices);
		return;
	case CODEC_DENSE_ROWS:
		return;
	case CODEC_VECTOR_F32:
	case CODEC_MAT_BF16:
		break;
	}
	assert(!"variant_new() lets no other codec pass");
}

static void delta_apply(const struct delta_work *w, size_t index, size_t n_slices)
{
	switch ((enum tensor_codec)w->delta->codec) {
	case CODEC_MIXED_SVD:
		svd_apply(w, index, n_slices);
		return;
	case CODEC_DENSE_ROWS:
		rows_apply(w, index, n_slices);
		return;
	case CODEC_VECTOR_F32:
	case CODEC_MAT_BF16:
		break;
	}
	assert(!"variant_new() lets no other codec pass");
}

static void base_rows(const struct linear_call *c, const struct linear_part *p, size_t first,
	size_t n, struct slice blocks)
{
	if (n && blocks.begin < blocks.end)
		c->kernels->matmul(p->y + first * p->y_stride, p->y_stride, p->base,
			c->x + first * c->x_stride, c->x_stride, n, blocks.begin, blocks.end);
}

/* The blocks that a variant keeps, stretch by stretch. */
static void base_kept(const struct linear_call *c, const struct linear_part *p,
	const struct linear_run *run, const bool *replaced, struct slice blocks)
{
	for (size_t b = blocks.begin; b < blocks.end;) {
		size_t end = b;

		while (end < blocks.end && !replaced[end])
			end++;
		base_rows(c, p, run->first, run->n, (struct slice){b, end});
		b = end + 1;
	}
}

/* A piece of W x: one product for all rows, but for runs whose delta replaces whole blocks. */
static void base_piece(
	const struct linear_call *c, const struct linear_part *p, struct slice blocks)
{
	size_t pending = 0;

	for (size_t i = 0; i < c->n_runs; i++) {
		const struct linear_run *run = &c->runs[i];
		const struct projection_delta *d =
			variant_delta(run->variant, c->layer, p->projection);

		if (d->codec != CODEC_DENSE_ROWS)
			continue;
		base_rows(c, p, pending, run->first - pending, blocks);
		base_kept(c, p, run, d->block_replaced, blocks);
		pending = run->first + run->n;
	}
	base_rows(c, p, pending, c->n_rows - pending, blocks);
}

/* Numbers of scratch that a codec may want for one row of one map. */
static size_t part_scratch(const struct mat_bf16 *base)
{
	return min_u64(base->rows, base->cols);
}

size_t linear_scratch(const struct mat_bf16 *const *bases, size_t n_parts)
{
	size_t n = 0;

	for (size_t i = 0; i < n_parts; i++)
		n += part_scratch(bases[i]);
	return n;
}

/* Piece i of all deltas: which run, part and slice. False if that variant leaves the map alone. */
static bool delta_work_of(
	const struct plan *plan, size_t i, struct delta_work *ret, size_t *ret_slice)
{
	const struct linear_call *c = plan->call;
	const struct linear_run *run = &c->runs[i / plan->slices / c->n_parts];
	size_t part = i / plan->slices % c->n_parts, z_offset = 0;
	const struct linear_part *p = &c->parts[part];
	const struct projection_delta *delta = variant_delta(run->variant, c->layer, p->projection);

	if (!delta->codec)
		return false;
	for (size_t before = 0; before < part; before++)
		z_offset += part_scratch(c->parts[before].base);
	*ret = (struct delta_work){
		.kernels = c->kernels,
		.delta = delta,
		.x = c->x + run->first * c->x_stride,
		.x_stride = c->x_stride,
		.n = run->n,
		.y = p->y + run->first * p->y_stride,
		.y_stride = p->y_stride,
		.z = c->z + run->first * c->z_stride + z_offset,
		.z_stride = c->z_stride,
		.n_outputs = p->base->rows,
	};
	*ret_slice = i % plan->slices;
	return true;
}

static void first_region(void *arg, size_t piece, size_t worker)
{
	const struct plan *plan = arg;
	struct delta_work work;
	size_t slice;

	(void)worker;
	for (size_t p = 0; p < plan->call->n_parts; p++) {
		const struct linear_part *part = &plan->call->parts[p];

		if (piece < plan->part_pieces[p]) {
			size_t begin = piece * plan->blocks_per_piece;
			size_t end = min_u64(
				begin + plan->blocks_per_piece, mat_bf16_blocks(part->base->rows));

			base_piece(plan->call, part, (struct slice){begin, end});
			return;
		}
		piece -= plan->part_pieces[p];
	}
	if (delta_work_of(plan, piece, &work, &slice))
		delta_prepare(&work, slice, plan->slices);
}

static void second_region(void *arg, size_t piece, size_t worker)
{
	const struct plan *plan = arg;
	struct delta_work work;
	size_t slice;

	(void)worker;
	if (delta_work_of(plan, piece, &work, &slice))
		delta_apply(&work, slice, plan->slices);
}

static bool any_delta(const struct linear_call *c)
{
	for (size_t i = 0; i < c->n_runs; i++)
		for (size_t p = 0; p < c->n_parts; p++)
			if (variant_delta(c->runs[i].variant, c->layer, c->parts[p].projection)
					->codec)
				return true;
	return false;
}

static struct plan plan_of(const struct linear_call *c)
{
	struct plan plan = {.call = c};
	size_t wanted = PIECES_PER_THREAD * pool_threads(c->pool);
	size_t block_bytes = mat_bf16_pairs(c->parts[0].base->cols) * 4 * MAT_BLOCK, n_blocks = 0;

	for (size_t p = 0; p < c->n_parts; p++)
		n_blocks += mat_bf16_blocks(c->parts[p].base->rows);
	plan.blocks_per_piece = min_u64(PIECE_BYTES / block_bytes, n_blocks / wanted);
	plan.blocks_per_piece = max_u64(plan.blocks_per_piece, 1);
	for (size_t p = 0; p < c->n_parts; p++) {
		plan.part_pieces[p] =
			div_up(mat_bf16_blocks(c->parts[p].base->rows), plan.blocks_per_piece);
		plan.base_pieces += plan.part_pieces[p];
	}
	plan.slices = max_u64(div_up(wanted, c->n_runs * c->n_parts), 1);
	return plan;
}

void linear_apply(const struct linear_call *call)
{
	struct plan plan;
	size_t delta_pieces;

	if (call->n_rows == 0)
		return;
	plan = plan_of(call);
	delta_pieces = any_delta(call) ? call->n_runs * call->n_parts * plan.slices : 0;
	pool_run(call->pool, first_region, &plan, plan.base_pieces + delta_pieces);
	if (delta_pieces)
		pool_run(call->pool, second_region, &plan, delta_pieces);
}
