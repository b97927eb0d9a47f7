/*
 * The meeting of base and delta against a dense reconstruction in double: unpacked base rows, of
 * numbers and of codes, plus U diag(sigma) V^T, element by element.
 */
#include "engine/linear.h"
#include "kernels/convert.h"
#include "kernels/pack.h"
#include "tests/dense_delta.h"
#include "tests/imported_base.h"
#include "tests/random_delta.h"
#include "tests/emulated/select.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define MAX_ROWS 13
#define MAX_RANK 16
#define LAYER 1

/* Base, a delta with three added tokens, and one without. */
#define N_VARIANTS 3

static struct base *base;
static struct delta *deltas[N_VARIANTS];

/* What a variant should make of a map, element by element. */
struct dense_map {
	double *both;  /* base and delta */
	double *plain; /* of the delta, what has no codes and takes inputs as they are */
};

static struct dense_map dense_maps[N_VARIANTS][N_LAYER_PROJECTIONS + 1];

struct fixture {
	struct kernels kernels;
	struct model *model;
	struct variant *variants[N_VARIANTS];
	struct pool *pool;
};

/* ret[r][c] of the base's matrix. */
static void add_base(double *ret, const struct base_matrix *m)
{
	float *row = malloc(m->cols * sizeof(*row));

	assert_non_null(row);
	for (uint32_t r = 0; r < m->rows; r++) {
		base_matrix_row(row, m, r);
		for (uint32_t c = 0; c < m->cols; c++)
			ret[(size_t)r * m->cols + c] += (double)row[c];
	}
	free(row);
}

/* The dense matrix of a variant, `rows` by cols of the base, or what the delta makes of a base of
 * zeros; malloc'ed. */
static double *dense(
	const struct base_matrix *m, bool zeros, const struct linear_delta *delta, uint32_t rows)
{
	double *ret = calloc((size_t)rows * m->cols, sizeof(*ret));

	assert_non_null(ret);
	if (!zeros)
		add_base(ret, m);
	dense_delta_apply(delta, m->cols, ret, NULL);
	return ret;
}

/* Codes take inputs as the base does. */
static bool is_plain(const struct delta_part *part)
{
	if (part->codec == CODEC_DROPOUT)
		return !dropmat_takes_rounded(&part->dropout);
	return part->codec == CODEC_ROWS ||
	       (part->codec == CODEC_FACTORS && part->factors.v.bits > QMAT_MAX_BITS);
}

static struct linear_delta plain_parts(const struct linear_delta *delta)
{
	struct linear_delta ret = {.n_parts = 0};

	for (uint32_t i = 0; delta && i < delta->n_parts; i++)
		if (is_plain(&delta->parts[i]))
			ret.parts[ret.n_parts++] = delta->parts[i];
	return ret;
}

static const struct base_matrix *matrix_of(size_t projection)
{
	const struct base_layer *l = &base->layers[LAYER];
	const struct base_matrix *const all[] = {
		&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down, &base->head};

	return all[projection];
}

static const struct linear_delta *delta_of(const struct delta *delta, size_t projection)
{
	const struct delta_layer *l;

	if (!delta)
		return NULL;
	l = &delta->layers[LAYER];
	return (const struct linear_delta *const[]){
		&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down, &delta->head}[projection];
}

static uint32_t rows_of(const struct delta *delta, size_t projection)
{
	if (delta && projection == PROJECTION_HEAD)
		return delta->config.vocab;
	return matrix_of(projection)->rows;
}

static void make_dense_maps(void)
{
	for (size_t v = 0; v < N_VARIANTS; v++) {
		for (size_t p = 0; p < array_len(dense_maps[v]); p++) {
			const struct linear_delta *d = delta_of(deltas[v], p);
			const struct linear_delta plain = plain_parts(d);
			uint32_t rows = rows_of(deltas[v], p);

			dense_maps[v][p].both = dense(matrix_of(p), false, d, rows);
			dense_maps[v][p].plain = dense(matrix_of(p), true, &plain, rows);
		}
	}
}

static void free_dense_maps(void)
{
	for (size_t v = 0; v < N_VARIANTS; v++) {
		for (size_t p = 0; p < array_len(dense_maps[v]); p++) {
			free(dense_maps[v][p].both);
			free(dense_maps[v][p].plain);
		}
	}
}

