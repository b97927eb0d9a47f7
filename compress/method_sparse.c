/*
 * Method "sparse": -1, 0 or +1 times a scale for each row, most of them 0, entropy coded. Where the
 * budget holds more than that, from 1.2 bits a number on, those that stay have 3 magnitudes, then
 * 7, and so on.
 *
 * The numbers that stay are those with the largest |D_ij| sqrt(H_jj) of the matrix; GPTQ lets the
 * columns still free make up for those that are dropped and for the rounding of the others. The
 * row's scale is, for the codes chosen, the one of the least squared error of the outputs. How many
 * stay is searched, so that the coded part just fits the budget.
 */
#include "compress/gptq.h"
#include "compress/methods.h"
#include "compress/row_codes.h"
#include "kernels/blas.h"
#include "kernels/convert.h"
#include "store/base.h"

#include <math.h>
#include <string.h>

#define ROWS_PER_TASK 64u
#define N_SEARCHES 7
#define ENOUGH 0.985 /* of the budget */
#define MAX_LEVELS 127u
#define SIGNS_BITS 1.2 /* of a number: for more, one magnitude is too few */
#define N_SCALES 12

struct sparse {
	const struct method_group *group;
	const struct gptq *gptq;
	const struct method_matrix *matrix;
	double *importance; /* |D_ij| sqrt(H_jj) */
	double threshold;
	uint32_t levels; /* magnitudes of what stays: 1 to `levels` times the scale */
	struct code_matrix *codes;
	int *errors;
};

/* Rows on their way. */
struct tile {
	const struct sparse *s;
	uint32_t first, n_rows;
	double *target, *values, *values_h; /* values: code - zero */
	double *scales;                     /* of each row, as a reader has it */
};

static bool stays(const struct tile *t, uint32_t row, uint32_t column)
{
	double importance =
		t->s->importance[(size_t)(t->first + row) * t->s->matrix->cols + column];

	return importance > 0 && importance >= t->s->threshold;
}

static double nearest_value(const struct tile *t, double value, double scale)
{
	double level = scale > 0 ? rint(fabs(value) / scale) : 1;

	level = fmax(1, fmin(t->s->levels, level));
	return value < 0 ? -level : level;
}

/* A number that stays becomes a level, whatever the errors of others have made of it; one that does
 * not becomes 0. */
static double round_one(void *arg, uint32_t row, uint32_t column, double value)
{
	struct tile *t = arg;
	double level = stays(t, row, column) ? nearest_value(t, value, t->scales[row]) : 0;

	t->values[(size_t)row * t->s->matrix->cols + column] = level;
	return level * t->scales[row];
}

static double rounding_error(const struct tile *t, uint32_t row, double scale)
{
	uint32_t cols = t->s->matrix->cols;
	const double *target = t->target + (size_t)row * cols;
	double sum = 0;

	for (uint32_t c = 0; c < cols; c++)
		if (stays(t, row, c)) {
			double error = target[c] - scale * nearest_value(t, target[c], scale);

			sum += error * error;
		}
	return sum;
}

/* The mean magnitude of what stays, where that is all it becomes; else the best of some parts of
 * it. */
static double first_scale(const struct tile *t, uint32_t row)
{
	uint32_t cols = t->s->matrix->cols, n = 0;
	const double *target = t->target + (size_t)row * cols;
	double sum = 0, mean, best = 0, least = INFINITY;

	for (uint32_t c = 0; c < cols; c++)
		if (stays(t, row, c)) {
			sum += fabs(target[c]);
			n++;
		}
	mean = n ? sum / n : 0;
	if (t->s->levels == 1)
		return mean;
	for (int i = 0; i < N_SCALES; i++) {
		double scale = mean / t->s->levels * (1 + 0.25 * i);
		double error = rounding_error(t, row, scale);

		if (error < least) {
			least = error;
			best = scale;
		}
	}
	return best;
}

static uint16_t stored_scale(const struct tile *t, double scale)
{
	return f16_from_f32((float)(scale / (double)t->s->codes->step));
}

static double scale_of(const struct tile *t, uint16_t stored)
{
	return (double)f16_to_f32(stored) * (double)t->s->codes->step;
}

