/* The dense blocks, one after the other, against the reference's last logits. */
#include "compress/block.h"

#include "foreign/checkpoint.h"
#include "kernels/blas.h"
#include "store/base.h"
#include "tests/golden_file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define TOLERANCE 1e-3

static float *tensor(struct checkpoint *c, enum tensor_role role, uint32_t layer)
{
	struct reason reason = {0};
	uint32_t rows, cols;
	float *values;

	if (!model_config_shape(checkpoint_config(c), role, layer, &rows, &cols))
		return NULL;
	values = malloc((size_t)rows * cols * sizeof(*values));
	assert_non_null(values);
	assert_int_equal(checkpoint_read_f32(c, role, layer, values, &reason), 0);
	return values;
}

static struct block_weights weights_of(struct checkpoint *c, uint32_t layer)
{
	return (struct block_weights){
		.q = tensor(c, ROLE_Q, layer),
		.k = tensor(c, ROLE_K, layer),
		.v = tensor(c, ROLE_V, layer),
		.o = tensor(c, ROLE_O, layer),
		.gate = tensor(c, ROLE_GATE, layer),
		.up = tensor(c, ROLE_UP, layer),
		.down = tensor(c, ROLE_DOWN, layer),
		.attn_norm = tensor(c, ROLE_ATTN_NORM, layer),
		.ffn_norm = tensor(c, ROLE_FFN_NORM, layer),
		.q_bias = tensor(c, ROLE_Q_BIAS, layer),
		.k_bias = tensor(c, ROLE_K_BIAS, layer),
		.v_bias = tensor(c, ROLE_V_BIAS, layer),
		.o_bias = tensor(c, ROLE_O_BIAS, layer),
		.gate_bias = tensor(c, ROLE_GATE_BIAS, layer),
		.up_bias = tensor(c, ROLE_UP_BIAS, layer),
		.down_bias = tensor(c, ROLE_DOWN_BIAS, layer),
		.q_norm = tensor(c, ROLE_Q_NORM, layer),
		.k_norm = tensor(c, ROLE_K_NORM, layer),
	};
}

static void weights_done(struct block_weights *w)
{
	const float *const *const members = (const void *)w;

	for (size_t i = 0; i < sizeof(*w) / sizeof(*members); i++)
		free((void *)(uintptr_t)members[i]);
}

static void run_blocks(struct checkpoint *c, const struct block_rows *all)
{
	struct block_rows rows = *all;
	struct block_shape *shape;
	struct block_scratch *scratch;
	struct reason reason = {0};

	assert_int_equal(block_shape_new(checkpoint_config(c), rows.n, &shape, &reason), 0);
	assert_int_equal(block_scratch_new(shape, &scratch), 0);
	for (rows.layer = 0; rows.layer < checkpoint_config(c)->n_layers; rows.layer++) {
		struct block_weights w = weights_of(c, rows.layer);

		block_attention_input(shape, &w, &rows);
		block_attention(shape, &w, scratch, &rows);
		block_attention_output(shape, &w, &rows);
		block_ffn_input(shape, &w, &rows);
		block_ffn(shape, &w, scratch, &rows);
		block_ffn_output(shape, &w, &rows);
		weights_done(&w);
	}
	block_scratch_free(scratch);
	block_shape_free(shape);
}

/* Final norm and head of one row, in double. */
static void project(struct checkpoint *c, const float *x, float *ret)
{
	const struct model_config *config = checkpoint_config(c);
	uint32_t last = config->n_layers - 1;
	_cleanup_(freep) float *norm = tensor(c, ROLE_FINAL_NORM, last);
	_cleanup_(freep) float *head = config->flags & MODEL_TIED_HEAD ? tensor(c, ROLE_EMBED, 0)
								       : tensor(c, ROLE_HEAD, last);
	double squares = 0, scale;

	for (uint32_t i = 0; i < config->hidden; i++)
		squares += (double)x[i] * (double)x[i];
	scale = 1 / sqrt(squares / config->hidden + (double)config->norm_eps);
	for (uint32_t o = 0; o < config->vocab; o++) {
		double sum = 0;

		for (uint32_t i = 0; i < config->hidden; i++)
			sum += (double)x[i] * scale * (double)norm[i] *
			       (double)head[(size_t)o * config->hidden + i];
		ret[o] = (float)sum;
	}
}

static void check_case(struct checkpoint *c, const char *name, size_t i)
{
	const struct model_config *config = checkpoint_config(c);
	struct golden_values golden;
	_cleanup_(freep) float *embedding = tensor(c, ROLE_EMBED, 0);
	_cleanup_(freep) float *x = NULL;
	_cleanup_(freep) float *tap = NULL;
	_cleanup_(freep) float *logits = malloc(config->vocab * sizeof(*logits));
	struct block_rows rows = {.x_stride = config->hidden + 3};
	double difference;

	golden_values_read(name, i, &golden);
	rows.n = (uint32_t)golden.n_ids;
	rows.tap_stride = block_tap_width(config);
	x = calloc(rows.n * rows.x_stride, sizeof(*x));
	tap = calloc(rows.n * rows.tap_stride, sizeof(*tap));
	assert_true(logits && x && tap);
	rows.x = x;
	rows.tap = tap;
	for (uint32_t t = 0; t < rows.n; t++)
		memcpy(x + t * rows.x_stride, embedding + (size_t)golden.ids[t] * config->hidden,
			config->hidden * sizeof(*x));
	run_blocks(c, &rows);
	project(c, x + (rows.n - 1) * rows.x_stride, logits);
	assert_int_equal(golden.n_logits, config->vocab);
	difference = largest_difference(logits, golden.last_logits, golden.n_logits);
	if (!(difference <= TOLERANCE))
		fail_msg("%s case %zu: logits differ by %g of the largest", name, i, difference);
	golden_values_done(&golden);
}

static void test_blocks_agree_with_the_reference(void **state)
{
	struct reason reason = {0};

	(void)state;
	assert_int_equal(blas_load(1, &reason), 0);
	for (size_t i = 0; tiny_name(i); i++) {
		struct checkpoint *c;
		char folder[128];

		if (checkpoint_open(tiny_folder(tiny_name(i), folder), &c, &reason) < 0)
			fail_msg("%s: %s", folder, reason.text);
		for (size_t k = 0; k < 4; k++)
			check_case(c, tiny_name(i), k);
		checkpoint_free(c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blocks_agree_with_the_reference),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