static int open_models_as(enum weights weights)
{
	base = imported_base_as("tests/golden/data/tiny/llama-gqa", weights);
	deltas[1] = random_delta(base, 1, 3);
	deltas[2] = random_delta(base, 2, 0);
	make_dense_maps();
	return 0;
}

/* The head of one variant changes as such a projection does. */
static void open_head(enum tensor_role like)
{
	base = imported_base_as("tests/golden/data/tiny/llama-gqa", WEIGHTS_INT8);
	deltas[1] = random_delta_with_head(base, 1, like);
	deltas[2] = random_delta(base, 2, 3);
	make_dense_maps();
}

static int open_bf16(void **state)
{
	(void)state;
	return open_models_as(WEIGHTS_BF16);
}

static int open_int8(void **state)
{
	(void)state;
	return open_models_as(WEIGHTS_INT8);
}

static int open_int4(void **state)
{
	(void)state;
	return open_models_as(WEIGHTS_INT4);
}

static int close_models(void **state)
{
	(void)state;
	free_dense_maps();
	delta_free(deltas[1]);
	delta_free(deltas[2]);
	base_free(base);
	return 0;
}

static void fixture_open(struct fixture *f, const char *set, size_t n_threads)
{
	assert_int_equal(select_or_emulate(&f->kernels, set, NULL), 0);
	assert_int_equal(pool_new(n_threads, &f->pool, NULL), 0);
	assert_int_equal(model_new(base, &f->kernels, &f->model, NULL), 0);
	for (size_t i = 0; i < N_VARIANTS; i++)
		assert_int_equal(variant_new(f->model, deltas[i], &f->variants[i], NULL), 0);
}

static void fixture_close(struct fixture *f)
{
	for (size_t i = 0; i < N_VARIANTS; i++)
		variant_free(f->variants[i]);
	model_free(f->model);
	pool_free(f->pool);
}

static size_t index_of(const struct fixture *f, const struct variant *variant)
{
	size_t i = 0;

	while (f->variants[i] != variant)
		i++;
	return i;
}

/* What a base of integers takes for x: each 128 as 127ths of their largest. */
static void round_inputs(double *ret, const struct base_matrix *m, const float *x)
{
	for (uint32_t begin = 0; begin < m->cols; begin += 128) {
		uint32_t end = begin + 128 < m->cols ? begin + 128 : m->cols;
		double step = 0;

		for (uint32_t c = begin; c < end; c++)
			step = fmax(step, fabs((double)x[c]) / 127);
		for (uint32_t c = begin; c < end; c++)
			ret[c] = m->codec == CODEC_MAT_INT ? nearbyint(x[c] / step) * step : x[c];
	}
}

/* z = diag(sigma) V^T x. */
static void factors_z(double *ret, const struct factors *f, const double *x)
{
	for (uint32_t k = 0; k < f->v.rows; k++) {
		ret[k] = 0;
		for (uint32_t c = 0; c < f->v.cols; c++)
			ret[k] += (double)qmat_value(&f->v, k, c) * x[c];
		ret[k] *= (double)f->sigma[k];
	}
}

/* slack[o] += what half a code of z's can make of output o, where z becomes codes. */
static void add_slack(double *slack, const struct delta_part *part, const double *x)
{
	const struct qmat *u = &part->factors.u;
	double z[MAX_RANK];

	if (part->codec != CODEC_FACTORS || u->bits >= QMAT_MAX_BITS)
		return;
	assert_true(u->rows <= MAX_RANK);
	factors_z(z, &part->factors, x);
	for (uint32_t o = 0; o < u->cols; o++) {
		double largest = 0, sum = 0;

		for (uint32_t k = 0; k < u->rows; k++) {
			size_t at = k * u->scale_row + o / QMAT_GROUP * u->scale_group;
			double scale = u->scales ? (double)f16_to_f32(u->scales[at]) : 1;

			largest = fmax(largest, fabs(z[k] * scale));
			sum += scale == 0 ? 0 : fabs((double)qmat_value(u, k, o) / scale);
		}
		slack[o] += 1.001 * sum * largest / 254;
	}
}

