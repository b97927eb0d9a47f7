#include "engine/linear_base.h"

/* Rows that one piece rounds; a batch of so few passes without waking anybody. */
#define ROUND_ROWS 8

static void round_rows(void *arg, size_t piece, size_t worker)
{
	const struct linear_call *c = arg;
	size_t first = piece * ROUND_ROWS;

	(void)worker;
	c->kernels->act_round(c->rounded + first, c->n_rows, c->x + first * c->x_stride,
		c->x_stride, min_u64(ROUND_ROWS, c->n_rows - first), c->parts[0].base->cols);
}

static void fill_panel(void *arg, size_t piece, size_t worker)
{
	const struct linear_call *c = arg;

	(void)worker;
	c->kernels->panel_fill(
		c->panel, c->x, c->x_stride, c->n_rows, c->parts[0].base->cols, piece);
}

static bool has_codec(const struct linear_call *c, uint32_t codec)
{
	for (size_t p = 0; p < c->n_parts; p++)
		if (c->parts[p].base->codec == codec)
			return true;
	return false;
}

void linear_base_prepare(const struct linear_call *c)
{
	struct linear_call call = *c;

	if (has_codec(c, CODEC_MAT_INT))
		pool_run(c->pool, round_rows, &call, div_up(c->n_rows, ROUND_ROWS));
	if (has_codec(c, CODEC_MAT_BF16) && c->kernels->panel_fill)
		pool_run(c->pool, fill_panel, &call, c->kernels->panel_parts(c->n_rows));
}

size_t linear_panel_bytes(const struct kernels *k, size_t n_rows, uint32_t cols)
{
	return k->panel_bytes ? k->panel_bytes(n_rows, cols) : 0;
}

static void product(const struct linear_call *c, const struct linear_part *p, size_t first,
	size_t n, size_t begin, size_t end)
{
	float *y = p->y + first * p->y_stride;

	if (n == 0 || begin >= end)
		return;
	if (p->base->codec == CODEC_MAT_INT)
		c->kernels->matmul_int(y, p->y_stride, &p->base->ints, c->rounded + first,
			c->n_rows, n, begin, end);
	else if (c->kernels->matmul_panel && n == c->n_rows)
		c->kernels->matmul_panel(y, p->y_stride, &p->base->bf16, c->panel, n, begin, end);
	else
		c->kernels->matmul(y, p->y_stride, &p->base->bf16, c->x + first * c->x_stride,
			c->x_stride, n, begin, end);
}

/* The blocks that a variant keeps, stretch by stretch. */
static void product_of_kept(const struct linear_call *c, const struct linear_part *p,
	const struct linear_run *run, const bool *replaced, size_t begin, size_t end)
{
	for (size_t b = begin, stop; b < end; b = stop + 1) {
		stop = b;
		while (stop < end && !replaced[stop])
			stop++;
		product(c, p, run->first, run->n, b, stop);
	}
}

void linear_base_piece(
	const struct linear_call *c, const struct linear_part *p, size_t begin, size_t end)
{
	size_t pending = 0;

	for (size_t i = 0; i < c->n_runs; i++) {
		const struct linear_run *run = &c->runs[i];
		const struct projection_delta *d =
			variant_delta(run->variant, c->layer, p->projection);

		if (!d->block_replaced)
			continue;
		product(c, p, pending, run->first - pending, begin, end);
		product_of_kept(c, p, run, d->block_replaced, begin, end);
		pending = run->first + run->n;
	}
	product(c, p, pending, c->n_rows - pending, begin, end);
}
