/*
 * Adapters from folders to logits: what base and delta answer is what a dense model in double of
 * W + scale * B A does, and the factors in the file are the adapter's, bit for bit.
 */
#include "compress/compress.h"
#include "compress/merge.h"
#include "compress/served.h"
#include "engine/score.h"
#include "kernels/convert.h"
#include "kernels/pack.h"
#include "store/codec.h"
#include "store/delta.h"
#include "tests/adapter_folder.h"
#include "tests/double_model.h"
#include "tests/scratch.h"
#include "tests/told_bytes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

#define TINY "tests/golden/data/tiny/"
#define VOCAB 320u
#define RANK 4u

static const uint32_t prompt[] = {1, 7, 3, 90, 41, 12, 5, 66, 23, 8, 300, 2};

struct fixture {
	char *scratch, *base_folder, *folder, *merged_folder;
	struct model_folder adapter;
	/* After fixture_compress(). */
	struct checkpoint *base, *tuned;
	struct compress_report report;
	struct image *image;
	struct kernels kernels;
	struct served served; /* the base with the delta, which has the image */
};

static void expect_ok(int r, const struct reason *reason)
{
	if (r < 0)
		fail_msg("%d: %s", r, reason->text);
}

/* `base`: a tiny model, or a folder that the test made. */
static void fixture_begin(struct fixture *f, const char *base, double alpha)
{
	*f = (struct fixture){.scratch = scratch_folder(), .base_folder = strdup(base)};
	f->folder = scratch_path(f->scratch, "adapter");
	f->merged_folder = scratch_path(f->scratch, "merged");
	adapter_folder_begin(&f->adapter, RANK, alpha);
}

static int compress_to(struct fixture *f, const struct embedding_choice *embedding,
	uint32_t n_threads, struct reason *reason)
{
	const struct compress_settings settings = {
		.method = "lora",
		.embedding = *embedding,
		.calibration_tokens = 512,
		.window = 64,
		.n_threads = n_threads,
	};
	int fd = memfd_create("delta", MFD_CLOEXEC);
	int r;

	assert_true(fd >= 0);
	r = compress_delta(f->base, f->tuned, &settings, fd, NULL, &f->report, reason);
	if (r == 0) {
		told_bytes_check(fd, &f->report);
		return fd;
	}
	close(fd);
	return r;
}

static void fixture_compress(struct fixture *f)
{
	const struct embedding_choice exact = {.kind = EMBEDDING_EXACT};
	struct reason reason = {0};
	struct delta *delta;
	int fd;

	adapter_folder_write(&f->adapter, f->folder);
	expect_ok(checkpoint_open(f->base_folder, &f->base, &reason), &reason);
	expect_ok(checkpoint_open_adapted(f->base_folder, f->folder, &f->tuned, &reason), &reason);
	fd = compress_to(f, &exact, 1, &reason);
	expect_ok(fd, &reason);
	expect_ok(kernels_select(&f->kernels, NULL, &reason), &reason);
	expect_ok(
		served_of_checkpoint(f->base, WEIGHTS_BF16, &f->kernels, NULL, &f->served, &reason),
		&reason);
	expect_ok(image_load(fd, &f->image, NULL, &reason), &reason);
	expect_ok(delta_bind(f->image, f->served.base, &delta, &reason), &reason);
	expect_ok(served_add_delta(&f->served, delta, &reason), &reason);
	close(fd);
}

static void fixture_done(struct fixture *f)
{
	served_done(&f->served);
	checkpoint_free(f->base);
	checkpoint_free(f->tuned);
	model_folder_done(&f->adapter);
	scratch_remove(f->scratch);
	free(f->scratch);
	free(f->base_folder);
	free(f->folder);
	free(f->merged_folder);
}

struct seen {
	float *logits;
	size_t vocab;
};

static void keep(void *user, size_t position, const float *logits)
{
	struct seen *seen = user;

	memcpy(seen->logits + position * seen->vocab, logits, seen->vocab * sizeof(*logits));
}

