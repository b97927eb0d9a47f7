#include "compress/row_codes.h"

#include "kernels/blas.h"
#include "kernels/convert.h"

#include <math.h>
#include <string.h>

#define ROWS_PER_TASK 64u
#define N_ROUNDS 2
/* Scales that are tried: the one that reaches the largest number of the row, times 0.95^i. */
#define N_CLIPS 48
#define CLIP_FACTOR 0.95
#define F16_MAX 65504.0

struct fit {
	const struct row_codes_problem *p;
	struct code_matrix *m;
	const double *weights; /* of the columns */
	double damping;        /* added to the diagonal of H */
	double *losses;        /* of the rows */
	int *errors;           /* of the tasks */
};

/* Some rows on their way. */
struct tile {
	const struct fit *fit;
	uint32_t first, n_rows;
	double *target;   /* n_rows x cols */
	double *target_h; /* times H */
	double *codes;    /* code - zero */
	double *codes_h;
	double *scales; /* as stored, times step */
	uint8_t *raw;   /* codes as stored */
};

/* What a scale becomes when it is stored. */
static uint16_t stored_scale(const struct tile *t, double scale)
{
	double units = scale / (double)t->fit->m->step;

	return f16_from_f32((float)fmin(units, F16_MAX));
}

static double scale_of(const struct tile *t, uint16_t stored)
{
	return (double)f16_to_f32(stored) * (double)t->fit->m->step;
}

static double nearest_code(const struct code_matrix *m, double scale, double value)
{
	double top = (double)((1u << m->bits) - 1);
	double zero = (double)m->zero;

	return scale > 0 ? fmax(0, fmin(top, rint(value / scale + zero))) : ceil(zero);
}

static double rounding_loss(const struct tile *t, const double *row, double scale)
{
	const struct code_matrix *m = t->fit->m;
	double sum = 0;

	for (uint32_t c = 0; c < m->n_cols; c++) {
		double error = row[c] - scale * (nearest_code(m, scale, row[c]) - (double)m->zero);

		sum += t->fit->weights[c] * error * error;
	}
	return sum;
}

/* The scale that plain rounding with weighed columns likes best. */
static double first_scale(const struct tile *t, const double *row)
{
	const struct code_matrix *m = t->fit->m;
	double largest = 0, best = 0, best_loss, scale;

	for (uint32_t c = 0; c < m->n_cols; c++)
		largest = fmax(largest, fabs(row[c]));
	best_loss = rounding_loss(t, row, 0);
	scale = largest / (double)m->zero;
	for (int i = 0; i < N_CLIPS && largest > 0; i++, scale *= CLIP_FACTOR) {
		double candidate = scale_of(t, stored_scale(t, scale));
		double loss = rounding_loss(t, row, candidate);

		if (loss < best_loss) {
			best_loss = loss;
			best = candidate;
		}
	}
	return best;
}

/* `row` is one of the tile. */
static double round_one(void *arg, uint32_t row, uint32_t column, double value)
{
	struct tile *t = arg;
	const struct code_matrix *m = t->fit->m;
	size_t at = (size_t)row * m->n_cols + column;
	double scale = t->scales[row];
	double code = nearest_code(m, scale, value);

	t->raw[at] = (uint8_t)code;
	t->codes[at] = code - (double)m->zero;
	return scale * t->codes[at];
}

static int choose_codes(struct tile *t)
{
	const struct row_codes_problem *p = t->fit->p;
	const struct gptq_rounding rounding = {.round = round_one, .arg = t};

	if (p->gptq)
		return gptq_rows(p->gptq, t->target, 0, t->n_rows, &rounding);
	for (uint32_t r = 0; r < t->n_rows; r++)
		for (uint32_t c = 0; c < p->cols; c++)
			round_one(t, r, c, t->target[(size_t)r * p->cols + c]);
	return 0;
}

/* ret = rows H, H damped. */
static void times_moments(const struct tile *t, const double *rows, double *ret)
{
	const struct row_codes_problem *p = t->fit->p;
	size_t n = (size_t)t->n_rows * p->cols;
	struct blas_gemm gemm = {.m = t->n_rows, .n = p->cols, .k = p->cols, .alpha = 1, .beta = 1};

	for (size_t i = 0; i < n; i++)
		ret[i] = t->fit->damping * rows[i];
	if (p->moments)
		blas_gemm_f64(&gemm, rows, p->moments, ret);
}

static double dot(const double *a, const double *b, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += a[i] * b[i];
	return sum;
}

/* Keeps the row's codes with their best scale where they are better than what is kept. The scale
 * is also that of the next round. */
