/*
 * Two parallel regions, and before them one that gives x the form that the base's products take. In
 * the first, pieces are blocks of base outputs for all rows; to these a delta that needs but x is
 * added at once, while memory brings its codes as fast as it brought the base's. Beside them is
 * `prepare` of each part that has one for each run of rows, which may only write scratch. In the
 * second region, which there is for deltas with a `prepare` alone, `apply` of each part finishes
 * the outputs. Every output is written by one piece at a time, in an order of sums that the kernels
 * fix, so that neither threads nor company change a result.
 *
 * Slices of one map share no output, and each takes the parts in their order.
 */
#include "engine/linear.h"

#include "engine/linear_base.h"

#include <assert.h>
#include <string.h>

/* The base's product is cut into stretches of blocks, long ones first: a long one reads memory at
 * its full rate and its rows' inputs seldom, the short ones in the end let all threads finish
 * together. Fewer blocks than the kernels compute side by side lose a tenth of the memory's rate.
 */
#define LEAST_BLOCKS 4
#define LEAST_BLOCKS_OF_MANY 8
#define MANY_ROWS 32
#define PIECES_PER_THREAD 4 /* of a delta's work */

/* Rows and blocks that one call of a scattered product computes on the stack. */
#define SCATTER_ROWS 16
#define SCATTER_BLOCKS 4
/* Rows of codes, likewise. */
#define CODES_ROWS 256

/* One codec's work for one part and one run of rows. */
struct delta_work {
	const struct kernels *kernels;
	const struct linear_delta *delta;
	const float *x;
	size_t x_stride;
	/* The same as the base takes it, for what is made of codes; NULL if it takes x itself. */
	const struct act_group *rounded;
	size_t rounded_stride;
	size_t n;
	float *y;
	size_t y_stride;
	float *z;
	size_t z_stride;
	uint32_t n_outputs;
};

struct plan {
	const struct linear_call *call;
	size_t n_threads;
	size_t n_blocks;     /* of the base, all parts in a row */
	size_t least_blocks; /* of a stretch of them */
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

/* z[t][r] = row r of a matrix times input t, for some of a run's inputs and of the rows. */
static void qmat_apply(const struct delta_work *w, const struct qmat *m, struct slice inputs,
	struct slice rows, float *z, size_t z_stride)
{
	const size_t n = inputs.end - inputs.begin;

	if (w->rounded && m->bits <= QMAT_MAX_BITS)
		w->kernels->qmat_dot_int(z, z_stride, m, w->rounded + inputs.begin,
			w->rounded_stride, n, rows.begin, rows.end);
	else
		w->kernels->qmat_dot(z, z_stride, m, w->x + inputs.begin * w->x_stride, w->x_stride,
			n, rows.begin, rows.end);
}

/* z = diag(sigma) V^T x. */
static void factors_prepare(const struct delta_work *w, const struct factors *f, float *z,
	size_t index, size_t n_slices)
{
	struct slice ranks = slice_of(f->v.rows, index, n_slices);

	qmat_apply(w, &f->v, (struct slice){0, w->n}, ranks, z, w->z_stride);
	for (size_t t = 0; t < w->n; t++)
		for (size_t r = ranks.begin; r < ranks.end; r++)
			z[t * w->z_stride + r] *= f->sigma[r];
}

/* y += U z. */
static void factors_apply(
	const struct delta_work *w, const struct factors *f, const float *z, struct slice groups)
{
	if (w->rounded && f->u.bits < QMAT_MAX_BITS)
		w->kernels->qmat_accumulate_int(
			w->y, w->y_stride, &f->u, z, w->z_stride, w->n, groups.begin, groups.end);
	else
		w->kernels->qmat_accumulate(
			w->y, w->y_stride, &f->u, z, w->z_stride, w->n, groups.begin, groups.end);
}

/* Rows [first, first + n) of a matrix. */
static struct qmat some_rows(const struct qmat *m, size_t first, size_t n)
{
	struct qmat part = *m;