/* Of every position of the prompt; malloc'ed. */
static float *served_logits(const struct model *model, const struct variant *v, size_t vocab)
{
	struct seen seen = {
		.logits = calloc(array_len(prompt) * vocab, sizeof(float)), .vocab = vocab};
	struct reason reason = {0};
	struct scorer *scorer;
	struct pool *pool;

	assert_non_null(seen.logits);
	expect_ok(pool_new(1, &pool, &reason), &reason);
	expect_ok(scorer_new(model, pool, array_len(prompt), &scorer, &reason), &reason);
	expect_ok(score_sequence(scorer, v, prompt, array_len(prompt), keep, &seen, &reason),
		&reason);
	scorer_free(scorer);
	pool_free(pool);
	return seen.logits;
}

/* Only what the base has; the test adds the adapter by itself. */
static struct double_model *double_base(const struct fixture *f)
{
	struct dense_model *dense;
	struct double_model *model;
	struct reason reason = {0};

	expect_ok(dense_model_read(f->base, &dense, &reason), &reason);
	model = double_model_of(dense, array_len(prompt));
	dense_model_free(dense);
	return model;
}

/* Largest difference as a share of the largest logit expected. */
static double logits_error(const float *got, const double *expected, size_t n)
{
	double worst = 0, top = 0;

	for (size_t i = 0; i < n; i++) {
		worst = fmax(worst, fabs((double)got[i] - expected[i]));
		top = fmax(top, fabs(expected[i]));
	}
	return worst / top;
}

/* f32 sums against double ones. The adapter itself must be far above that. */
#define TOLERANCE 2e-5

static void check_logits(struct fixture *f, const struct double_model *reference)
{
	size_t n = array_len(prompt) * VOCAB;
	double *expected = calloc(n, sizeof(*expected));
	float *with, *without;
	double error, effect;

	assert_non_null(expected);
	double_model_logits(reference, prompt, array_len(prompt), NULL, expected);
	with = served_logits(f->served.model, f->served.with_delta, VOCAB);
	without = served_logits(f->served.model, f->served.variant, VOCAB);
	error = logits_error(with, expected, n);
	effect = logits_error(without, expected, n);
	if (!(error < TOLERANCE) || !(effect > 1000 * TOLERANCE))
		fail_msg("error %g, the adapter's effect %g", error, effect);
	free(with);
	free(without);
	free(expected);
}

static const struct tensor_record *find_record(
	const struct fixture *f, enum tensor_role role, uint32_t layer)
{
	const struct delta *d = f->served.delta;

	for (size_t i = 0; i < d->n_records; i++)
		if (d->records[i].role == (uint32_t)role && d->records[i].layer == layer)
			return &d->records[i];
	return NULL;
}

/* Rows [first, ..) of B, and A, as kernels will see them. */
static void check_factors(struct fixture *f, const struct adapter_module *m, enum tensor_role role,
	uint32_t layer, uint32_t first)
{
	const struct tensor_record *record = find_record(f, role, layer);
	struct payload payload;
	struct factors factors;
	struct reason reason = {0};
	const float *a, *b;
	float row[512];
	char name[192];

	assert_non_null(record);
	assert_int_equal(record->codec, CODEC_FACTORS);
	payload = (struct payload){.record = record, .bytes = f->image->bytes + record->offset};
	expect_ok(codec_factors(&payload, &factors, &reason), &reason);
	snprintf(name, sizeof(name), ADAPTER_PREFIX "%s.lora_A.weight", m->name);
	a = model_folder_find(&f->adapter, name)->values;
	snprintf(name, sizeof(name), ADAPTER_PREFIX "%s.lora_B.weight", m->name);
	b = model_folder_find(&f->adapter, name)->values;
	assert_int_equal(record->n, m->rank);
	for (uint32_t i = 0; i < m->rank; i++) {
		qmat_row_values(row, &factors.v, i);
		assert_memory_equal(row, a + (size_t)i * m->inputs, m->inputs * sizeof(float));
		qmat_row_values(row, &factors.u, i);
		for (uint32_t o = 0; o < record->rows; o++)
			assert_int_equal(f32_to_bits(row[o]),
				f32_to_bits(b[(size_t)(first + o) * m->rank + i]));
	}
}

