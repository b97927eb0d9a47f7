/*
 * Configs of each family, with one thing changed at a time.
 */
#include "foreign/config_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define SIZES                                                                                      \
	"\"hidden_size\":64,\"intermediate_size\":160,\"num_hidden_layers\":4,"                    \
	"\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":320,"                  \
	"\"max_position_embeddings\":512,\"rms_norm_eps\":1e-6"

/* A config of the family with the keys of `changes` put in; a key whose value is "ABSENT" goes. */
static json_t *make_config(const char *model_type, const char *changes)
{
	json_t *config = json_loads("{" SIZES "}", 0, NULL);
	json_t *change = json_loads(changes, 0, NULL);
	const char *key;
	json_t *value;

	assert_non_null(config);
	if (!change)
		fail_msg("the test's own JSON is wrong: %s", changes);
	json_object_set_new(config, "model_type", json_string(model_type));
	json_object_foreach(change, key, value) json_object_set(config, key, value);
	json_object_foreach(change, key, value)
	{
		if (json_is_string(value) && strcmp(json_string_value(value), "ABSENT") == 0)
			json_object_del(config, key);
	}
	json_decref(change);
	return config;
}

static struct model_config expect_config(const char *model_type, const char *changes)
{
	json_t *json = make_config(model_type, changes);
	struct model_config config = {0};
	struct reason reason = {0};

	if (config_json_parse(json, NULL, &config, &reason) < 0)
		fail_msg("%s %s: %s", model_type, changes, reason.text);
	json_decref(json);
	return config;
}

static void expect_refusal(
	const char *model_type, const char *changes, int error, const char *words)
{
	json_t *json = make_config(model_type, changes);
	struct model_config config;
	struct reason reason = {0};
	int r = config_json_parse(json, NULL, &config, &reason);

	if (r != error || !strstr(reason.text, words))
		fail_msg("%s %s: got %d '%s', expected %d '%s'", model_type, changes, r,
			reason.text, error, words);
	json_decref(json);
}

static void reads_llama(void **state)
{
	struct model_config c = expect_config("llama", "{}");

	(void)state;
	assert_int_equal(c.family, MODEL_FAMILY_LLAMA);
	assert_int_equal(c.n_layers, 4);
	assert_int_equal(c.hidden, 64);
	assert_int_equal(c.ffn, 160);
	assert_int_equal(c.n_heads, 4);
	assert_int_equal(c.n_kv_heads, 2);
	assert_int_equal(c.head_dim, 16);
	assert_int_equal(c.vocab, 320);
	assert_int_equal(c.max_positions, 512);
	assert_int_equal(c.flags, 0);
	assert_int_equal(c.sliding_window, 0);
	assert_int_equal(c.rope_kind, ROPE_KIND_DEFAULT);
	assert_true(c.rope_theta == 10000.0 && c.norm_eps == 1e-6f);
	assert_true(c.rope_attention_factor == 1);
	assert_int_equal(c.bos, -1);
	assert_int_equal(c.pad, -1);
	assert_int_equal(c.n_eos, 0);

	c = expect_config("llama", "{\"num_key_value_heads\":\"ABSENT\"}");
	assert_int_equal(c.n_kv_heads, 4);
	c = expect_config("llama", "{\"num_key_value_heads\":1,\"head_dim\":24}");
	assert_int_equal(c.n_kv_heads, 1);
	assert_int_equal(c.head_dim, 24);
	c = expect_config("llama", "{\"attention_bias\":true,\"tie_word_embeddings\":true}");
	assert_int_equal(c.flags, MODEL_QKV_BIAS | MODEL_O_BIAS | MODEL_TIED_HEAD);
	c = expect_config("llama", "{\"mlp_bias\":true,\"sliding_window\":16,\"head_dim\":null}");
	assert_int_equal(c.flags, MODEL_MLP_BIAS);
	assert_int_equal(c.sliding_window, 0);
}

