/*
 * LoRA adapters as they lie in folders: scales as PEFT makes them, factors bit for bit, and by name
 * what is refused.
 */
#include "foreign/adapter.h"
#include "foreign/checkpoint.h"
#include "kernels/convert.h"
#include "tests/adapter_folder.h"
#include "tests/scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define BASE "tests/golden/data/tiny/llama-gqa" /* hidden 64, ffn 160, k and v of 32 */
#define RANK 4u
#define ALPHA 8.0
#define Q "model.layers.0.self_attn.q_proj"
#define K "model.layers.1.self_attn.k_proj"
#define DOWN "model.layers.2.mlp.down_proj"

static const struct adapter_module q = {Q, RANK, 64, 64};
static const struct adapter_module k = {K, RANK, 32, 64};
static const struct adapter_module down = {DOWN, RANK, 64, 160};

static struct model_config base_config(void)
{
	struct checkpoint *checkpoint;
	struct model_config config;
	struct reason reason = {0};

	assert_int_equal(checkpoint_open(BASE, &checkpoint, &reason), 0);
	config = *checkpoint_config(checkpoint);
	checkpoint_free(checkpoint);
	return config;
}

/* Writes the folder, opens it, removes it. What is open stays readable. */
static int open_written(struct model_folder *f, struct adapter **ret, struct reason *reason)
{
	const struct model_config config = base_config();
	char *scratch = scratch_folder();
	char *folder = scratch_path(scratch, "adapter");
	int r;

	adapter_folder_write(f, folder);
	r = adapter_open(folder, &config, ret, reason);
	scratch_remove(scratch);
	free(folder);
	free(scratch);
	return r;
}

static struct adapter *open_good(struct model_folder *f)
{
	struct adapter *adapter = NULL;
	struct reason reason = {0};

	if (open_written(f, &adapter, &reason) < 0)
		fail_msg("%s", reason.text);
	return adapter;
}

static void begin(struct model_folder *f)
{
	adapter_folder_begin(f, RANK, ALPHA);
	adapter_folder_adapt(f, &q, SAFETENSORS_F32);
	adapter_folder_adapt(f, &k, SAFETENSORS_F16);
	adapter_folder_adapt(f, &down, SAFETENSORS_BF16);
}

static struct adapter_factors read_factors(
	const struct adapter *a, enum tensor_role role, uint32_t layer)
{
	struct adapter_factors factors;
	struct reason reason = {0};

	if (adapter_read_factors(a, role, layer, &factors, &reason) < 0)
		fail_msg("%s", reason.text);
	return factors;
}

static void check_factors(struct model_folder *f, const struct adapter *adapter,
	const struct adapter_module *m, enum tensor_role role, uint32_t layer)
{
	struct adapter_factors factors = read_factors(adapter, role, layer);
	char name[192];
	const float *b;

	assert_int_equal(factors.n, m->rank);
	assert_int_equal(factors.rows, m->outputs);
	assert_int_equal(factors.cols, m->inputs);
	snprintf(name, sizeof(name), ADAPTER_PREFIX "%s.lora_A.weight", m->name);
	assert_memory_equal(factors.a, model_folder_find(f, name)->values,
		(size_t)m->rank * m->inputs * sizeof(float));
	snprintf(name, sizeof(name), ADAPTER_PREFIX "%s.lora_B.weight", m->name);
	b = model_folder_find(f, name)->values;
	for (size_t row = 0; row < m->outputs; row++)
		for (size_t i = 0; i < m->rank; i++)
			assert_int_equal(f32_to_bits(factors.b[i * m->outputs + row]),
				f32_to_bits(b[row * m->rank + i]));
	adapter_factors_done(&factors);
}

static void test_factors_are_the_file_s(void **state)
{
	struct model_folder f;
	struct adapter *adapter;
	struct adapter_factors none;

	(void)state;
	begin(&f);
	adapter = open_good(&f);
	check_factors(&f, adapter, &q, ROLE_Q, 0);
	check_factors(&f, adapter, &k, ROLE_K, 1);
	check_factors(&f, adapter, &down, ROLE_DOWN, 2);
	none = read_factors(adapter, ROLE_Q, 1);
	assert_int_equal(none.n, 0);
	adapter_free(adapter);
	model_folder_done(&f);
}