static const struct adapter_module modules[] = {
	{"model.layers.0.self_attn.q_proj", RANK, 64, 64},
	{"model.layers.0.self_attn.o_proj", RANK, 64, 64},
	{"model.layers.1.self_attn.k_proj", RANK, 32, 64},
	{"model.layers.1.mlp.gate_proj", RANK, 160, 64},
	{"model.layers.2.self_attn.v_proj", RANK, 32, 64},
	{"model.layers.2.mlp.up_proj", RANK, 160, 64},
	{"model.layers.2.mlp.down_proj", RANK, 64, 160},
	{"lm_head", RANK, VOCAB, 64},
};
static const struct {
	enum tensor_role role;
	uint32_t layer;
} places[] = {
	{ROLE_Q, 0},
	{ROLE_O, 0},
	{ROLE_K, 1},
	{ROLE_GATE, 1},
	{ROLE_V, 2},
	{ROLE_UP, 2},
	{ROLE_DOWN, 2},
	{ROLE_HEAD, 2},
};

static double *weights_of(const struct double_model *m, enum tensor_role role, uint32_t layer)
{
	return m->layers[layer][role];
}

/* Every kind of projection and the head, in each type of numbers. */
static void check_projections(enum safetensors_dtype dtype, uint32_t bits)
{
	struct double_model *reference;
	struct fixture f;

	fixture_begin(&f, TINY "llama-gqa", 6);
	for (size_t i = 0; i < array_len(modules); i++)
		adapter_folder_adapt(&f.adapter, &modules[i], dtype);
	fixture_compress(&f);
	assert_int_equal(f.served.delta->n_records, array_len(modules));
	assert_int_equal(f.report.n_projections, array_len(modules) - 1);
	reference = double_base(&f);
	for (size_t i = 0; i < array_len(modules); i++) {
		const struct adapter_module *m = &modules[i];

		check_factors(&f, m, places[i].role, places[i].layer, 0);
		assert_int_equal(find_record(&f, places[i].role, places[i].layer)->bits, bits);
		adapter_folder_apply(&f.adapter, m, 1.5, 0, m->outputs,
			weights_of(reference, places[i].role, places[i].layer));
	}
	check_logits(&f, reference);
	double_model_free(reference);
	fixture_done(&f);
}

static void test_projections_and_head(void **state)
{
	(void)state;
	check_projections(SAFETENSORS_F16, 16);
	check_projections(SAFETENSORS_F32, 32);
}

/* bf16 numbers of some size are fp16 numbers too; one that is too small for it makes f32. */
static void test_width_is_what_is_exact(void **state)
{
	static const struct adapter_module *const m = &modules[0];
	struct fixture f;

	(void)state;
	fixture_begin(&f, TINY "llama-gqa", 6);
	adapter_folder_adapt(&f.adapter, m, SAFETENSORS_BF16);
	adapter_folder_adapt(&f.adapter, &modules[1], SAFETENSORS_BF16);
	model_folder_find(
		&f.adapter, ADAPTER_PREFIX "model.layers.0.self_attn.q_proj.lora_A.weight")
		->values[5] = 0x1.02p-30f;
	for (size_t i = 0; i < f.adapter.n_tensors; i++)
		for (size_t k = 0; k < folder_tensor_count(&f.adapter.tensors[i]); k++) {
			float *x = &f.adapter.tensors[i].values[k];

			if (fabsf(*x) < 0x1p-10f && *x != 0x1.02p-30f)
				*x = 0x1p-10f;
		}
	fixture_compress(&f);
	check_factors(&f, m, ROLE_Q, 0, 0);
	check_factors(&f, &modules[1], ROLE_O, 0, 0);
	assert_int_equal(find_record(&f, ROLE_Q, 0)->bits, 32);
	assert_int_equal(find_record(&f, ROLE_O, 0)->bits, 16);
	fixture_done(&f);
}