/* For its codes, the row's best scale: (d H q) / (q H q). */
static uint16_t best_scale(const struct tile *t, uint32_t row)
{
	uint32_t cols = t->s->matrix->cols;
	size_t at = (size_t)row * cols;
	double both = 0, codes = 0;

	for (uint32_t c = 0; c < cols; c++) {
		both += t->target[at + c] * t->values_h[at + c];
		codes += t->values[at + c] * t->values_h[at + c];
	}
	if (!(codes > 0 && both > 0))
		return stored_scale(t, t->scales[row]);
	return stored_scale(t, both / codes);
}

static int fit_tile(struct tile *t)
{
	const struct gptq_rounding rounding = {.round = round_one, .arg = t};
	struct code_matrix *m = t->s->codes;
	uint32_t cols = m->n_cols;
	struct blas_gemm gemm = {.m = t->n_rows, .n = cols, .k = cols, .alpha = 1};
	int r;

	for (uint32_t i = 0; i < t->n_rows; i++)
		t->scales[i] = scale_of(t, stored_scale(t, first_scale(t, i)));
	r = gptq_rows(t->s->gptq, t->target, 0, t->n_rows, &rounding);
	if (r < 0)
		return r;
	blas_gemm_f64(&gemm, t->values, t->s->group->moments, t->values_h);
	for (uint32_t i = 0; i < t->n_rows; i++) {
		uint8_t *codes = m->codes + (size_t)(t->first + i) * cols;

		m->scales[t->first + i] = best_scale(t, i);
		for (uint32_t c = 0; c < cols; c++)
			codes[c] =
				(uint8_t)((int)t->s->levels + (int)t->values[(size_t)i * cols + c]);
	}
	return 0;
}

static void fit_task(void *arg, size_t piece, size_t worker)
{
	const struct sparse *s = arg;
	const struct method_matrix *m = s->matrix;
	uint32_t first = (uint32_t)piece * ROWS_PER_TASK;
	uint32_t n_rows = (uint32_t)min_u64(ROWS_PER_TASK, m->rows - first);
	size_t n = (size_t)n_rows * m->cols;
	_cleanup_(freep) double *work = malloc((3 * n + n_rows) * sizeof(*work));
	struct tile t = {.s = s, .first = first, .n_rows = n_rows};

	(void)worker;
	s->errors[piece] = -ENOMEM;
	if (!work)
		return;
	t.target = work;
	t.values = work + n;
	t.values_h = work + 2 * n;
	t.scales = work + 3 * n;
	for (size_t i = 0; i < n; i++)
		t.target[i] = (double)m->delta[(size_t)first * m->cols + i];
	s->errors[piece] = fit_tile(&t);
}

static int compare_falling(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a < b) - (a > b);
}

/* Codes with the `n_kept` most important numbers, as a part. */
static int make_part(struct sparse *s, const double *falling, size_t n_kept, struct part *ret)
{
	const struct part_place place = method_matrix_place(s->matrix, 0);
	size_t n_tasks = div_up(s->matrix->rows, ROWS_PER_TASK);

	s->threshold = falling[n_kept - 1];
	pool_run(s->group->pool, fit_task, s, n_tasks);
	for (size_t i = 0; i < n_tasks; i++)
		if (s->errors[i] < 0)
			return s->errors[i];
	return part_codes(&place, s->codes, NULL, true, ret);
}

/* Of a number, were all places, signs and magnitudes equally likely. */
static double bits_of_share(double share, uint32_t levels)
{
	double rest = 1 - share;

	return share * (1 + log2(levels) - log2(share)) - (rest > 0 ? rest * log2(rest) : 0);
}

/* Beyond this share, more that stays takes less bits. */
static double most_share(uint32_t levels)
{
	return 2.0 * levels / (2.0 * levels + 1);
}