static void reads_windows(void **state)
{
	struct model_config c = expect_config("mistral", "{}");

	(void)state;
	assert_int_equal(c.family, MODEL_FAMILY_MISTRAL);
	assert_int_equal(c.sliding_window, 4096);
	assert_int_equal(c.first_window_layer, 0);
	assert_int_equal(expect_config("mistral", "{\"sliding_window\":null}").sliding_window, 0);
	assert_int_equal(expect_config("mistral", "{\"sliding_window\":24}").sliding_window, 24);
	assert_int_equal(expect_config("phi3", "{}").sliding_window, 0);
	assert_int_equal(expect_config("phi3", "{\"sliding_window\":24}").sliding_window, 24);

	c = expect_config("qwen2", "{\"sliding_window\":24,\"max_window_layers\":2}");
	assert_int_equal(c.sliding_window, 0);
	assert_int_equal(c.first_window_layer, 0);
	c = expect_config("qwen2",
		"{\"sliding_window\":24,\"max_window_layers\":2,\"use_sliding_window\":true}");
	assert_int_equal(c.sliding_window, 24);
	assert_int_equal(c.first_window_layer, 2);
	/* The class's default of 28 full layers leaves none of 4 for the window. */
	c = expect_config("qwen3", "{\"sliding_window\":24,\"use_sliding_window\":true}");
	assert_int_equal(c.sliding_window, 0);
	assert_int_equal(c.first_window_layer, 0);
	c = expect_config("qwen2",
		"{\"sliding_window\":24,\"use_sliding_window\":true,\"layer_types\":["
		"\"full_attention\",\"sliding_attention\",\"sliding_attention\","
		"\"sliding_attention\"]}");
	assert_int_equal(c.sliding_window, 24);
	assert_int_equal(c.first_window_layer, 1);
}

static void reads_qwen(void **state)
{
	struct model_config c = expect_config("qwen2", "{}");

	(void)state;
	assert_int_equal(c.family, MODEL_FAMILY_QWEN2);
	assert_int_equal(c.flags, MODEL_QKV_BIAS);
	assert_int_equal(c.head_dim, 16);
	c = expect_config("qwen3", "{}");
	assert_int_equal(c.family, MODEL_FAMILY_QWEN3);
	assert_int_equal(c.flags, MODEL_QK_NORM);
	assert_int_equal(c.head_dim, 128);
	c = expect_config("qwen3", "{\"attention_bias\":true,\"head_dim\":24}");
	assert_int_equal(c.flags, MODEL_QK_NORM | MODEL_QKV_BIAS | MODEL_O_BIAS);
	assert_int_equal(c.head_dim, 24);
}

static void reads_rope(void **state)
{
	static const char *const spellings[] = {
		"{\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}",
		("{\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"linear\","
		 "\"factor\":2.0}}"),
		("{\"rope_parameters\":{\"rope_theta\":5e5,"
		 "\"rope_type\":\"linear\",\"factor\":2}}"),
		"{\"rope_scaling\":{\"rope_theta\":5e5,\"rope_type\":\"linear\",\"factor\":2}}",
	};
	struct model_config c;

	(void)state;
	for (size_t i = 0; i < sizeof(spellings) / sizeof(spellings[0]); i++) {
		c = expect_config("llama", spellings[i]);
		assert_int_equal(c.rope_kind, ROPE_KIND_LINEAR);
		assert_true(c.rope_theta == 500000.0 && c.rope_factor == 2);
	}
	c = expect_config("llama",
		"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
		"\"high_freq_factor\":4,\"original_max_position_embeddings\":64}}");
	assert_int_equal(c.rope_kind, ROPE_KIND_LLAMA3);
	assert_true(c.rope_factor == 8 && c.rope_low_freq_factor == 1 &&
		    c.rope_high_freq_factor == 4 && c.rope_original_positions == 64);
}

static void expect_yarn(const char *rope, double factor, double attention_factor)
{
	char changes[512];
	struct model_config c;

	snprintf(changes, sizeof(changes), "{\"rope_scaling\":{\"rope_type\":\"yarn\",%s}}", rope);
	c = expect_config("qwen2", changes);
	assert_int_equal(c.rope_kind, ROPE_KIND_YARN);
	assert_true(fabs(c.rope_factor - factor) < 1e-6);
	assert_true(fabs(c.rope_attention_factor - attention_factor) < 1e-6);
	assert_true(c.rope_beta_fast == 32 && c.rope_beta_slow == 1);
}

static void reads_yarn(void **state)
{
	struct model_config c;

	(void)state;
	expect_yarn("\"factor\":4,\"original_max_position_embeddings\":128", 4,
		0.1 * 1.3862943611198906 + 1);
	expect_yarn("\"factor\":4,\"attention_factor\":1.25", 4, 1.25);
	expect_yarn("\"factor\":4,\"mscale\":1,\"mscale_all_dim\":1", 4, 1);
	expect_yarn("\"factor\":4,\"mscale\":2,\"mscale_all_dim\":1", 4,
		(0.2 * 1.3862943611198906 + 1) / (0.1 * 1.3862943611198906 + 1));
	/* mscale alone has no effect; without a factor, the ratio of the lengths is taken. */
	expect_yarn("\"factor\":4,\"mscale\":2", 4, 0.1 * 1.3862943611198906 + 1);
	expect_yarn("\"original_max_position_embeddings\":128", 4, 0.1 * 1.3862943611198906 + 1);
	expect_yarn("\"factor\":1", 1, 1);
	c = expect_config("llama", "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,"
				   "\"beta_fast\":16,\"beta_slow\":2}}");
	assert_int_equal(c.rope_original_positions, 512);
	assert_true(c.rope_beta_fast == 16 && c.rope_beta_slow == 2);
}