static void test_patterns_and_rank_stabilised_scales(void **state)
{
	static const struct adapter_module q = {"model.layers.0.self_attn.q_proj", 8, 64, 64};
	static const struct adapter_module down = {"model.layers.2.mlp.down_proj", RANK, 64, 160};
	struct double_model *reference;
	struct fixture f;

	(void)state;
	fixture_begin(&f, TINY "llama-gqa", 3);
	json_object_set_new(f.adapter.config, "use_rslora", json_true());
	json_object_set_new(f.adapter.config, "rank_pattern", json_pack("{si}", "q_proj", 8));
	json_object_set_new(
		f.adapter.config, "alpha_pattern", json_pack("{si}", "layers\\.2\\.mlp\\..*", 5));
	adapter_folder_adapt(&f.adapter, &q, SAFETENSORS_F16);
	adapter_folder_adapt(&f.adapter, &down, SAFETENSORS_F16);
	fixture_compress(&f);
	reference = double_base(&f);
	adapter_folder_apply(&f.adapter, &q, 3 / sqrt(8), 0, 64, weights_of(reference, ROLE_Q, 0));
	adapter_folder_apply(
		&f.adapter, &down, 5 / sqrt(RANK), 0, 64, weights_of(reference, ROLE_DOWN, 2));
	check_logits(&f, reference);
	double_model_free(reference);
	fixture_done(&f);
}

/* Phi-3: one adapter for q, k and v, whose parts share A. */
static void test_fused_modules(void **state)
{
	static const struct adapter_module qkv = {
		"model.layers.1.self_attn.qkv_proj", RANK, 128, 64};
	static const struct adapter_module gate_up = {
		"model.layers.0.mlp.gate_up_proj", RANK, 320, 64};
	char *scratch = scratch_folder(), *base = scratch_path(scratch, "base");
	struct double_model *reference;
	struct model_folder fused;
	struct fixture f;

	(void)state;
	model_folder_read(&fused, TINY "llama-gqa");
	model_folder_fuse(&fused);
	model_folder_write(&fused, base, 1);
	model_folder_done(&fused);
	fixture_begin(&f, base, 6);
	adapter_folder_adapt(&f.adapter, &qkv, SAFETENSORS_F16);
	adapter_folder_adapt(&f.adapter, &gate_up, SAFETENSORS_F16);
	fixture_compress(&f);
	check_factors(&f, &qkv, ROLE_Q, 1, 0);
	check_factors(&f, &qkv, ROLE_K, 1, 64);
	check_factors(&f, &qkv, ROLE_V, 1, 96);
	check_factors(&f, &gate_up, ROLE_GATE, 0, 0);
	check_factors(&f, &gate_up, ROLE_UP, 0, 160);
	reference = double_base(&f);
	adapter_folder_apply(&f.adapter, &qkv, 1.5, 0, 64, weights_of(reference, ROLE_Q, 1));
	adapter_folder_apply(&f.adapter, &qkv, 1.5, 64, 32, weights_of(reference, ROLE_K, 1));
	adapter_folder_apply(&f.adapter, &qkv, 1.5, 96, 32, weights_of(reference, ROLE_V, 1));
	adapter_folder_apply(
		&f.adapter, &gate_up, 1.5, 0, 160, weights_of(reference, ROLE_GATE, 0));
	adapter_folder_apply(
		&f.adapter, &gate_up, 1.5, 160, 160, weights_of(reference, ROLE_UP, 0));
	check_logits(&f, reference);
	double_model_free(reference);
	fixture_done(&f);
	scratch_remove(scratch);
	free(scratch);
	free(base);
}

static void set_weights(double *to, const struct folder_tensor *from)
{
	for (size_t i = 0; i < folder_tensor_count(from); i++)
		to[i] = (double)from->values[i];
}

