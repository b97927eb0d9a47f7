/*
 * Model folders of every make: types of numbers, shards, fused tensors, and what is refused.
 */
#include "foreign/checkpoint.h"

#include "store/base.h"
#include "tests/model_folder.h"
#include "tests/scratch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define LLAMA "tests/golden/data/tiny/llama-gqa"
#define TIED "tests/golden/data/tiny/llama-mha-tied"

struct fixture {
	char *scratch;
	char *folder;
	struct model_folder model;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->scratch = scratch_folder();
	f->folder = scratch_path(f->scratch, "model");
	model_folder_read(&f->model, LLAMA);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	model_folder_done(&f->model);
	scratch_remove(f->scratch);
	free(f->scratch);
	free(f->folder);
	free(f);
	return 0;
}

static struct checkpoint *open_model(struct fixture *f, size_t n_shards)
{
	struct checkpoint *c = NULL;
	struct reason reason = {0};

	model_folder_write(&f->model, f->folder, n_shards);
	if (checkpoint_open(f->folder, &c, &reason) < 0)
		fail_msg("%s", reason.text);
	return c;
}

static void expect_refusal(struct fixture *f, int error, const char *words)
{
	struct checkpoint *c = NULL;
	struct reason reason = {0};
	int r;

	model_folder_write(&f->model, f->folder, 1);
	r = checkpoint_open(f->folder, &c, &reason);
	if (r != error || !strstr(reason.text, words))
		fail_msg("got %d '%s', expected %d '%s'", r, reason.text, error, words);
	assert_non_null(strstr(reason.text, f->folder));
}

/* The nearest bf16 (8 significant bits, ties to even) by arithmetic, as its value. */
static double nearest_bf16(double value)
{
	int exponent;
	double fraction = frexp(value, &exponent);

	return ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
}

static double value_of_bf16(uint16_t bits)
{
	double fraction = 128 + (bits & 0x7f);
	int exponent = (bits >> 7) & 0xff;

	if (exponent == 0)
		return 0;
	return (bits & 0x8000 ? -1 : 1) * ldexp(fraction, exponent - 127 - 7);
}

static void expect_rounded(struct checkpoint *c, enum tensor_role role, uint32_t layer,
	const struct folder_tensor *t, uint64_t n_inexact_expected)
{
	uint64_t n = folder_tensor_count(t), n_inexact = 0, n_differ = 0;
	uint16_t *halves = calloc(n, sizeof(*halves));
	float *floats = calloc(n, sizeof(*floats));
	struct reason reason = {0};

	assert_int_equal(checkpoint_read_bf16(c, role, layer, halves, &n_inexact, &reason), 0);
	assert_int_equal(checkpoint_read_f32(c, role, layer, floats, &reason), 0);
	for (uint64_t i = 0; i < n; i++) {
		assert_true(floats[i] == t->values[i]);
		assert_true(value_of_bf16(halves[i]) == nearest_bf16((double)t->values[i]));
		n_differ += value_of_bf16(halves[i]) != (double)t->values[i];
	}
	assert_int_equal(n_inexact, n_differ);
	assert_true(n_inexact >= n_inexact_expected);
	free(floats);
	free(halves);
}

/* Scales numbers so that they need more bits than bf16 has, and makes them `dtype` numbers. */
static void scale_model(struct model_folder *f, enum safetensors_dtype dtype)
{
	for (size_t i = 0; i < f->n_tensors; i++)
		for (uint64_t k = 0; k < folder_tensor_count(&f->tensors[i]); k++) {
			float *value = &f->tensors[i].values[k];
			int exponent;
			float fraction = frexpf(*value * 1.001f, &exponent);

			if (dtype == SAFETENSORS_F16)
				*value = exponent < -13 ? 0
							: ldexpf(nearbyintf(ldexpf(fraction, 11)),
								  exponent - 11);
			else
				*value *= 1.001f;
		}
	model_folder_set_dtype(f, dtype);
}