static void reads_tokens(void **state)
{
	struct model_config c = expect_config(
		"llama", "{\"eos_token_id\":[2,7],\"bos_token_id\":1,\"pad_token_id\":-1}");
	json_t *json = make_config("llama", "{\"eos_token_id\":2,\"bos_token_id\":1}");
	json_t *generation = json_loads("{\"eos_token_id\":[5,6,7],\"pad_token_id\":3}", 0, NULL);
	struct reason reason = {0};

	(void)state;
	assert_int_equal(c.n_eos, 2);
	assert_int_equal(c.eos[1], 7);
	assert_int_equal(c.bos, 1);
	assert_int_equal(c.pad, -1);
	c = expect_config("llama", "{\"eos_token_id\":null}");
	assert_int_equal(c.n_eos, 0);

	assert_int_equal(config_json_parse(json, generation, &c, &reason), 0);
	assert_int_equal(c.n_eos, 3);
	assert_int_equal(c.eos[0], 5);
	assert_int_equal(c.bos, 1);
	assert_int_equal(c.pad, 3);
	json_object_set_new(generation, "eos_token_id", json_integer(320));
	assert_int_equal(config_json_parse(json, generation, &c, &reason), -EBADMSG);
	assert_string_equal(
		reason.text, "generation_config.json: eos_token_id: found 320, expected -1 to 319");
	json_decref(generation);
	json_decref(json);
}