/* The scales of q of layer 0, k of layer 1 and down of layer 2, as PEFT would have them. */
static void test_scales(void **state)
{
	static const struct {
		const char *changes; /* members of adapter_config.json */
		double q, k, down;
	} cases[] = {
		{"{}", 2, 2, 2},
		{"{\"lora_alpha\": 0.5}", 0.125, 0.125, 0.125},
		{"{\"use_rslora\": true}", 4, 4, 4},
		/* The end of a name, whole or from a dot on. */
		{"{\"alpha_pattern\": {\"q_proj\": 4}}", 1, 2, 2},
		{"{\"alpha_pattern\": {\"proj\": 4}}", 2, 2, 2},
		{"{\"alpha_pattern\": {\"self_attn.q_proj\": 4}}", 1, 2, 2},
		{"{\"alpha_pattern\": {\"q_proj.*\": 4}}", 1, 2, 2},
		{"{\"alpha_pattern\": {\"self_attn\": 4}}", 2, 2, 2},
		{"{\"alpha_pattern\": {\"^" DOWN "\": 12}}", 2, 2, 3},
		{"{\"alpha_pattern\": {\"^layers.2.mlp.down_proj\": 12}}", 2, 2, 2},
		{"{\"alpha_pattern\": {\"layers\\\\.[12]\\\\..*\": 16}}", 2, 4, 4},
		{"{\"alpha_pattern\": {\"k_proj|q_proj\": 4}}", 1, 1, 2},
		/* The first that matches. */
		{"{\"alpha_pattern\": {\"[qk]_proj\": 4, \"q_proj\": 32}}", 1, 1, 2},
		{"{\"alpha_pattern\": {\"q_proj\": 32, \"[qk]_proj\": 4}}", 8, 1, 2},
		/* The ranks of the tensors stay those of r. */
		{"{\"r\": 2, \"rank_pattern\": {\".*_proj\": 4}}", 2, 2, 2},
		{"{\"r\": 2, \"rank_pattern\": {\".*_proj\": 4}, \"use_rslora\": true,"
		 " \"alpha_pattern\": {\"down_proj\": 2}}",
			4, 4, 1},
		{"{\"init_lora_weights\": \"gaussian\", \"rank_pattern\": null}", 2, 2, 2},
	};

	(void)state;
	for (size_t i = 0; i < array_len(cases); i++) {
		json_t *changes = json_loads(cases[i].changes, 0, NULL);
		struct adapter_factors of_q, of_k, of_down;
		struct model_folder f;
		struct adapter *adapter;

		begin(&f);
		assert_non_null(changes);
		assert_int_equal(json_object_update(f.config, changes), 0);
		adapter = open_good(&f);
		of_q = read_factors(adapter, ROLE_Q, 0);
		of_k = read_factors(adapter, ROLE_K, 1);
		of_down = read_factors(adapter, ROLE_DOWN, 2);
		if ((double)of_q.sigma != cases[i].q || (double)of_k.sigma != cases[i].k ||
			(double)of_down.sigma != cases[i].down)
			fail_msg("%s: scales %g, %g, %g", cases[i].changes, (double)of_q.sigma,
				(double)of_k.sigma, (double)of_down.sigma);
		adapter_factors_done(&of_q);
		adapter_factors_done(&of_k);
		adapter_factors_done(&of_down);
		adapter_free(adapter);
		model_folder_done(&f);
		json_decref(changes);
	}
}

struct refusal {
	const char *changes;                    /* of adapter_config.json; NULL: none */
	void (*change)(struct model_folder *f); /* of the tensors; NULL: none */
	int error;
	const char *what, *where; /* words of the reason */
};

static void drop_b(struct model_folder *f)
{
	model_folder_remove(f, ADAPTER_PREFIX Q ".lora_B.weight");
}

static void widen_a(struct model_folder *f)
{
	model_folder_remove(f, ADAPTER_PREFIX Q ".lora_A.weight");
	adapter_folder_add(f, Q ".lora_A.weight", SAFETENSORS_F32, RANK, 80);
}