static void rounds_wider_types(void **state)
{
	static const enum safetensors_dtype dtypes[] = {SAFETENSORS_F32, SAFETENSORS_F16};
	struct fixture *f = *state;

	for (size_t i = 0; i < array_len(dtypes); i++) {
		struct checkpoint *c;
		char name[16];

		snprintf(name, sizeof(name), "wide-%zu", i);
		free(f->folder);
		f->folder = scratch_path(f->scratch, name);
		scale_model(&f->model, dtypes[i]);
		c = open_model(f, 1);
		expect_rounded(c, ROLE_DOWN, 1,
			model_folder_find(&f->model, "model.layers.1.mlp.down_proj.weight"), 1000);
		expect_rounded(c, ROLE_EMBED, 0,
			model_folder_find(&f->model, "model.embed_tokens.weight"), 1000);
		checkpoint_free(c);
	}
}

static struct digest digest_of_folder(const char *folder)
{
	struct checkpoint *c = NULL;
	struct reason reason = {0};
	struct digest digest = {0};

	if (checkpoint_open(folder, &c, &reason) < 0 ||
		checkpoint_digest(c, NULL, &digest, &reason) < 0)
		fail_msg("%s", reason.text);
	checkpoint_free(c);
	return digest;
}

static void shards_are_the_same_model(void **state)
{
	struct fixture *f = *state;
	struct digest whole = digest_of_folder(LLAMA), sharded;

	model_folder_write(&f->model, f->folder, 3);
	sharded = digest_of_folder(f->folder);
	assert_true(digest_equal(&whole, &sharded));

	model_folder_find(&f->model, "model.norm.weight")->values[0] += 1;
	free(f->folder);
	f->folder = scratch_path(f->scratch, "other");
	model_folder_write(&f->model, f->folder, 3);
	sharded = digest_of_folder(f->folder);
	assert_false(digest_equal(&whole, &sharded));
}

static void parts_of_fused_tensors(void **state)
{
	static const enum tensor_role roles[] = {
		ROLE_Q, ROLE_K, ROLE_V, ROLE_GATE, ROLE_UP, ROLE_O, ROLE_DOWN};
	struct fixture *f = *state;
	struct checkpoint *llama = NULL, *phi;
	struct reason reason = {0};

	model_folder_fuse(&f->model);
	phi = open_model(f, 2);
	assert_int_equal(checkpoint_config(phi)->family, MODEL_FAMILY_PHI3);
	assert_int_equal(checkpoint_open(LLAMA, &llama, &reason), 0);
	for (size_t i = 0; i < array_len(roles); i++) {
		uint32_t rows, cols;
		uint16_t *a, *b;

		assert_true(
			model_config_shape(checkpoint_config(llama), roles[i], 2, &rows, &cols));
		a = calloc((size_t)rows * cols, 2);
		b = calloc((size_t)rows * cols, 2);
		assert_int_equal(checkpoint_read_bf16(llama, roles[i], 2, a, NULL, &reason), 0);
		assert_int_equal(checkpoint_read_bf16(phi, roles[i], 2, b, NULL, &reason), 0);
		assert_memory_equal(a, b, (size_t)rows * cols * 2);
		free(a);
		free(b);
	}
	checkpoint_free(llama);
	checkpoint_free(phi);
}

static void refuses_missing_tensor(void **state)
{
	struct fixture *f = *state;

	model_folder_remove(&f->model, "model.layers.1.self_attn.k_proj.weight");
	expect_refusal(f, -EBADMSG, "tensor 'model.layers.1.self_attn.k_proj.weight' is missing");
}

static void refuses_unknown_tensor(void **state)
{
	struct fixture *f = *state;

	model_folder_add(&f->model, "model.layers.1.self_attn.k_proj.lora_A",
		model_folder_find(&f->model, "model.norm.weight"));
	expect_refusal(f, -EOPNOTSUPP, "'model.layers.1.self_attn.k_proj.lora_A' is not part of");
}

