/*
 * Method deltadq: what may be asked of it, what it makes of a matrix, and the way from two
 * checkpoints to a file.
 */
#include "compress/compress.h"
#include "compress/methods.h"
#include "compress/part_values.h"
#include "tests/compute.h"
#include "tests/golden_file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#define ROWS 64u
#define COLS 96u

/* One matrix with inputs that are alike, for the method by itself. */
struct example {
	struct method_options options;
	float delta[ROWS * COLS], base[ROWS * COLS];
	double moments[COLS * COLS];
	struct method_matrix matrix;
	struct method_figure figures[METHOD_MAX_FIGURES];
	size_t n_figures;
};

static struct example *example_new(const struct method_options *options)
{
	struct example *e = calloc(1, sizeof(*e));
	uint32_t state = 1;

	e->options = *options;
	for (size_t i = 0; i < ROWS * COLS; i++) {
		state = state * 1664525 + 1013904223;
		e->delta[i] = (float)((int32_t)state >> 8) * 0x1p-30f;
	}
	for (size_t i = 0; i < COLS; i++)
		for (size_t j = 0; j < COLS; j++)
			e->moments[i * COLS + j] = exp(-fabs((double)i - (double)j));
	e->matrix = (struct method_matrix){
		.role = ROLE_UP,
		.layer = 3,
		.rows = ROWS,
		.cols = COLS,
		.base = e->base,
		.delta = e->delta,
		.budget = (uint64_t)(options->ratio > 0 ? 2 * ROWS * COLS / options->ratio
							: 2 * ROWS * COLS / 16),
	};
	return e;
}

static void example_done(struct example **e)
{
	method_matrix_done(&(*e)->matrix);
	free(*e);
}

/* By the method's own way, without a model: state of the options alone. */
static int example_run(struct example *e, struct reason *reason)
{
	struct method_model model = {.options = &e->options, .pool = compute_pool};
	struct pair pair = {.base_config = {.hidden = COLS,
				    .ffn = COLS,
				    .n_heads = 1,
				    .head_dim = COLS,
				    .n_kv_heads = 1,
				    .n_layers = 4,
				    .vocab = 8}};
	struct method_group group = {
		.options = &e->options,
		.pool = compute_pool,
		.layer = 3,
		.cols = COLS,
		.moments = e->moments,
		.matrices = &e->matrix,
		.n_matrices = 1,
	};
	void *state;
	int r;

	model.pair = &pair;
	r = method_deltadq.prepare(&model, &state, reason);
	if (r < 0)
		return r;
	r = method_deltadq.quantise(state, &group, reason);
	e->n_figures = method_deltadq.report(state, e->figures);
	method_deltadq.done(state);
	return r;
}

static double figure(const struct example *e, const char *name)
{
	for (size_t i = 0; i < e->n_figures; i++)
		if (strcmp(e->figures[i].name, name) == 0)
			return e->figures[i].value;
	fail_msg("no figure %s", name);
	return 0;
}

static void test_ratio_is_kept(void **state)
{
	(void)state;
	for (double ratio = 8; ratio <= 64; ratio *= 2) {
		const struct method_options options = {.ratio = ratio};
		_cleanup_(example_done) struct example *e = example_new(&options);
		const struct part *part = &e->matrix.parts[0];
		struct reason reason = {0};

		assert_int_equal(example_run(e, &reason), 0);
		assert_int_equal(e->matrix.n_parts, 1);
		assert_int_equal(part->record.codec, CODEC_DROPOUT);
		assert_true(part_file_bytes(part) <= e->matrix.budget);
		assert_true(figure(e, "file_bytes") == (double)part_file_bytes(part));
		/* Half the room is not left empty. */
		assert_true(2 * figure(e, "file_bytes") > (double)e->matrix.budget);
	}
}

/* Least and greatest of what stays, 0 among them: the paper's grid. */
static void range_of_survivors(
	const struct example *e, const bool *stays, double *low, double *high)
{
	*low = *high = 0;
	for (size_t i = 0; i < ROWS * COLS; i++)
		if (stays[i]) {
			*low = fmin(*low, (double)e->delta[i]);
			*high = fmax(*high, (double)e->delta[i]);
		}
}

/* Through record and payload, checked and expanded as a reader does, the numbers are bit for bit
 * those of quantising and dropping where they stand, by the paper's formulas. */