/* What is plain takes the inputs themselves, all else what the base takes. */
static void expect_product(const struct fixture *f, const struct variant *v, size_t projection,
	const float *y, const float *x)
{
	const struct base_matrix *m = matrix_of(projection);
	size_t variant = index_of(f, v);
	const struct dense_map *map = &dense_maps[variant][projection];
	const struct linear_delta *delta = delta_of(deltas[variant], projection);
	double *rounded = malloc(m->cols * sizeof(*rounded));
	double *slack = calloc(rows_of(deltas[variant], projection), sizeof(*slack));

	assert_true(rounded && slack);
	round_inputs(rounded, m, x);
	for (uint32_t i = 0; delta && m->codec == CODEC_MAT_INT && i < delta->n_parts; i++)
		add_slack(slack, &delta->parts[i], rounded);
	for (uint32_t r = 0; r < rows_of(deltas[variant], projection); r++) {
		const double *both = map->both + (size_t)r * m->cols;
		const double *plain = map->plain + (size_t)r * m->cols;
		double sum = 0, size = 0;

		for (uint32_t c = 0; c < m->cols; c++) {
			sum += plain[c] * x[c] + (both[c] - plain[c]) * rounded[c];
			size += fabs(both[c] * x[c]);
		}
		/* Sums over inputs and ranks in f32, and cancellation between base and delta. */
		if (!(fabs(y[r] - sum) <= 2e-5 * (size + 1) + slack[r]))
			fail_msg("output %u is %.9g, expected %.9g", r, y[r], sum);
	}
	free(rounded);
	free(slack);
}

/* Runs of uneven length, the base in the middle. */
static size_t make_runs(const struct fixture *f, size_t n_rows, struct linear_run *ret)
{
	const size_t order[] = {1, 0, 2}, n_first = n_rows / 2, n_second = n_rows > 2 ? 1 : 0;
	const size_t lengths[] = {n_first, n_second, n_rows - n_first - n_second};
	size_t n = 0, at = 0;

	for (size_t i = 0; i < array_len(order); i++) {
		if (lengths[i])
			ret[n++] = (struct linear_run){f->variants[order[i]], at, lengths[i]};
		at += lengths[i];
	}
	return n;
}

static void fill_random(float *x, size_t n)
{
	uint32_t state = 77;

	for (size_t i = 0; i < n; i++)
		x[i] = random_float(&state);
}

static void *panel_new(const struct fixture *f, size_t n_rows, uint32_t cols)
{
	size_t bytes = linear_panel_bytes(&f->kernels, n_rows, cols);
	void *panel = bytes ? aligned_alloc(64, align_up(bytes, 64)) : NULL;

	assert_true(panel || !bytes);
	return panel;
}

/* Projections [first, first + n), which have one input of `width` numbers. */
static void check_group(const struct fixture *f, size_t n_rows, size_t first, size_t n)
{
	const struct base_matrix *const bases[] = {
		matrix_of(first), matrix_of(first + (n > 1)), matrix_of(first + n - 1)};
	uint32_t width = bases[0]->cols;
	size_t z_stride = linear_scratch(bases, n);
	float *x = malloc(MAX_ROWS * width * sizeof(*x));
	float *z = malloc(MAX_ROWS * z_stride * sizeof(*z));
	struct act_group *rounded =
		aligned_alloc(64, (MAX_ROWS * linear_rounded(bases, n) + 1) * sizeof(*rounded));
	struct linear_run runs[N_VARIANTS];
	void *panel = panel_new(f, n_rows, width);
	struct linear_call call = {
		.kernels = &f->kernels,
		.pool = f->pool,
		.x = x,
		.x_stride = width,
		.n_rows = n_rows,
		.runs = runs,
		.n_runs = make_runs(f, n_rows, runs),
		.layer = LAYER,
		.n_parts = n,
		.z = z,
		.z_stride = z_stride,
		.rounded = rounded,
		.panel = panel,
	};

	assert_true(x && z && rounded);
	fill_random(x, n_rows * width);
	for (size_t p = 0; p < n; p++)
		call.parts[p] = (struct linear_part){bases[p],
			malloc(MAX_ROWS * bases[p]->rows * sizeof(float)), bases[p]->rows,
			PROJECTION_Q + first + p};
	linear_apply(&call);
	for (size_t p = 0; p < n; p++) {
		for (size_t i = 0; i < call.n_runs; i++) {
			for (size_t t = runs[i].first; t < runs[i].first + runs[i].n; t++)
				expect_product(f, runs[i].variant, first + p,
					call.parts[p].y + t * bases[p]->rows, x + t * width);
		}
		free(call.parts[p].y);
	}
	free(x);
	free(z);
	free(rounded);
	free(panel);
}