static void keep_row(struct tile *t, uint32_t r)
{
	struct code_matrix *m = t->fit->m;
	uint32_t cols = m->n_cols, row = t->first + r;
	size_t at = (size_t)r * cols;
	double whole = dot(t->target + at, t->target_h + at, cols);
	double both = dot(t->target_h + at, t->codes + at, cols);
	double codes = dot(t->codes + at, t->codes_h + at, cols);
	double best = codes > 0 && both > 0 ? both / codes : t->scales[r];
	uint16_t stored = stored_scale(t, best);
	double scale = scale_of(t, stored);
	double loss = whole - 2 * scale * both + scale * scale * codes;

	t->scales[r] = scale;
	if (!(loss < t->fit->losses[row]))
		return;
	t->fit->losses[row] = loss;
	m->scales[row] = stored;
	memcpy(m->codes + (size_t)row * cols, t->raw + at, cols);
}

static int fit_tile(struct tile *t)
{
	uint32_t cols = t->fit->p->cols;
	int r;

	for (uint32_t i = 0; i < t->n_rows; i++) {
		t->scales[i] = first_scale(t, t->target + (size_t)i * cols);
		t->fit->losses[t->first + i] = HUGE_VAL;
	}
	times_moments(t, t->target, t->target_h);
	for (int round = 0; round < N_ROUNDS; round++) {
		r = choose_codes(t);
		if (r < 0)
			return r;
		times_moments(t, t->codes, t->codes_h);
		for (uint32_t i = 0; i < t->n_rows; i++)
			keep_row(t, i);
	}
	return 0;
}

static void fit_task(void *arg, size_t piece, size_t worker)
{
	const struct fit *f = arg;
	uint32_t first = (uint32_t)piece * ROWS_PER_TASK;
	uint32_t n_rows = (uint32_t)min_u64(ROWS_PER_TASK, f->p->rows - first);
	size_t n = (size_t)n_rows * f->p->cols;
	_cleanup_(freep) double *work = malloc((4 * n + n_rows) * sizeof(*work));
	_cleanup_(freep) uint8_t *raw = malloc(n);
	struct tile t = {.fit = f, .first = first, .n_rows = n_rows, .raw = raw};

	(void)worker;
	f->errors[piece] = -ENOMEM;
	if (!work || !raw)
		return;
	t.target = work;
	t.target_h = work + n;
	t.codes = work + 2 * n;
	t.codes_h = work + 3 * n;
	t.scales = work + 4 * n;
	for (size_t i = 0; i < n; i++)
		t.target[i] = (double)f->p->matrix[(size_t)first * f->p->cols + i];
	f->errors[piece] = fit_tile(&t);
}

float row_codes_step(const float *matrix, size_t n)
{
	float largest = 0;
	int exponent;

	for (size_t i = 0; i < n; i++)
		largest = fmaxf(largest, fabsf(matrix[i]));
	if (!(largest > 0) || !isfinite(largest))
		return 1;
	frexpf(largest, &exponent);
	return ldexpf(1, exponent - 1);
}

static int make_matrix(const struct row_codes_problem *p, struct code_matrix **ret)
{
	int r = code_matrix_new(p->rows, p->cols, p->bits, GRID_ROW, ret);

	if (r < 0)
		return r;
	(*ret)->step = row_codes_step(p->matrix, (size_t)p->rows * p->cols);
	(*ret)->zero = (float)((1u << p->bits) - 1) / 2;
	return 0;
}

static void find_weights(struct fit *f, double *ret)
{
	const struct row_codes_problem *p = f->p;
	double trace = 0;

	f->weights = ret;
	f->damping = 1;
	for (uint32_t c = 0; c < p->cols; c++)
		ret[c] = 1;
	if (!p->gptq)
		return;
	gptq_weights(p->gptq, ret);
	for (uint32_t c = 0; c < p->cols; c++)
		trace += p->moments[(size_t)c * p->cols + c];
	f->damping = GPTQ_DAMPING * trace / p->cols;
}

static int run_fit(struct fit *f)
{
	size_t n_tasks = div_up(f->p->rows, ROWS_PER_TASK);

	pool_run(f->p->pool, fit_task, f, n_tasks);
	for (size_t i = 0; i < n_tasks; i++)
		if (f->errors[i] < 0)
			return f->errors[i];
	return 0;
}

int row_codes_fit(const struct row_codes_problem *p, struct code_matrix **ret, double *ret_loss)
{
	_cleanup_(code_matrix_freep) struct code_matrix *m = NULL;
	_cleanup_(freep) double *weights = malloc(((size_t)p->cols + 1) * sizeof(*weights));
	_cleanup_(freep) double *losses = calloc((size_t)p->rows + 1, sizeof(*losses));
	_cleanup_(freep) int *errors = calloc(div_up(p->rows, ROWS_PER_TASK) + 1, sizeof(*errors));
	struct fit fit = {.p = p, .losses = losses, .errors = errors};
	double loss = 0;
	int r;

	if (!weights || !losses || !errors)
		return -ENOMEM;
	r = make_matrix(p, &m);
	if (r < 0)
		return r;
	fit.m = m;
	find_weights(&fit, weights);
	r = run_fit(&fit);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < p->rows; i++)
		loss += losses[i];
	if (!isfinite(loss))
		return -EDOM;
	*ret = take_ptr(m);
	*ret_loss = loss;
	return 0;
}