/* Biases and norms exactly; whole projections and heads as bf16. */
static void test_whole_tensors(void **state)
{
	static const struct {
		const char *name;
		enum safetensors_dtype dtype;
		uint32_t rows, cols;
		enum tensor_role role;
		uint32_t layer;
	} whole[] = {
		{"model.layers.0.self_attn.q_proj.base_layer.bias", SAFETENSORS_F32, 64, 0,
			ROLE_Q_BIAS, 0},
		{"model.layers.1.self_attn.v_proj.bias", SAFETENSORS_F16, 32, 0, ROLE_V_BIAS, 1},
		{"model.layers.1.input_layernorm.weight", SAFETENSORS_F32, 64, 0, ROLE_ATTN_NORM,
			1},
		{"model.norm.weight", SAFETENSORS_F32, 64, 0, ROLE_FINAL_NORM, 2},
		{"model.layers.1.mlp.down_proj.weight", SAFETENSORS_BF16, 64, 160, ROLE_DOWN, 1},
	};
	static const struct adapter_module q = {"model.layers.0.self_attn.q_proj", RANK, 64, 64};
	struct double_model *reference;
	struct fixture f;

	(void)state;
	fixture_begin(&f, TINY "qwen2", 6);
	adapter_folder_adapt(&f.adapter, &q, SAFETENSORS_F32);
	for (size_t i = 0; i < array_len(whole); i++)
		adapter_folder_add(
			&f.adapter, whole[i].name, whole[i].dtype, whole[i].rows, whole[i].cols);
	fixture_compress(&f);
	reference = double_base(&f);
	adapter_folder_apply(&f.adapter, &q, 1.5, 0, 64, weights_of(reference, ROLE_Q, 0));
	for (size_t i = 0; i < array_len(whole); i++) {
		char name[192];

		snprintf(name, sizeof(name), ADAPTER_PREFIX "%s", whole[i].name);
		set_weights(weights_of(reference, whole[i].role, whole[i].layer),
			model_folder_find(&f.adapter, name));
		assert_non_null(find_record(&f, whole[i].role, whole[i].layer));
	}
	assert_int_equal(f.served.delta->n_records, array_len(whole) + 1);
	check_logits(&f, reference);
	double_model_free(reference);
	fixture_done(&f);
}

/* Embedding and head with tokens that the base lacks: the words of the file. */
static void test_added_tokens(void **state)
{
	const struct folder_tensor *embed;
	uint16_t *words;
	struct reason reason = {0};
	struct fixture f;

	(void)state;
	fixture_begin(&f, TINY "llama-gqa", 6);
	adapter_folder_adapt(&f.adapter, &modules[0], SAFETENSORS_F16);
	adapter_folder_add(
		&f.adapter, "model.embed_tokens.weight", SAFETENSORS_BF16, VOCAB + 3, 64);
	adapter_folder_add(&f.adapter, "lm_head.weight", SAFETENSORS_BF16, VOCAB + 3, 64);
	fixture_compress(&f);
	assert_int_equal(f.served.delta->config.vocab, VOCAB + 3);
	assert_int_equal(find_record(&f, ROLE_EMBED, 0)->n, VOCAB + 3);
	assert_int_equal(find_record(&f, ROLE_HEAD, 2)->n, VOCAB + 3);
	embed = model_folder_find(&f.adapter, ADAPTER_PREFIX "model.embed_tokens.weight");
	words = malloc((size_t)(VOCAB + 3) * 64 * sizeof(*words));
	assert_non_null(words);
	expect_ok(checkpoint_read_bf16(f.tuned, ROLE_EMBED, 0, words, NULL, &reason), &reason);
	for (size_t i = 0; i < (size_t)(VOCAB + 3) * 64; i++)
		assert_int_equal(words[i], bf16_from_f32(embed->values[i]));
	free(words);
	fixture_done(&f);
}

/* What the header calls the fine-tune is the folder that a merge writes; the certificate is of it.
 */