static void check_layer(const struct fixture *f, size_t n_rows)
{
	check_group(f, n_rows, PROJECTION_Q, 3);
	check_group(f, n_rows, PROJECTION_O, 1);
	check_group(f, n_rows, PROJECTION_GATE, 2);
	check_group(f, n_rows, PROJECTION_DOWN, 1);
}

static void check_head(const struct fixture *f, size_t n_rows)
{
	uint32_t hidden = base->config.hidden, stride = model_logits_stride(f->model);
	float x[MAX_ROWS * 64], z[MAX_ROWS * 64];
	struct act_group rounded[MAX_ROWS];
	float *y = malloc(MAX_ROWS * stride * sizeof(*y));
	struct linear_run runs[N_VARIANTS];
	void *panel = panel_new(f, n_rows, hidden);
	struct linear_call call = {
		.kernels = &f->kernels,
		.pool = f->pool,
		.x = x,
		.x_stride = hidden,
		.n_rows = n_rows,
		.runs = runs,
		.n_runs = make_runs(f, n_rows, runs),
		.n_parts = 1,
		.parts[0] = {&base->head, y, stride, PROJECTION_HEAD},
		.z = z,
		.z_stride = hidden,
		.rounded = rounded,
		.panel = panel,
	};

	assert_non_null(y);
	assert_int_equal(hidden, 64);
	fill_random(x, n_rows * hidden);
	linear_apply(&call);
	for (size_t i = 0; i < call.n_runs; i++)
		for (size_t t = runs[i].first; t < runs[i].first + runs[i].n; t++)
			expect_product(f, runs[i].variant, PROJECTION_HEAD, y + t * stride,
				x + t * hidden);
	free(y);
	free(panel);
}

/* With every set of kernels, numbers of threads and of rows. */
static void check_everywhere(void (*check)(const struct fixture *f, size_t n_rows))
{
	static const char *const sets[] = {"ref", "avx2", "avx512", "amx"};
	static const size_t counts[] = {1, 2, 3, MAX_ROWS};
	struct kernels probe;

	for (size_t s = 0; s < array_len(sets); s++) {
		if (s > 0 && select_or_emulate(&probe, sets[s], NULL) == -EOPNOTSUPP)
			continue;
		for (size_t threads = 1; threads <= 3; threads++) {
			struct fixture f;

			fixture_open(&f, sets[s], threads);
			for (size_t i = 0; i < array_len(counts); i++)
				check(&f, counts[i]);
			fixture_close(&f);
		}
	}
}

static void check_all(const struct fixture *f, size_t n_rows)
{
	check_layer(f, n_rows);
	check_head(f, n_rows);
}

static void test_products(void **state)
{
	(void)state;
	check_everywhere(check_all);
}

/* Whatever a delta may make of a projection, of the head it makes the same; beside a delta with new
 * rows, tokens and codes. */
static void test_heads(void **state)
{
	static const enum tensor_role like[] = {
		ROLE_Q, ROLE_K, ROLE_V, ROLE_O, ROLE_GATE, ROLE_UP, ROLE_DOWN};

	(void)state;
	for (size_t i = 0; i < array_len(like); i++) {
		open_head(like[i]);
		check_everywhere(check_head);
		close_models(NULL);
	}
}

#define TALL_COLS 2

/* Whole numbers, so that products are exact. */
static float tall_value(uint32_t row, uint32_t col)
{
	return (float)((row * 7 + col) % 251) - 125;
}

static struct base_matrix tall_matrix_new(uint32_t rows)
{
	uint16_t *source = malloc((size_t)rows * TALL_COLS * sizeof(*source));
	size_t n = mat_bf16_size(rows, TALL_COLS);
	uint16_t *data = aligned_alloc(64, align_up(n * sizeof(*data), 64));
	struct mat_bf16 m = {.data = data, .rows = rows, .cols = TALL_COLS};

