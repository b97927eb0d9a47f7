#include "compress/group_codes.h"

#include "kernels/blas.h"
#include "kernels/pack.h"

#include <math.h>
#include <string.h>

#define PIECE_ROWS 64u /* that are swept together */
/* Of the mean weight, for inputs that are never seen. */
#define LEAST_WEIGHT 1e-4
#define DRIFT_SHARE 0.5 /* of what the drift asks for */

struct packing {
	const struct group_codes *g;
	size_t n_groups; /* of a row */
	float *weights;  /* of all groups' numbers; 0 where inputs are missing */
	uint8_t *payload;
	int *errors; /* of each piece */
};

/* Some rows on their way. */
struct piece {
	const struct packing *packing;
	uint32_t first;
	double *matrix;           /* what is rounded */
	struct int_group *groups; /* of each row */
	struct int_grid *grids;   /* of each sub-group */
};

static size_t group_of(const struct piece *p, uint32_t row, size_t group)
{
	return (size_t)row * p->packing->n_groups + group;
}

static void fit_grid(struct piece *p, uint32_t row, size_t group)
{
	const struct group_codes *g = p->packing->g;
	uint32_t cols = g->record->cols;
	const double *from = p->matrix + (size_t)row * cols + group * MAT_INT_GROUP;
	size_t n = min_u64(cols - group * MAT_INT_GROUP, MAT_INT_GROUP),
	       at = group_of(p, row, group);
	float values[MAT_INT_GROUP] = {0};

	for (size_t i = 0; i < n; i++)
		values[i] = (float)from[i];
	int_group_fit(&p->groups[at], values, p->packing->weights + group * MAT_INT_GROUP,
		g->record->bits);
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++)
		p->grids[at * MAT_INT_SUBGROUPS + s] =
			int_group_grid(&p->groups[at], s, g->record->bits);
}

/* As struct gptq_rounding wants it; rows count from the piece's first. */
static double round_number(void *arg, uint32_t row, uint32_t column, double value)
{
	struct piece *p = arg;
	size_t at = group_of(p, row, column / MAT_INT_GROUP), place = column % MAT_INT_GROUP;
	const struct int_grid *grid = &p->grids[at * MAT_INT_SUBGROUPS + place / MAT_INT_SUBGROUP];
	double number = grid->scale != 0 ? value / grid->scale : 0;
	double code = rint((number + grid->offset) / grid->step);

	code = fmin(fmax(code, 0), p->packing->g->record->bits == 4 ? 15 : 255);
	p->groups[at].codes[place] = (uint8_t)code;
	return grid->scale * (grid->step * code - grid->offset);
}

/* Makes up for what the inputs have lost on their way. */
static int follow_drift(struct piece *p, uint32_t n_rows)
{
	const struct group_codes *g = p->packing->g;
	size_t cols = g->record->cols, n = n_rows * cols;
	const struct blas_gemm product = {.m = n_rows, .n = cols, .k = cols, .alpha = DRIFT_SHARE};
	_cleanup_(freep) double *missing = malloc((n + 1) * sizeof(*missing));
	int r;

	if (!missing)
		return -ENOMEM;
	blas_gemm_f64(&product, p->matrix, g->drift, missing);
	r = gptq_solve(g->gptq, missing, n_rows);
	for (size_t i = 0; r == 0 && i < n; i++)
		p->matrix[i] += missing[i];
	return r;
}

static int pack_rows(struct piece *p, uint32_t n_rows)
{
	const struct packing *packing = p->packing;
	const struct group_codes *g = packing->g;
	const struct gptq_rounding rounding = {.round = round_number, .arg = p};
	size_t n = (size_t)n_rows * g->record->cols;
	int r = 0;

	for (size_t i = 0; i < n; i++)
		p->matrix[i] = (double)g->matrix[(size_t)p->first * g->record->cols + i];
	if (g->drift)
		r = follow_drift(p, n_rows);
	if (r < 0)
		return r;
	for (uint32_t row = 0; row < n_rows; row++)
		for (size_t group = 0; group < packing->n_groups; group++)
			fit_grid(p, row, group);
	r = gptq_rows(g->gptq, p->matrix, 0, n_rows, &rounding);
	for (uint32_t row = 0; r == 0 && row < n_rows; row++)
		for (size_t group = 0; group < packing->n_groups; group++)
			weights_put_group(g->record, packing->payload, p->first + row, group,
				&p->groups[group_of(p, row, group)]);
	return r;
}

static void pack_piece(void *arg, size_t index, size_t worker)
{
	const struct packing *packing = arg;
	const struct tensor_record *t = packing->g->record;
	struct piece p = {.packing = packing, .first = (uint32_t)index * PIECE_ROWS};
	uint32_t n_rows = (uint32_t)min_u64(PIECE_ROWS, t->rows - p.first);
	size_t n_groups = n_rows * packing->n_groups;
	_cleanup_(freep) struct int_group *groups = calloc(n_groups, sizeof(*groups));
	_cleanup_(freep) struct int_grid *grids =
		malloc(n_groups * MAT_INT_SUBGROUPS * sizeof(*grids));
	_cleanup_(freep) double *matrix = calloc((size_t)n_rows * t->cols, sizeof(*matrix));

	(void)worker;
	p.matrix = matrix;
	p.groups = groups;
	p.grids = grids;
	packing->errors[index] = groups && grids && matrix ? pack_rows(&p, n_rows) : -ENOMEM;
}

/* The diagonal of the moments, so that its mean is 1. */
static void find_weights(const struct packing *p)
{
	uint32_t n = p->g->record->cols;
	double mean = 0;

	for (size_t i = 0; i < n; i++)
		mean += p->g->moments[i * n + i] / n;
	for (size_t i = 0; i < n; i++)
		p->weights[i] =
			mean > 0 ? (float)(p->g->moments[i * n + i] / mean + LEAST_WEIGHT) : 1;
}

int group_codes_pack(const struct group_codes *g, uint8_t *ret)
{
	size_t n_pieces = div_up(g->record->rows, PIECE_ROWS);
	size_t n_groups = mat_int_groups(g->record->cols);
	_cleanup_(freep) float *weights = calloc(n_groups * MAT_INT_GROUP + 1, sizeof(*weights));
	_cleanup_(freep) int *errors = calloc(n_pieces + 1, sizeof(*errors));
	struct packing p = {
		.g = g,
		.n_groups = n_groups,
		.weights = weights,
		.payload = ret,
		.errors = errors,
	};

	if (!weights || !errors)
		return -ENOMEM;
	find_weights(&p);
	memset(ret, 0, g->record->bytes);
	pool_run(g->pool, pack_piece, &p, n_pieces);
	for (size_t i = 0; i < n_pieces; i++)
		if (errors[i] < 0)
			return errors[i];
	return 0;
}