	part.codes += first * qmat_row_bytes(m);
	part.scales = m->scales ? m->scales + first * m->scale_row : NULL;
	part.zeros = m->zeros ? m->zeros + first * qmat_groups(m->cols) : NULL;
	part.rows = (uint32_t)n;
	return part;
}

/* y[t][rows[i]] += codes_i x[t], for the rows among outputs [begin, end), a few at a time. */
static void codes_apply(
	const struct delta_work *w, const struct row_codes *codes, struct slice outputs)
{
	size_t end = rows_first_at(codes->rows, codes->q.rows, outputs.end);
	float out[SCATTER_ROWS * CODES_ROWS];

	for (size_t i = rows_first_at(codes->rows, codes->q.rows, outputs.begin); i < end;
		i += CODES_ROWS) {
		size_t n_rows = min_u64(CODES_ROWS, end - i);
		struct qmat part = some_rows(&codes->q, i, n_rows);

		for (size_t t = 0; t < w->n; t += SCATTER_ROWS) {
			size_t n = min_u64(SCATTER_ROWS, w->n - t);

			qmat_apply(w, &part, (struct slice){t, t + n}, (struct slice){0, n_rows},
				out, CODES_ROWS);
			for (size_t k = 0; k < n; k++)
				for (size_t o = 0; o < n_rows; o++)
					w->y[(t + k) * w->y_stride +
						(codes->rows ? codes->rows[i + o] : i + o)] +=
						out[k * CODES_ROWS + o];
		}
	}
}

/* Replaced rows: y[t][rows[i]] = values[i] x[t], a few blocks at a time. */
static void rows_scatter(
	const struct delta_work *w, const struct replaced_rows *from, size_t block, size_t n_blocks)
{
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

static void rows_apply(
	const struct delta_work *w, const struct replaced_rows *rows, size_t index, size_t n_slices)
{
	struct slice blocks = slice_of(mat_bf16_blocks(rows->n_rows), index, n_slices);

	/* All of them: nothing to scatter. */
	if (!rows->rows) {
		w->kernels->matmul(w->y, w->y_stride, &rows->values, w->x, w->x_stride, w->n,
			blocks.begin, blocks.end);
		return;
	}
	for (size_t b = blocks.begin; b < blocks.end; b += SCATTER_BLOCKS)
		rows_scatter(w, rows, b, min_u64(SCATTER_BLOCKS, blocks.end - b));
}

static void delta_prepare(const struct delta_work *w, size_t index, size_t n_slices)
{
	float *z = w->z;

	for (uint32_t i = 0; i < w->delta->n_parts; i++) {
		const struct delta_part *part = &w->delta->parts[i];

		if (part->codec != CODEC_FACTORS)
			continue;
		factors_prepare(w, &part->factors, z, index, n_slices);
		z += part->factors.v.rows;
	}
}

static void dropout_apply(
	const struct delta_work *w, const struct dropmat *dropout, struct slice outputs)
{
	if (w->rounded && dropmat_takes_rounded(dropout))
		w->kernels->dropmat_dot_int(w->y, w->y_stride, dropout, w->rounded,
			w->rounded_stride, w->n, outputs.begin, outputs.end);
	else
		w->kernels->dropmat_dot(w->y, w->y_stride, dropout, w->x, w->x_stride, w->n,
			outputs.begin, outputs.end);
}

/* Does an output of the delta need nothing but x and the base's share? */
static bool delta_is_direct(const struct linear_delta *delta)
{
	for (uint32_t i = 0; i < delta->n_parts; i++)
		if (delta->parts[i].codec != CODEC_CODES && delta->parts[i].codec != CODEC_DROPOUT)
			return false;
	return true;
}

/* Of such a delta. */
static void delta_apply_direct(const struct delta_work *w, struct slice outputs)
{
	for (uint32_t i = 0; i < w->delta->n_parts; i++) {
		const struct delta_part *part = &w->delta->parts[i];

		if (part->codec == CODEC_CODES)
			codes_apply(w, &part->codes, outputs);
		else
			dropout_apply(w, &part->dropout, outputs);
	}
}

/* Slices share no output. */
static void delta_apply(const struct delta_work *w, size_t index, size_t n_slices)
{
	struct slice groups = slice_of(qmat_groups(w->n_outputs), index, n_slices);
	struct slice outputs = {
		groups.begin * QMAT_GROUP, min_u64(groups.end * QMAT_GROUP, w->n_outputs)};
	const float *z = w->z;

	for (uint32_t i = 0; i < w->delta->n_parts; i++) {
		const struct delta_part *part = &w->delta->parts[i];

		switch ((enum tensor_codec)part->codec) {
		case CODEC_ROWS:
			rows_apply(w, &part->rows, index, n_slices);
			break;
		case CODEC_FACTORS:
			factors_apply(w, &part->factors, z, groups);
			z += part->factors.v.rows;
			break;
		case CODEC_CODES:
			codes_apply(w, &part->codes, outputs);
			break;
		case CODEC_DROPOUT:
			dropout_apply(w, &part->dropout, outputs);
			break;
		case CODEC_VECTOR_F32:
		case CODEC_MAT_BF16:
		case CODEC_MAT_INT:
			assert(!"delta_bind() lets no other codec pass");
		}
	}
}

/* Numbers of scratch that a codec may want for one row of one map. */
static size_t part_scratch(const struct base_matrix *base)
{
	return min_u64(base->rows, base->cols);
}

size_t linear_scratch(const struct base_matrix *const *bases, size_t n_parts)
{
	size_t n = 0;

	for (size_t i = 0; i < n_parts; i++)
		n += part_scratch(bases[i]);
	return n;
}

size_t linear_rounded(const struct base_matrix *const *bases, size_t n_parts)
{
	for (size_t i = 0; i < n_parts; i++)
		if (bases[i]->codec == CODEC_MAT_INT)
			return mat_int_groups(bases[i]->cols);
	return 0;
}

/* What the delta of a run does to a part; NULL if that variant leaves the map alone. */
static const struct linear_delta *delta_of(
	const struct linear_call *c, const struct linear_run *run, size_t part)
{
	return variant_delta(run->variant, c->layer, c->parts[part].projection)->parts;
}

static struct delta_work work_of(
	const struct linear_call *c, const struct linear_run *run, size_t part)
{
	const struct linear_part *p = &c->parts[part];
	size_t z_offset = 0;

	for (size_t before = 0; before < part; before++)
		z_offset += part_scratch(c->parts[before].base);
	return (struct delta_work){
		.kernels = c->kernels,
		.delta = delta_of(c, run, part),
		.x = c->x + run->first * c->x_stride,
		.x_stride = c->x_stride,
		.rounded = p->base->codec == CODEC_MAT_INT ? c->rounded + run->first : NULL,
		.rounded_stride = c->n_rows,
		.n = run->n,
		.y = p->y + run->first * p->y_stride,
		.y_stride = p->y_stride,
		.z = c->z + run->first * c->z_stride + z_offset,
		.z_stride = c->z_stride,
		.n_outputs = p->base->rows,
	};
}

/* Piece i of all deltas that are not direct: which run, part and slice. False if it is of another
 * one. */
static bool staged_work_of(
	const struct plan *plan, size_t i, struct delta_work *ret, size_t *ret_slice)
{
	const struct linear_call *c = plan->call;
	const struct linear_run *run = &c->runs[i / plan->slices / c->n_parts];
	size_t part = i / plan->slices % c->n_parts;
	const struct linear_delta *delta = delta_of(c, run, part);

	if (!delta || delta_is_direct(delta))
		return false;
	*ret = work_of(c, run, part);
	*ret_slice = i % plan->slices;
	return true;
}

/* Blocks of each of the next stretches, as many as there are threads: a thread's share of half of
 * what is left. */
static size_t stretch_size(const struct plan *plan, size_t begin)
{
	size_t size = (plan->n_blocks - begin) / (2 * plan->n_threads);

	return max_u64(size - size % plan->least_blocks, plan->least_blocks);
}

/* Stretch number `piece`; those of the least size go on to the last block. */
static struct slice stretch_of(const struct plan *plan, size_t piece)
{
	size_t begin = 0, size;

	while ((size = stretch_size(plan, begin)) > plan->least_blocks &&
		piece >= plan->n_threads) {
		piece -= plan->n_threads;
		begin += plan->n_threads * size;
	}
	begin = min_u64(begin + piece * size, plan->n_blocks);
	return (struct slice){begin, min_u64(begin + size, plan->n_blocks)};
}

static size_t count_stretches(const struct plan *plan)
{
	size_t begin = 0, n = 0, size;

	while ((size = stretch_size(plan, begin)) > plan->least_blocks) {
		begin += plan->n_threads * size;
		n += plan->n_threads;
	}
	return n + div_up(plan->n_blocks - begin, size);
}

/* The direct deltas of a part's outputs, of which the base's share was just computed. */
static void add_direct(const struct linear_call *c, size_t part, struct slice blocks)
{
	struct slice outputs = {blocks.begin * MAT_BLOCK,
		min_u64(blocks.end * MAT_BLOCK, c->parts[part].base->rows)};

	for (size_t i = 0; i < c->n_runs; i++) {
		const struct linear_delta *delta = delta_of(c, &c->runs[i], part);
		struct delta_work work;

		if (!delta || !delta_is_direct(delta))
			continue;
		work = work_of(c, &c->runs[i], part);
		delta_apply_direct(&work, outputs);
	}
}

/* What of a stretch is each part's. */
static void compute_stretch(const struct plan *plan, struct slice stretch)
{
	size_t first = 0;

	for (size_t p = 0; p < plan->call->n_parts; p++) {
		const struct linear_part *part = &plan->call->parts[p];
		size_t n = mat_bf16_blocks(part->base->rows);
		size_t begin = max_u64(stretch.begin, first);
		size_t end = min_u64(stretch.end, first + n);

		if (begin < end) {
			linear_base_piece(plan->call, part, begin - first, end - first);
			add_direct(plan->call, p, (struct slice){begin - first, end - first});
		}
		first += n;
	}
}

static void first_region(void *arg, size_t piece, size_t worker)
{
	const struct plan *plan = arg;
	struct delta_work work;
	size_t slice;

	(void)worker;
	if (piece < plan->base_pieces)
		compute_stretch(plan, stretch_of(plan, piece));
	else if (staged_work_of(plan, piece - plan->base_pieces, &work, &slice))
		delta_prepare(&work, slice, plan->slices);
}

static void second_region(void *arg, size_t piece, size_t worker)
{
	const struct plan *plan = arg;
	struct delta_work work;
	size_t slice;

	(void)worker;
	if (staged_work_of(plan, piece, &work, &slice))
		delta_apply(&work, slice, plan->slices);
}

static bool any_staged(const struct linear_call *c)
{
	for (size_t i = 0; i < c->n_runs; i++)
		for (size_t p = 0; p < c->n_parts; p++) {
			const struct linear_delta *delta = delta_of(c, &c->runs[i], p);

			if (delta && !delta_is_direct(delta))
				return true;
		}
	return false;
}

static struct plan plan_of(const struct linear_call *c)
{
	struct plan plan = {.call = c, .n_threads = pool_threads(c->pool)};
	size_t least = c->n_rows > MANY_ROWS ? LEAST_BLOCKS_OF_MANY : LEAST_BLOCKS;

	for (size_t p = 0; p < c->n_parts; p++)
		plan.n_blocks += mat_bf16_blocks(c->parts[p].base->rows);
	plan.least_blocks = max_u64(min_u64(plan.n_blocks / (2 * plan.n_threads), least), 1);
	plan.base_pieces = count_stretches(&plan);
	plan.slices =
		div_up(PIECES_PER_THREAD * plan.n_threads, max_u64(c->n_runs * c->n_parts, 1));
	return plan;
}

void linear_apply(const struct linear_call *call)
{
	struct plan plan;
	size_t delta_pieces;

	if (call->n_rows == 0)
		return;
	linear_base_prepare(call);
	plan = plan_of(call);
	delta_pieces = any_staged(call) ? call->n_runs * call->n_parts * plan.slices : 0;
	pool_run(call->pool, first_region, &plan, plan.base_pieces + delta_pieces);
	if (delta_pieces)
		pool_run(call->pool, second_region, &plan, delta_pieces);
}