	assert_true(source && data);
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t c = 0; c < TALL_COLS; c++)
			source[r * TALL_COLS + c] = bf16_from_f32(tall_value(r, c));
	mat_bf16_pack(data, source, rows, TALL_COLS);
	free(source);
	return base_matrix_of_bf16(&m);
}

static void check_tall(const struct fixture *f, size_t n_rows)
{
	static const uint32_t heights[LINEAR_MAX_PARTS] = {16 * 700 + 5, 3, 16 * 37};
	const float x[TALL_COLS] = {3, -2};
	struct linear_run run = {f->variants[0], 0, n_rows};
	struct base_matrix m[LINEAR_MAX_PARTS];
	void *panel = panel_new(f, n_rows, TALL_COLS);
	struct linear_call call = {
		.kernels = &f->kernels,
		.pool = f->pool,
		.x = x,
		.n_rows = n_rows,
		.runs = &run,
		.n_runs = 1,
		.n_parts = LINEAR_MAX_PARTS,
		.panel = panel,
	};

	for (size_t p = 0; p < LINEAR_MAX_PARTS; p++) {
		size_t n = n_rows * heights[p];
		float *y = malloc(n * sizeof(*y));

		assert_non_null(y);
		for (size_t i = 0; i < n; i++)
			y[i] = NAN;
		m[p] = tall_matrix_new(heights[p]);
		call.parts[p] = (struct linear_part){&m[p], y, heights[p], PROJECTION_Q + p};
	}
	linear_apply(&call);
	for (size_t p = 0; p < LINEAR_MAX_PARTS; p++) {
		for (size_t t = 0; t < n_rows; t++)
			for (uint32_t r = 0; r < heights[p]; r++)
				assert_true(call.parts[p].y[t * heights[p] + r] ==
					    3 * tall_value(r, 0) - 2 * tall_value(r, 1));
		free(call.parts[p].y);
		free((void *)(uintptr_t)m[p].bf16.data);
	}
	free(panel);
}

/* Parts of many outputs and of few are cut among any number of threads, and no block is left. */
static void test_many_outputs(void **state)
{
	(void)state;
	for (size_t threads = 1; threads <= 7; threads++) {
		struct fixture f;

		fixture_open(&f, NULL, threads);
		check_tall(&f, 1);
		check_tall(&f, 33);
		fixture_close(&f);
	}
}

/* The block whose rows are all replaced is not computed from the base. */
static void test_replaced_blocks(void **state)
{
	struct fixture f;

	(void)state;
	fixture_open(&f, "ref", 1);
	assert_false(f.variants[1]->head.block_replaced[0]);
	assert_true(f.variants[1]->head.block_replaced[1]);
	for (size_t b = 2; b < mat_bf16_blocks(base->config.vocab); b++)
		assert_false(f.variants[1]->head.block_replaced[b]);
	fixture_close(&f);
}

static void test_embedding(void **state)
{
	struct fixture f;
	uint32_t hidden = base->config.hidden;
	double *w = dense(&base->embed, false, &deltas[1]->embed, deltas[1]->config.vocab);
	float got[64];

	(void)state;
	assert_int_equal(hidden, 64);
	fixture_open(&f, "ref", 1);
	for (uint32_t token = 0; token < f.variants[1]->config.vocab; token++) {
		variant_embed(f.variants[1], token, got);
		for (uint32_t c = 0; c < hidden; c++)
			assert_true(fabs((double)got[c] - w[(size_t)token * hidden + c]) <=
				    0x1p-23 * (1 + fabs((double)got[c])));
	}
	free(w);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_products),
		cmocka_unit_test(test_many_outputs),
		cmocka_unit_test(test_replaced_blocks),
		cmocka_unit_test(test_embedding),
	};

	const struct CMUnitTest of_codes[] = {cmocka_unit_test(test_products)};
	const struct CMUnitTest of_heads[] = {cmocka_unit_test(test_heads)};

	return cmocka_run_group_tests(tests, open_bf16, close_models) +
	       cmocka_run_group_tests(of_codes, open_int8, close_models) +
	       cmocka_run_group_tests(of_codes, open_int4, close_models) +
	       cmocka_run_group_tests(of_heads, NULL, NULL);
}