static void shorten_b(struct model_folder *f)
{
	model_folder_remove(f, ADAPTER_PREFIX K ".lora_B.weight");
	adapter_folder_add(f, K ".lora_B.weight", SAFETENSORS_F32, 31, RANK);
}

static void add_magnitude(struct model_folder *f)
{
	adapter_folder_add(f, Q ".lora_magnitude_vector", SAFETENSORS_F32, 64, 0);
}

static void add_embedding(struct model_folder *f)
{
	adapter_folder_add(f, "model.embed_tokens.lora_embedding_A", SAFETENSORS_F32, RANK, 320);
}

static void add_router(struct model_folder *f)
{
	const struct adapter_module router = {"model.layers.0.mlp.router", RANK, 8, 64};

	adapter_folder_adapt(f, &router, SAFETENSORS_F32);
}

static void add_layer(struct model_folder *f)
{
	const struct adapter_module far = {"model.layers.9.self_attn.q_proj", RANK, 64, 64};

	adapter_folder_adapt(f, &far, SAFETENSORS_F32);
}

static void add_bias(struct model_folder *f)
{
	adapter_folder_add(f, Q ".base_layer.bias", SAFETENSORS_F32, 64, 0);
}

static void add_whole(struct model_folder *f)
{
	adapter_folder_add(f, Q ".weight", SAFETENSORS_F32, 64, 64);
}

static void add_small_embedding(struct model_folder *f)
{
	adapter_folder_add(f, "model.embed_tokens.weight", SAFETENSORS_F32, 319, 64);
}

static void grow_embedding_alone(struct model_folder *f)
{
	adapter_folder_add(f, "model.embed_tokens.weight", SAFETENSORS_F32, 322, 64);
}

static void add_wide_rank(struct model_folder *f)
{
	const struct adapter_module v = {"model.layers.0.self_attn.v_proj", 40, 32, 64};

	adapter_folder_adapt(f, &v, SAFETENSORS_F32);
}

static void add_norm(struct model_folder *f)
{
	adapter_folder_add(f, "model.norm.weight", SAFETENSORS_F32, 65, 0);
}

static const struct refusal refusals[] = {
	{"{\"peft_type\": \"IA3\"}", NULL, -EOPNOTSUPP, "IA3", "adapter_config.json"},
	{"{\"peft_type\": 1}", NULL, -EBADMSG, "peft_type", "adapter_config.json"},
	{"{\"use_dora\": true}", NULL, -EOPNOTSUPP, "DoRA", "adapter_config.json"},
	{NULL, add_magnitude, -EOPNOTSUPP, "DoRA", Q},
	{"{\"fan_in_fan_out\": true}", NULL, -EOPNOTSUPP, "fan_in_fan_out", "adapter_config.json"},
	{"{\"lora_bias\": true}", NULL, -EOPNOTSUPP, "lora_bias", "adapter_config.json"},
	{"{\"layer_replication\": [[0, 2]]}", NULL, -EOPNOTSUPP, "layer_replication",
		"adapter_config.json"},
	{"{\"init_lora_weights\": \"pissa_niter_4\"}", NULL, -EOPNOTSUPP, "pissa_niter_4",
		"adapter_config.json"},
	{"{\"init_lora_weights\": \"olora\"}", NULL, -EOPNOTSUPP, "olora", "adapter_config.json"},
	{"{\"r\": 0}", NULL, -EBADMSG, "r", "adapter_config.json"},
	{"{\"r\": \"4\"}", NULL, -EBADMSG, "r", "adapter_config.json"},
	{"{\"lora_alpha\": null}", NULL, -EBADMSG, "lora_alpha", "adapter_config.json"},
	{"{\"r\": 5}", NULL, -EMEDIUMTYPE, "expected [5, 64]", Q ".lora_A"},
	{"{\"rank_pattern\": {\"q_proj\": 5}}", NULL, -EMEDIUMTYPE, "expected [5, 64]",
		Q ".lora_A"},
	{"{\"rank_pattern\": {\"q_proj\": 3.5}}", NULL, -EBADMSG, "whole number", Q},
	{"{\"rank_pattern\": {\"(q_proj\": 4}}", NULL, -EBADMSG, "regular expression",
		"rank_pattern"},
	{"{\"rank_pattern\": {\"(\\\\w+\\\\.?)+[!?]\": 4}}", NULL, -EOPNOTSUPP, "too long", Q},
	{"{\"alpha_pattern\": [4]}", NULL, -EBADMSG, "alpha_pattern", "adapter_config.json"},
	{"{\"alpha_pattern\": {\"q_proj\": \"4\"}}", NULL, -EBADMSG, "q_proj",
		"adapter_config.json"},
	{NULL, drop_b, -EBADMSG, "no partner", Q ".lora_A.weight"},
	{NULL, widen_a, -EMEDIUMTYPE, "[4, 80]", Q ".lora_A.weight"},
	{NULL, shorten_b, -EMEDIUMTYPE, "[31, 4]", K ".lora_B.weight"},
	{NULL, add_embedding, -EOPNOTSUPP, "embedding", "embed_tokens"},
	{NULL, add_router, -EOPNOTSUPP, "no module", "layers.0.mlp.router"},
	{NULL, add_layer, -EOPNOTSUPP, "no module", "layers.9"},
	{NULL, add_bias, -EOPNOTSUPP, "no module", Q ".base_layer.bias"},
	{NULL, add_whole, -EOPNOTSUPP, "both replaced and adapted", Q},
	{NULL, add_small_embedding, -EMEDIUMTYPE, "319 rows", "embed_tokens"},
	{NULL, grow_embedding_alone, -EOPNOTSUPP, "322", "head"},
	{"{\"rank_pattern\": {\"v_proj\": 40}}", add_wide_rank, -EOPNOTSUPP, "rank 40",
		"layers.0.self_attn.v_proj"},
	{NULL, add_norm, -EMEDIUMTYPE, "[65]", "model.norm.weight"},
};