static void ignores_stored_frequencies(void **state)
{
	struct fixture *f = *state;

	model_folder_add(&f->model, "model.layers.0.self_attn.rotary_emb.inv_freq",
		model_folder_find(&f->model, "model.norm.weight"));
	checkpoint_free(open_model(f, 1));
}

static void refuses_wrong_shape(void **state)
{
	struct fixture *f = *state;
	struct folder_tensor *t = model_folder_find(&f->model, "model.layers.0.mlp.up_proj.weight");

	t->shape[0] = 64;
	t->shape[1] = 160;
	expect_refusal(f, -EBADMSG,
		"'model.layers.0.mlp.up_proj.weight': shape [64, 160], expected [160, 64]");
}

static void refuses_wrong_rank(void **state)
{
	struct fixture *f = *state;
	struct folder_tensor *t = model_folder_find(&f->model, "model.norm.weight");

	t->n_dims = 2;
	t->shape[1] = 1;
	expect_refusal(f, -EBADMSG, "'model.norm.weight': shape [64, 1], expected [64]");
}

static void refuses_other_dtypes(void **state)
{
	struct fixture *f = *state;

	model_folder_find(&f->model, "model.norm.weight")->dtype = SAFETENSORS_I16;
	expect_refusal(f, -EOPNOTSUPP, "'model.norm.weight': dtype I16 is not implemented");
}

static void refuses_numbers_that_are_none(void **state)
{
	static const float numbers[] = {NAN, INFINITY, -INFINITY, 3.4e38f};
	struct fixture *f = *state;

	model_folder_set_dtype(&f->model, SAFETENSORS_F32);
	for (size_t i = 0; i < array_len(numbers); i++) {
		struct reason reason = {0};
		struct checkpoint *c;
		char name[16];
		uint16_t *values = calloc(64 * 160, 2);

		snprintf(name, sizeof(name), "broken-%zu", i);
		free(f->folder);
		f->folder = scratch_path(f->scratch, name);
		model_folder_find(&f->model, "model.layers.0.mlp.up_proj.weight")->values[77] =
			numbers[i];
		c = open_model(f, 1);
		assert_int_equal(
			checkpoint_read_bf16(c, ROLE_UP, 0, values, NULL, &reason), -EBADMSG);
		assert_non_null(strstr(reason.text, "up_proj.weight': number 77 is"));
		checkpoint_free(c);
		free(values);
	}
}

static void use_tied_model(struct fixture *f)
{
	model_folder_done(&f->model);
	model_folder_read(&f->model, TIED);
	model_folder_add(&f->model, "lm_head.weight",
		model_folder_find(&f->model, "model.embed_tokens.weight"));
}

static void accepts_equal_tied_head(void **state)
{
	struct fixture *f = *state;
	struct digest with, without = digest_of_folder(TIED);

	use_tied_model(f);
	model_folder_write(&f->model, f->folder, 1);
	with = digest_of_folder(f->folder);
	assert_true(digest_equal(&with, &without));
}

static void refuses_other_tied_head(void **state)
{
	struct fixture *f = *state;

	use_tied_model(f);
	model_folder_find(&f->model, "lm_head.weight")->values[320 * 64 - 1] += 1;
	expect_refusal(f, -EBADMSG, "lm_head.weight differs from the embedding");
}

int main(void)
{
#define WITH_MODEL(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WITH_MODEL(rounds_wider_types),
		WITH_MODEL(shards_are_the_same_model),
		WITH_MODEL(parts_of_fused_tensors),
		WITH_MODEL(refuses_missing_tensor),
		WITH_MODEL(refuses_unknown_tensor),
		WITH_MODEL(ignores_stored_frequencies),
		WITH_MODEL(refuses_wrong_shape),
		WITH_MODEL(refuses_wrong_rank),
		WITH_MODEL(refuses_other_dtypes),
		WITH_MODEL(refuses_numbers_that_are_none),
		WITH_MODEL(accepts_equal_tied_head),
		WITH_MODEL(refuses_other_tied_head),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