static const struct {
	const char *model_type, *changes;
	int error;
	const char *words;
} refusals[] = {
	{"gemma2", "{}", -EOPNOTSUPP, "model_type 'gemma2' is not implemented"},
	{"mixtral", "{}", -EOPNOTSUPP, "model_type 'mixtral' is not implemented"},
	{"llama", "{\"model_type\":3}", -EBADMSG,
		"model_type: found a whole number, expected a string"},
	{"llama", "{\"architectures\":[\"LlamaForSequenceClassification\"]}", -EOPNOTSUPP,
		"architecture 'LlamaForSequenceClassification'"},
	{"llama", "{\"architectures\":[]}", -EBADMSG, "expected a list of one name"},
	{"llama", "{\"quantization_config\":{\"quant_method\":\"gptq\"}}", -EOPNOTSUPP, "gptq"},
	{"qwen2", "{\"num_experts\":8}", -EOPNOTSUPP, "num_experts: mixtures of experts"},
	{"qwen2", "{\"use_mrope\":true}", -EOPNOTSUPP, "use_mrope"},
	{"llama", "{\"hidden_act\":\"gelu\"}", -EOPNOTSUPP, "hidden_act 'gelu' is not implemented"},
	{"llama", "{\"dtype\":\"float8_e4m3fn\"}", -EOPNOTSUPP, "dtype 'float8_e4m3fn'"},
	{"llama", "{\"torch_dtype\":\"int8\"}", -EOPNOTSUPP, "torch_dtype 'int8'"},
	{"llama", "{\"hidden_size\":\"ABSENT\"}", -EBADMSG,
		"hidden_size: found nothing, expected a whole number"},
	{"llama", "{\"hidden_size\":64.0}", -EBADMSG,
		"hidden_size: found a number with a fraction"},
	{"llama", "{\"hidden_size\":-1}", -EBADMSG, "hidden_size: found -1, expected 1 to"},
	{"llama", "{\"num_hidden_layers\":0}", -EBADMSG, "num_hidden_layers: found 0"},
	{"llama", "{\"num_hidden_layers\":1025}", -EBADMSG, "expected 1 to 1024"},
	{"llama", "{\"vocab_size\":1000000000000}", -EBADMSG, "vocab_size: found 1000000000000"},
	{"llama", "{\"rms_norm_eps\":0}", -EBADMSG, "rms_norm_eps: found 0"},
	{"llama", "{\"num_attention_heads\":3}", -EBADMSG, "hidden_size 64 is not a multiple"},
	{"llama", "{\"num_key_value_heads\":3}", -EBADMSG,
		"not a multiple of num_key_value_heads 3"},
	{"llama", "{\"num_key_value_heads\":8}", -EBADMSG,
		"not a multiple of num_key_value_heads 8"},
	{"llama", "{\"head_dim\":15}", -EBADMSG, "head_dim: found 15, expected an even number"},
	{"llama", "{\"tie_word_embeddings\":1}", -EBADMSG,
		"tie_word_embeddings: found a whole number, expected true or false"},
	{"mistral", "{\"attention_bias\":true}", -EOPNOTSUPP, "attention_bias: this family"},
	{"phi3", "{\"mlp_bias\":true}", -EOPNOTSUPP, "mlp_bias: this family"},
	{"phi3", "{\"partial_rotary_factor\":0.75}", -EOPNOTSUPP, "partial_rotary_factor 0.75"},
	{"phi3", "{\"rope_scaling\":{\"type\":\"longrope\"}}", -EOPNOTSUPP, "type 'longrope'"},
	{"phi3", "{\"rope_scaling\":{\"type\":\"su\"}}", -EOPNOTSUPP, "type 'su'"},
	{"llama", "{\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":2}}", -EOPNOTSUPP,
		"rope_type 'dynamic'"},
	{"llama", "{\"rope_scaling\":[]}", -EBADMSG, "rope_scaling: found an array"},
	{"llama", "{\"rope_scaling\":{\"type\":\"linear\"}}", -EBADMSG, "factor: found nothing"},
	{"llama", "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", -EBADMSG,
		"factor: found 0"},
	{"llama",
		"{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
		"\"high_freq_factor\":4,\"original_max_position_embeddings\":64}}",
		-EBADMSG, "high_freq_factor"},
	{"llama", "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"truncate\":false}}",
		-EOPNOTSUPP, "truncate"},
	{"llama",
		"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4},"
		"\"rope_parameters\":{\"rope_type\":\"default\"}}",
		-EBADMSG, "contradict"},
	{"llama", "{\"rope_parameters\":{\"full_attention\":{},\"rope_type\":7}}", -EBADMSG,
		"rope_type: found a whole number"},
	{"mistral", "{\"sliding_window\":0}", -EBADMSG, "sliding_window: found 0"},
	{"llama", "{\"layer_types\":[\"full_attention\"]}", -EBADMSG, "layer_types: 1 entries"},
	{"llama",
		"{\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\","
		"\"linear_attention\"]}",
		-EOPNOTSUPP, "'linear_attention' is not implemented"},
	{"llama",
		"{\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\","
		"\"sliding_attention\"]}",
		-EBADMSG, "sliding attention without a window"},
	{"qwen2",
		"{\"use_sliding_window\":true,\"layer_types\":[\"full_attention\","
		"\"sliding_attention\",\"full_attention\",\"sliding_attention\"]}",
		-EOPNOTSUPP, "full attention after sliding attention (layer 2)"},
	{"mistral",
		"{\"sliding_window\":8,\"layer_types\":[\"full_attention\",\"sliding_attention\","
		"\"sliding_attention\",\"sliding_attention\"]}",
		-EOPNOTSUPP, "full attention in some layers"},
	{"llama", "{\"bos_token_id\":320}", -EBADMSG, "bos_token_id: found 320"},
	{"llama", "{\"eos_token_id\":[1,\"x\"]}", -EBADMSG, "eos_token_id: entry 1"},
	{"llama", "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", -EOPNOTSUPP, "9 ids, at most 8"},
};

static void refuses_by_name(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
		expect_refusal(refusals[i].model_type, refusals[i].changes, refusals[i].error,
			refusals[i].words);
}

static void loads_folders(void **state)
{
	struct model_config c;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(config_json_load("tests/golden/data/tiny/llama3-rope", &c, &reason), 0);
	assert_int_equal(c.rope_kind, ROPE_KIND_LLAMA3);
	assert_true(c.rope_theta == 500000.0);
	assert_int_equal(config_json_load("tests/golden/data/tiny/mistral-window", &c, &reason), 0);
	assert_int_equal(c.sliding_window, 24);
	assert_int_equal(config_json_load("tests/golden/data/tiny/qwen3", &c, &reason), 0);
	assert_int_equal(c.head_dim, 24);
	assert_int_equal(config_json_load("models/Llama-deltad-16M", &c, &reason), 0);
	assert_int_equal(c.flags, MODEL_TIED_HEAD);
	assert_int_equal(c.n_eos, 1);
	assert_int_equal(config_json_load("tests/golden/data", &c, &reason), -ENOENT);
	assert_non_null(strstr(reason.text, "config.json: cannot open"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_llama),
		cmocka_unit_test(reads_windows),
		cmocka_unit_test(reads_qwen),
		cmocka_unit_test(reads_rope),
		cmocka_unit_test(reads_yarn),
		cmocka_unit_test(reads_tokens),
		cmocka_unit_test(refuses_by_name),
		cmocka_unit_test(loads_folders),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