static void test_refusals(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(refusals); i++) {
		const struct refusal *c = &refusals[i];
		struct adapter *adapter = NULL;
		struct reason reason = {0};
		struct model_folder f;
		int r;

		begin(&f);
		if (c->changes) {
			json_t *changes = json_loads(c->changes, 0, NULL);

			assert_non_null(changes);
			assert_int_equal(json_object_update(f.config, changes), 0);
			json_decref(changes);
		}
		if (c->change)
			c->change(&f);
		r = open_written(&f, &adapter, &reason);
		if (r != c->error || !strstr(reason.text, c->what) ||
			!strstr(reason.text, c->where))
			fail_msg("case %zu (%s, %s): %d: %s", i, c->what, c->where, r, reason.text);
		assert_null(adapter);
		model_folder_done(&f);
	}
}

static void test_a_number_that_is_none(void **state)
{
	struct adapter_factors factors;
	struct reason reason = {0};
	struct model_folder f;
	struct adapter *adapter;

	(void)state;
	begin(&f);
	model_folder_find(&f, ADAPTER_PREFIX Q ".lora_B.weight")->values[7] = NAN;
	adapter = open_good(&f);
	assert_int_equal(adapter_read_factors(adapter, ROLE_Q, 0, &factors, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, Q ".lora_B.weight"));
	assert_non_null(strstr(reason.text, "number 7"));
	adapter_free(adapter);
	model_folder_done(&f);
}

static void test_files_that_are_not_there(void **state)
{
	static const char text[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8}";
	const struct model_config config = base_config();
	char *scratch = scratch_folder();
	struct adapter *adapter = NULL;
	struct reason reason = {0};

	(void)state;
	assert_true(adapter_open(scratch, &config, &adapter, &reason) < 0);
	assert_non_null(strstr(reason.text, "adapter_config.json"));
	free(scratch_write(scratch, "adapter_config.json", text, strlen(text)));
	assert_true(adapter_open(scratch, &config, &adapter, &reason) < 0);
	assert_non_null(strstr(reason.text, "adapter_model.safetensors"));
	scratch_remove(scratch);
	free(scratch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_factors_are_the_file_s),
		cmocka_unit_test(test_scales),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_a_number_that_is_none),
		cmocka_unit_test(test_files_that_are_not_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
