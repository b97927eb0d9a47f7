#include "compress/dropout_codes.h"

#include "kernels/convert.h"

#include <math.h>
#include <string.h>

#define TILE 32u                   /* rows in one piece */
#define SAMPLE (UINT64_C(1) << 17) /* survivors that the step of a whole matrix is fitted to */

/* A row before its factor: output levels are code - zero. */
struct row_sums {
	struct dropout_outlook o; /* of the levels */
	double step;              /* that the codes were rounded with */
};

/* What a worker needs for one row. */
struct scratch {
	uint32_t *columns; /* entries_of_row, ascending */
	float *values, *weights;
	double *levels;
};

struct job {
	const struct dropout_target *t;
	const double *product;
	const struct dropout_how *how;
	struct dropout_layout layout;
	struct dropout_codes *codes;
	struct uniform grid; /* of the matrix */
	struct row_sums *rows;
	struct scratch *scratch; /* one a worker */
	size_t n_scratch;
};

void dropout_codes_done(struct dropout_codes *d)
{
	free(d->codes);
	free(d->scales);
	*d = (struct dropout_codes){0};
}

static void scratch_done(struct scratch *s)
{
	free(s->columns);
	free(s->values);
	free(s->weights);
	free(s->levels);
}

static void job_done(struct job *j)
{
	for (size_t i = 0; j->scratch && i < j->n_scratch; i++)
		scratch_done(&j->scratch[i]);
	free(j->scratch);
	free(j->rows);
}

static int job_init(struct job *j)
{
	uint32_t n = j->layout.entries_of_row;

	j->rows = calloc(j->codes->shape.rows, sizeof(*j->rows));
	j->n_scratch = pool_threads(j->t->pool);
	j->scratch = calloc(j->n_scratch, sizeof(*j->scratch));
	if (!j->rows || !j->scratch)
		return -ENOMEM;
	for (size_t i = 0; i < j->n_scratch; i++) {
		struct scratch *s = &j->scratch[i];

		s->columns = malloc(n * sizeof(*s->columns));
		s->values = malloc(n * sizeof(*s->values));
		s->weights = malloc(n * sizeof(*s->weights));
		s->levels = malloc(n * sizeof(*s->levels));
		if (!s->columns || !s->values || !s->weights || !s->levels)
			return -ENOMEM;
	}
	return 0;
}

/* The columns that a row keeps. */
static void draw_row(const struct dropout_codes *d, uint32_t row, uint32_t *ret)
{
	const struct dropout_shape *s = &d->shape;
	uint16_t places[DROPOUT_MAX_GROUP];

	for (uint32_t first = 0; first < s->cols; first += s->group) {
		dropout_draw(d->seed, row, first / s->group, s->group, s->n_keep, places);
		for (uint32_t i = 0; i < s->n_keep; i++)
			*ret++ = first + places[i];
	}
}

/* The survivors of a row and how much the outputs feel them. */
static void gather_row(
	const struct job *j, uint32_t row, const uint32_t *columns, float *values, float *weights)
{
	const struct dropout_target *t = j->t;

	for (uint32_t i = 0; i < j->layout.entries_of_row; i++) {
		size_t c = columns[i];

		values[i] = t->delta[(size_t)row * t->cols + c];
		weights[i] = (float)t->moments[c * t->cols + c];
	}
}

static int fit_matrix_grid(struct job *j)
{
	uint64_t stride = j->how->min_max ? 1 : max_u64(1, j->layout.n_codes / SAMPLE);
	size_t n_rows = div_up(j->codes->shape.rows, stride), per_row = j->layout.entries_of_row;
	_cleanup_(freep) float *values = malloc(n_rows * per_row * sizeof(*values));
	_cleanup_(freep) float *weights = malloc(n_rows * per_row * sizeof(*weights));
	struct uniform_sample sample = {
		.values = values, .weights = weights, .n = n_rows * per_row};

	if (!values || !weights)
		return -ENOMEM;
	for (size_t i = 0; i < n_rows; i++) {
		uint32_t row = (uint32_t)(i * stride);

		draw_row(j->codes, row, j->scratch[0].columns);
		gather_row(
			j, row, j->scratch[0].columns, values + i * per_row, weights + i * per_row);
	}
	if (j->how->min_max)
		uniform_fit_min_max(&sample, j->codes->shape.bits, &j->grid);
	else
		uniform_fit_clipped(&sample, j->codes->shape.bits, &j->grid);
	return 0;
}

static double full_energy(const struct job *j, uint32_t row)
{
	const float *delta = j->t->delta + (size_t)row * j->t->cols;
	const double *product = j->product + (size_t)row * j->t->cols;
	double sum = 0;

	for (uint32_t c = 0; c < j->t->cols; c++)
		sum += (double)delta[c] * product[c];
	return sum;
}

/* levels^T H levels: each pair once, twice its weight. */
static double levels_energy(const struct job *j, const uint32_t *columns, const double *levels)
{
	double sum = 0;

	for (uint32_t i = 0; i < j->layout.entries_of_row; i++) {
		uint32_t c = columns[i];
		const double *h = j->t->moments + (size_t)c * j->t->cols;
		double part = levels[i] * h[c] / 2;

		for (uint32_t k = 0; k < i; k++)
			part += levels[k] * h[columns[k]];
		sum += 2 * levels[i] * part;
	}
	return sum;
}