static void test_tuned_is_the_merged_model(void **state)
{
	struct checkpoint *merged;
	struct merge_report report;
	struct reason reason = {0};
	struct digest digest, base;
	struct merge_job job;
	struct fixture f;
	const struct certificate *c;
	uint64_t n_bytes;

	(void)state;
	fixture_begin(&f, TINY "llama-gqa", 6);
	for (size_t i = 0; i < array_len(modules); i++)
		adapter_folder_adapt(&f.adapter, &modules[i], SAFETENSORS_F32);
	fixture_compress(&f);
	assert_int_equal(mkdir(f.merged_folder, 0700), 0);
	job = (struct merge_job){.base = f.base, .delta = f.image, .folder = f.merged_folder};
	expect_ok(merge_folder(&job, NULL, &report, &reason), &reason);
	expect_ok(checkpoint_open(f.merged_folder, &merged, &reason), &reason);
	expect_ok(checkpoint_digest(merged, NULL, &digest, &reason), &reason);
	expect_ok(checkpoint_digest(f.base, NULL, &base, &reason), &reason);
	assert_true(digest_equal(&digest, &f.image->header.tuned));
	assert_true(digest_equal(&base, &f.image->header.model));
	c = (const void *)image_section(f.image, SECTION_CERTIFICATE, &n_bytes);
	assert_non_null(c);
	assert_string_equal(c->method, "lora");
	/* Rounding to bf16 costs something, and little; the adapter is more than that. */
	assert_true(c->kl > 0 && c->kl < 1e-3);
	assert_true(fabs(c->perplexity_delta / c->perplexity_tuned - 1) < 0.01);
	assert_true(fabs(c->perplexity_base / c->perplexity_tuned - 1) > 0.01);
	assert_true(f.report.mean_weight_error < 1e-6);
	checkpoint_free(merged);
	fixture_done(&f);
}

static void test_threads_do_not_matter(void **state)
{
	const struct embedding_choice exact = {.kind = EMBEDDING_EXACT};
	struct reason reason = {0};
	struct digest first;
	struct fixture f;
	int fd;

	(void)state;
	fixture_begin(&f, TINY "llama-gqa", 6);
	for (size_t i = 0; i < array_len(modules); i++)
		adapter_folder_adapt(&f.adapter, &modules[i], SAFETENSORS_F16);
	fixture_compress(&f);
	first = f.report.root;
	fd = compress_to(&f, &exact, 3, &reason);
	expect_ok(fd, &reason);
	close(fd);
	assert_true(digest_equal(&first, &f.report.root));
	fixture_done(&f);
}

/* An adapter that was not trained yet: B is zero and nothing changes. */
static void test_zero_factors_change_nothing(void **state)
{
	struct folder_tensor *b;
	struct fixture f;

	(void)state;
	fixture_begin(&f, TINY "llama-gqa", 6);
	adapter_folder_adapt(&f.adapter, &modules[0], SAFETENSORS_F16);
	b = model_folder_find(
		&f.adapter, ADAPTER_PREFIX "model.layers.0.self_attn.q_proj.lora_B.weight");
	memset(b->values, 0, folder_tensor_count(b) * sizeof(float));
	fixture_compress(&f);
	assert_int_equal(f.served.delta->n_records, 0);
	assert_int_equal(f.report.n_projections, 0);
	fixture_done(&f);
}

static void test_lora_is_for_adapters(void **state)
{
	const struct embedding_choice exact = {.kind = EMBEDDING_EXACT};
	struct reason reason = {0};
	struct fixture f = {0};

	(void)state;
	expect_ok(checkpoint_open(TINY "llama-gqa", &f.base, &reason), &reason);
	expect_ok(checkpoint_open(TINY "llama-gqa-ft", &f.tuned, &reason), &reason);
	assert_int_equal(compress_to(&f, &exact, 1, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "adapter"));
	checkpoint_free(f.base);
	checkpoint_free(f.tuned);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_projections_and_head),
		cmocka_unit_test(test_width_is_what_is_exact),
		cmocka_unit_test(test_patterns_and_rank_stabilised_scales),
		cmocka_unit_test(test_fused_modules),
		cmocka_unit_test(test_whole_tensors),
		cmocka_unit_test(test_added_tokens),
		cmocka_unit_test(test_tuned_is_the_merged_model),
		cmocka_unit_test(test_threads_do_not_matter),
		cmocka_unit_test(test_zero_factors_change_nothing),
		cmocka_unit_test(test_lora_is_for_adapters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