/* The share that stays for so many bits a number. */
static double share_for(double bits, uint32_t levels)
{
	double low = 1e-9, high = most_share(levels);

	for (int i = 0; i < 50; i++) {
		double middle = (low + high) / 2;

		if (bits_of_share(middle, levels) <= bits)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static size_t kept_within(double n, size_t most)
{
	return n < 1 ? 1 : n < (double)most ? (size_t)n : most;
}

static double bits_of_budget(const struct method_matrix *m)
{
	return 8.0 * (double)m->budget / ((double)m->rows * m->cols);
}

/* Tries numbers that stay, each corrected by what the one before took; the part that fits the
 * budget and keeps most is added, none where even one number does not fit. */
static int search(struct sparse *s, struct method_matrix *m, const double *falling)
{
	_cleanup_(part_done) struct part best = {0};
	size_t n = (size_t)m->rows * m->cols, best_kept = 0;
	double share = share_for(bits_of_budget(m), s->levels);
	size_t most = kept_within(most_share(s->levels) * (double)n, n);
	size_t n_kept = kept_within(share * (double)n, most);

	for (int i = 0; i < N_SEARCHES; i++) {
		_cleanup_(part_done) struct part part = {0};
		double used;
		bool fits;
		int r;

		r = make_part(s, falling, n_kept, &part);
		if (r < 0)
			return r;
		used = (double)part_file_bytes(&part) / (double)m->budget;
		fits = used <= 1;
		if (fits && n_kept > best_kept) {
			part_done(&best);
			best = part_take(&part);
			best_kept = n_kept;
		}
		if ((fits && used > ENOUGH) || (!fits && n_kept == 1) || (fits && n_kept == most))
			break;
		n_kept = kept_within((double)n_kept / used * (fits ? 1 : ENOUGH), most);
	}
	return best_kept ? method_matrix_add(m, &best) : 0;
}

static uint32_t levels_for(double bits)
{
	uint32_t levels = 1;

	while (levels < MAX_LEVELS && bits > SIGNS_BITS) {
		levels = 2 * levels + 1;
		bits--;
	}
	return levels;
}

/* Bits that hold the codes of as many levels of each sign, and 0. */
static uint8_t width_of(uint32_t levels)
{
	uint8_t bits = 1;

	while (levels >> (bits - 1))
		bits++;
	return bits;
}

static int prepare_one(struct sparse *s, double *importance, double *falling)
{
	const struct method_matrix *m = s->matrix;
	size_t n = (size_t)m->rows * m->cols;
	int r;

	for (size_t i = 0; i < n; i++) {
		size_t c = i % m->cols;
		double power = s->group->moments[c * m->cols + c];

		importance[i] = fabs((double)m->delta[i]) * sqrt(fmax(0, power));
		if (!isfinite(importance[i]))
			return -EDOM;
	}
	memcpy(falling, importance, n * sizeof(*falling));
	qsort(falling, n, sizeof(*falling), compare_falling);
	s->importance = importance;
	s->levels = levels_for(bits_of_budget(m));
	r = code_matrix_new(m->rows, m->cols, width_of(s->levels), GRID_ROW, &s->codes);
	if (r < 0)
		return r;
	s->codes->zero = (float)s->levels;
	s->codes->step = row_codes_step(m->delta, n);
	return 0;
}

static int quantise_one(
	const struct method_group *group, const struct gptq *gptq, struct method_matrix *m)
{
	size_t n = (size_t)m->rows * m->cols;
	_cleanup_(freep) double *importance = malloc((n + 1) * sizeof(*importance));
	_cleanup_(freep) double *falling = malloc((n + 1) * sizeof(*falling));
	_cleanup_(freep) int *errors = calloc(div_up(m->rows, ROWS_PER_TASK) + 1, sizeof(*errors));
	_cleanup_(code_matrix_freep) struct code_matrix *codes = NULL;
	struct sparse s = {.group = group, .gptq = gptq, .matrix = m, .errors = errors};
	int r;

	if (!importance || !falling || !errors)
		return -ENOMEM;
	r = prepare_one(&s, importance, falling);
	codes = s.codes;
	return r < 0 ? r : search(&s, m, falling);
}

static int quantise(void *state, struct method_group *group, struct reason *reason)
{
	_cleanup_(gptq_freep) struct gptq *gptq = NULL;
	int r;

	(void)state;
	r = gptq_new(group->pool, group->moments, group->cols, &gptq, reason);
	for (size_t i = 0; r == 0 && i < group->n_matrices; i++)
		r = quantise_one(group, gptq, &group->matrices[i]);
	return r;
}

const struct method method_sparse = {
	.name = "sparse",
	.summary = "signs, or few levels, of the numbers that matter most, entropy coded",
	.needs = METHOD_NEEDS_CALIBRATION,
	.default_ratio = 32,
	.check = method_check_ratio,
	.quantise = quantise,
};