static void code_row(const struct job *j, uint32_t row, const struct scratch *s)
{
	struct row_sums *sums = &j->rows[row];
	const double *product = j->product + (size_t)row * j->t->cols;
	uint32_t n = j->layout.entries_of_row;
	uint8_t *codes = j->codes->codes + (uint64_t)row * n;
	struct uniform grid = j->grid;

	draw_row(j->codes, row, s->columns);
	gather_row(j, row, s->columns, s->values, s->weights);
	if (j->how->row_steps) {
		struct uniform_sample sample = {s->values, s->weights, n};

		uniform_fit_clipped(&sample, j->codes->shape.bits, &grid);
	}
	sums->step = grid.step;
	for (uint32_t i = 0; i < n; i++) {
		codes[i] = (uint8_t)uniform_code(&grid, (double)s->values[i]);
		s->levels[i] = (double)codes[i] - grid.zero;
		sums->o.cross += s->levels[i] * product[s->columns[i]];
	}
	sums->o.energy = levels_energy(j, s->columns, s->levels);
	sums->o.full = full_energy(j, row);
}

static void code_tile(void *arg, size_t piece, size_t worker)
{
	const struct job *j = arg;
	uint32_t first = (uint32_t)piece * TILE;
	uint32_t last = (uint32_t)min_u64(first + TILE, j->codes->shape.rows);

	for (uint32_t row = first; row < last; row++)
		code_row(j, row, &j->scratch[worker]);
}

/* What the levels of a row, or of all, are to be multiplied with. */
static double factor_of(const struct job *j, const struct row_sums *s)
{
	const struct dropout_shape *shape = &j->codes->shape;

	if (j->how->unbiased)
		return s->step * shape->group / shape->n_keep;
	return dropout_factor(&s->o, j->how->coherence);
}

static struct row_sums sums_of_all(const struct job *j)
{
	struct row_sums sum = {.step = j->grid.step};

	for (uint32_t row = 0; row < j->codes->shape.rows; row++) {
		sum.o.full += j->rows[row].o.full;
		sum.o.cross += j->rows[row].o.cross;
		sum.o.energy += j->rows[row].o.energy;
	}
	return sum;
}

static void set_matrix_step(struct job *j)
{
	const struct row_sums sum = sums_of_all(j);

	j->codes->step = (float)factor_of(j, &sum);
}

/* Scales are shares of the largest, so that fp16 holds them well. */
static int set_row_scales(struct job *j)
{
	uint32_t n_rows = j->codes->shape.rows;
	double largest = 0;

	j->codes->scales = calloc(n_rows, sizeof(*j->codes->scales));
	if (!j->codes->scales)
		return -ENOMEM;
	for (uint32_t row = 0; row < n_rows; row++)
		largest = fmax(largest, factor_of(j, &j->rows[row]));
	j->codes->step = (float)largest;
	for (uint32_t row = 0; largest > 0 && row < n_rows; row++)
		j->codes->scales[row] =
			f16_from_f32((float)(factor_of(j, &j->rows[row]) / largest));
	return 0;
}

static double scale_of(const struct dropout_codes *d, uint32_t row)
{
	return (double)d->step * (double)f16_to_f32(d->scales[row]);
}

static double left_of(const struct job *j)
{
	const struct row_sums all = sums_of_all(j);
	double sum = 0;

	if (!j->codes->scales)
		return dropout_left(&all.o, (double)j->codes->step, j->how->coherence);
	for (uint32_t row = 0; row < j->codes->shape.rows; row++)
		sum += dropout_left(&j->rows[row].o, scale_of(j->codes, row), j->how->coherence);
	return sum;
}

int dropout_codes_fit(const struct dropout_target *t, const double *product,
	const struct dropout_how *how, struct dropout_codes *codes, double *ret_left)
{
	_cleanup_(job_done) struct job j = {.t = t, .product = product, .how = how, .codes = codes};
	int r;

	r = dropout_layout(&codes->shape, &j.layout, NULL);
	if (r == 0)
		r = job_init(&j);
	if (r < 0)
		return r;
	codes->codes = malloc(j.layout.n_codes);
	if (!codes->codes)
		return -ENOMEM;
	j.grid = (struct uniform){
		.bits = codes->shape.bits, .zero = (double)((1u << codes->shape.bits) - 1) / 2};
	if (!how->row_steps)
		r = fit_matrix_grid(&j);
	if (r < 0)
		return r;
	codes->zero = (float)j.grid.zero;
	pool_run(t->pool, code_tile, &j, div_up(t->rows, TILE));
	if (how->row_steps)
		r = set_row_scales(&j);
	else
		set_matrix_step(&j);
	*ret_left = left_of(&j);
	return r;
}

void dropout_codes_values(const struct dropout_codes *d, uint32_t row, float *ret)
{
	const struct dropout_shape *s = &d->shape;
	uint32_t n_groups = s->cols / s->group;
	const uint8_t *codes = d->codes + (uint64_t)row * n_groups * s->n_keep;
	float scale = d->scales ? d->step * f16_to_f32(d->scales[row]) : d->step;

	memset(ret, 0, s->cols * sizeof(*ret));
	for (uint32_t g = 0; g < n_groups; g++) {
		uint16_t columns[DROPOUT_MAX_GROUP];

		dropout_draw(d->seed, row, g, s->group, s->n_keep, columns);
		for (uint32_t i = 0; i < s->n_keep; i++, codes++)
			ret[g * s->group + columns[i]] = scale * ((float)*codes - d->zero);
	}
}

double dropout_codes_entropy(const struct dropout_codes *d)
{
	uint64_t n = (uint64_t)d->shape.rows * (d->shape.cols / d->shape.group) * d->shape.n_keep;
	uint64_t counts[1u << UNIFORM_MAX_BITS] = {0};

	for (uint64_t i = 0; i < n; i++)
		counts[d->codes[i]]++;
	return uniform_entropy(counts);
}