static void test_paper(void **state)
{
	const struct method_options options = {.deltadq = {.claimed_ratio = 128,
						       .group = 24,
						       .min_max = true,
						       .rescale = DELTADQ_RESCALE_ALPHA}};
	_cleanup_(example_done) struct example *e = example_new(&options);
	float values[ROWS * COLS] = {0};
	static bool stays[ROWS * COLS];
	double low, high, step, zero;
	struct reason reason = {0};
	size_t n = 0;

	(void)state;
	assert_int_equal(example_run(e, &reason), 0);
	assert_int_equal(e->matrix.n_parts, 1);
	assert_int_equal(e->matrix.parts[0].record.group, 24);
	assert_int_equal(e->matrix.parts[0].record.n, 3);
	assert_int_equal(e->matrix.parts[0].record.bits, 4);
	assert_int_equal(part_apply(compute_pool, &e->matrix.parts[0], values, &reason), 0);
	for (uint32_t at = 0; at < ROWS * COLS; at += 24) {
		uint16_t columns[3];

		dropout_draw(
			e->matrix.parts[0].record.seed, at / COLS, at % COLS / 24, 24, 3, columns);
		for (uint32_t k = 0; k < 3; k++)
			stays[at + columns[k]] = true;
	}
	range_of_survivors(e, stays, &low, &high);
	step = (high - low) / 15;
	zero = rint(-low / step);
	for (size_t i = 0; i < ROWS * COLS; i++) {
		double code = floor((double)e->delta[i] / step + zero + 0.5);
		/* alpha, 8, goes into the step. */
		float fake = (float)(8 * step) * (float)(fmax(0, fmin(15, code)) - zero);

		n += stays[i];
		assert_true(values[i] == (stays[i] ? fake : 0));
	}
	assert_int_equal(n, ROWS * COLS / 8);
	assert_true(figure(e, "claimed_ratio") == 128);
	assert_true(figure(e, "alpha") == 8);
	/* The payload stays; beside it, 2 bytes a survivor. */
	assert_true(figure(e, "memory_bytes") ==
		    (double)e->matrix.parts[0].record.bytes + 2.0 * ROWS * COLS / 8);
	/* 16-bit columns, 1-bit codes, 8 parts of row starts. */
	assert_true(
		figure(e, "sparse_row_bytes") == ROWS * COLS / 8 * 17.0 / 8 + 4 * 8 * (ROWS + 1));
	assert_true(figure(e, "entropy_bytes") < ROWS * COLS / 8 / 2);
	assert_true(figure(e, "entropy_stored_places") > figure(e, "entropy_bytes"));
}

struct refusal {
	struct method_options options;
	const char *says;
};

static void test_refusals(void **state)
{
	static const struct refusal refusals[] = {
		{{.ratio = 16, .deltadq = {.alpha = 8, .code_bits = 4}}, "alpha decides"},
		{{.ratio = 0.5}, "expected 1 to"},
		{{.deltadq = {.alpha = 8}}, "code bits are 0"},
		{{.deltadq = {.alpha = 1, .code_bits = 4}}, "alpha is 1"},
		{{.deltadq = {.alpha = 8, .code_bits = 9}}, "code bits are 9"},
		{{.deltadq = {.alpha = 8, .code_bits = 4, .parts = 3}}, "parts are 3"},
		{{.deltadq = {.alpha = 8, .code_bits = 4, .parts = 16}}, "parts are 16"},
		{{.deltadq = {.alpha = 8, .code_bits = 4, .group = 12}}, "does not divide"},
		{{.deltadq = {.claimed_ratio = 100}}, "alpha would be"},
		{{.deltadq = {.claimed_ratio = 4}}, "alpha would be"},
		{{.deltadq = {.claimed_ratio = 128, .parts = 2}}, "both given"},
		{{.deltadq = {.group = 8}}, "needs alpha"},
		{{.deltadq = {.search = DELTADQ_SEARCH_FIRST_LAYER}}, "needs alpha"},
		{{.deltadq = {.claimed_ratio = 32,
			  .group = 8,
			  .search = DELTADQ_SEARCH_FIRST_LAYER}},
			"nothing to search"},
	};

	(void)state;
	for (size_t i = 0; i < array_len(refusals); i++) {
		struct reason reason = {0};

		assert_int_equal(method_deltadq.check(&refusals[i].options, &reason), -EINVAL);
		assert_non_null(strstr(reason.text, refusals[i].says));
	}
}

/* 7 divides no row of 96: told before work begins. */
static void test_alpha_must_divide(void **state)
{
	const struct method_options options = {.deltadq = {.alpha = 7, .code_bits = 4}};
	_cleanup_(example_done) struct example *e = example_new(&options);
	struct reason reason = {0};

	(void)state;
	assert_int_equal(example_run(e, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "alpha 7 does not divide rows of 96"));
}

static void test_claims(void **state)
{
	static const uint32_t claims[][3] = {
		{16, 4, 1}, {32, 8, 1}, {64, 8, 4}, {128, 8, 8}, {256, 16, 8}, {512, 32, 8}};

	(void)state;
	for (size_t i = 0; i < array_len(claims); i++) {
		struct deltadq_options o = {0};

		assert_int_equal(deltadq_claim(claims[i][0], &o, NULL), 0);
		assert_int_equal(o.alpha, claims[i][1]);
		assert_int_equal(o.code_bits, 4);
		assert_int_equal(o.parts, claims[i][2]);
		assert_true(o.alpha * 16 / (4 - log2(o.parts)) == claims[i][0]);
	}
}

static double output_of(const struct example *e, const float *a, const float *b)
{
	double sum = 0;

	for (size_t row = 0; row < ROWS; row++)
		for (size_t i = 0; i < COLS; i++)
			for (size_t j = 0; j < COLS; j++)
				sum += (double)a[row * COLS + i] * (double)b[row * COLS + j] *
				       e->moments[i * COLS + j];
	return sum;
}

/* The error, and for the other three layers what is missing. */
static double left_of(const struct example *e, const float *values)
{
	double full = output_of(e, e->delta, e->delta);
	double cross = output_of(e, values, e->delta);
	double missing = 1 - cross / full;

	return full - 2 * cross + output_of(e, values, values) + 3 * missing * missing * full;
}

/* More seeds never leave more; the factor is the one that leaves least. */
static void test_seeds(void **state)
{
	double last = INFINITY;

	(void)state;
	for (uint32_t seeds = 1; seeds <= 8; seeds *= 2) {
		const struct method_options options = {
			.deltadq = {.alpha = 8, .code_bits = 3, .seeds = seeds}};
		_cleanup_(example_done) struct example *e = example_new(&options);
		float values[ROWS * COLS] = {0};
		struct reason reason = {0};
		double left;

		assert_int_equal(example_run(e, &reason), 0);
		assert_int_equal(part_apply(compute_pool, &e->matrix.parts[0], values, &reason), 0);
		left = left_of(e, values);
		assert_true(left <= last * (1 + 1e-6));
		last = left;
		for (double factor = 0.95; factor < 1.1; factor += 0.1) {
			float other[ROWS * COLS];

			for (size_t i = 0; i < ROWS * COLS; i++)
				other[i] = (float)factor * values[i];
			assert_true(left_of(e, other) > left);
		}
	}
}

static void test_not_finite(void **state)
{
	const struct method_options options = {.ratio = 16};
	_cleanup_(example_done) struct example *e = example_new(&options);
	struct reason reason = {0};

	(void)state;
	e->delta[77] = NAN;
	assert_int_equal(example_run(e, &reason), -EDOM);
	assert_non_null(strstr(reason.text, "not finite"));
}

static int compress_tiny(const struct method_options *options, uint32_t n_threads,
	struct compress_report *ret, struct reason *reason)
{
	const struct compress_settings settings = {
		.method = "deltadq",
		.options = *options,
		.calibration_tokens = 1024,
		.window = 64,
		.n_threads = n_threads,
	};
	struct checkpoint *base, *tuned;
	char folder[128];
	int fd = memfd_create("made", MFD_CLOEXEC), r;

	assert_int_equal(checkpoint_open(tiny_folder("llama-gqa", folder), &base, reason), 0);
	assert_int_equal(checkpoint_open(tiny_folder("llama-gqa-ft", folder), &tuned, reason), 0);
	r = compress_delta(base, tuned, &settings, fd, NULL, ret, reason);
	checkpoint_free(base);
	checkpoint_free(tuned);
	close(fd);
	return r;
}

/* The whole way, once as the paper has it, with its search; threads change no byte. */
static void test_whole_way(void **state)
{
	static const struct method_options ways[] = {
		{.ratio = 8},
		{.deltadq = {.claimed_ratio = 32,
			 .search = DELTADQ_SEARCH_FIRST_LAYER,
			 .min_max = true,
			 .rescale = DELTADQ_RESCALE_ALPHA}},
		{.ratio = 8, .deltadq = {.rescale = DELTADQ_RESCALE_TENSOR}},
	};

	(void)state;
	for (size_t i = 0; i < array_len(ways); i++) {
		struct compress_report one, two;
		struct reason reason = {0};

		if (compress_tiny(&ways[i], 1, &one, &reason) < 0)
			fail_msg("%s", reason.text);
		assert_int_equal(compress_tiny(&ways[i], 2, &two, &reason), 0);
		assert_memory_equal(&one.root, &two.root, sizeof(one.root));
		assert_int_equal(one.n_left_out, 0);
		assert_true(isfinite(one.kl) && one.n_figures > 0);
		if (i == 0)
			assert_true(one.projection_bytes * 8 <= one.projection_original_bytes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ratio_is_kept),
		cmocka_unit_test(test_paper),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_alpha_must_divide),
		cmocka_unit_test(test_claims),
		cmocka_unit_test(test_seeds),
		cmocka_unit_test(test_not_finite),
		cmocka_unit_test(test_whole_way),
	};

	return cmocka_run_group_tests(tests, compute_start, compute_stop);
}
