/*
 * Model folders to base images: every number arrives where the kernels look for it.
 */
#include "foreign/import.h"

#include "common/file.h"
#include "foreign/tokenizer_json.h"
#include "store/base.h"

#include "tests/scratch.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define TINY "tests/golden/data/tiny/"

static const char *const models[] = {
	TINY "llama-gqa",
	TINY "llama-mha-tied",
	TINY "llama3-rope",
	TINY "mistral-window",
	TINY "qwen2",
	TINY "qwen3",
};

static int import_folder(const char *folder, struct import_report *report, struct reason *reason)
{
	struct checkpoint *checkpoint = NULL;
	int fd = memfd_create("image", MFD_CLOEXEC);
	int r = checkpoint_open(folder, &checkpoint, reason);

	if (r == 0)
		r = import_base(checkpoint, WEIGHTS_BF16, fd, NULL, report, reason);
	checkpoint_free(checkpoint);
	if (r == 0)
		return fd;
	close(fd);
	return r;
}

static struct base *load_base(int fd)
{
	struct image *image = NULL;
	struct base *base = NULL;
	struct reason reason = {0};

	if (image_load(fd, &image, NULL, &reason) < 0 || base_bind(image, &base, &reason) < 0)
		fail_msg("%s", reason.text);
	return base;
}

/* The tensor's own bytes, which in these folders are bf16. */
static uint16_t *read_raw(const char *folder, const char *name, size_t n)
{
	struct safetensors *s = NULL;
	struct reason reason = {0};
	const struct safetensors_tensor *t;
	uint16_t *values = calloc(n, 2);

	assert_int_equal(safetensors_open_folder(folder, &s, &reason), 0);
	t = safetensors_find(s, name);
	assert_non_null(t);
	assert_int_equal(t->bytes, n * 2);
	assert_int_equal(safetensors_read(s, t, 0, values, n * 2, &reason), 0);
	safetensors_free(s);
	return values;
}

static void expect_matrix(const struct base_matrix *m, const char *folder, const char *name)
{
	uint16_t *raw = read_raw(folder, name, (size_t)m->rows * m->cols);

	assert_int_equal(m->codec, CODEC_MAT_BF16);
	for (uint32_t r = 0; r < m->rows; r++)
		for (uint32_t c = 0; c < m->cols; c++)
			assert_int_equal(m->bf16.data[mat_bf16_index(m->cols, r, c)],
				raw[(size_t)r * m->cols + c]);
	free(raw);
}

static void expect_vector(const float *v, uint32_t n, const char *folder, const char *name)
{
	uint16_t *raw = read_raw(folder, name, n);

	for (uint32_t i = 0; i < n; i++) {
		uint32_t bits;

		memcpy(&bits, &v[i], 4);
		assert_int_equal(bits, (uint32_t)raw[i] << 16);
	}
	free(raw);
}

static void expect_layer(const struct base *base, uint32_t layer, const char *folder)
{
	const struct model_config *c = &base->config;
	const struct base_layer *l = &base->layers[layer];
	const struct {
		const char *name;
		const struct base_matrix *matrix;
		const float *vector;
		uint32_t n;
	} tensors[] = {
		{"self_attn.q_proj.weight", &l->q, NULL, 0},
		{"self_attn.k_proj.weight", &l->k, NULL, 0},
		{"self_attn.v_proj.weight", &l->v, NULL, 0},
		{"self_attn.o_proj.weight", &l->o, NULL, 0},
		{"mlp.gate_proj.weight", &l->gate, NULL, 0},
		{"mlp.up_proj.weight", &l->up, NULL, 0},
		{"mlp.down_proj.weight", &l->down, NULL, 0},
		{"input_layernorm.weight", NULL, l->vectors.attn_norm, c->hidden},
		{"post_attention_layernorm.weight", NULL, l->vectors.ffn_norm, c->hidden},
		{"self_attn.q_proj.bias", NULL, l->vectors.q_bias, c->n_heads * c->head_dim},
		{"self_attn.k_proj.bias", NULL, l->vectors.k_bias, c->n_kv_heads * c->head_dim},
		{"self_attn.v_proj.bias", NULL, l->vectors.v_bias, c->n_kv_heads * c->head_dim},
		{"self_attn.q_norm.weight", NULL, l->vectors.q_norm, c->head_dim},
		{"self_attn.k_norm.weight", NULL, l->vectors.k_norm, c->head_dim},
	};
	char name[128];

	for (size_t i = 0; i < array_len(tensors); i++) {
		snprintf(name, sizeof(name), "model.layers.%u.%s", layer, tensors[i].name);
		if (tensors[i].matrix)
			expect_matrix(tensors[i].matrix, folder, name);
		else if (tensors[i].vector)
			expect_vector(tensors[i].vector, tensors[i].n, folder, name);
	}
}

static void keeps_every_number(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(models); i++) {
		struct import_report report;
		struct reason reason = {0};
		int fd = import_folder(models[i], &report, &reason);
		struct base *base;

		if (fd < 0)
			fail_msg("%s", reason.text);
		base = load_base(fd);
		expect_matrix(&base->embed, models[i], "model.embed_tokens.weight");
		if (base->config.flags & MODEL_TIED_HEAD)
			assert_ptr_equal(base->head.bf16.data, base->embed.bf16.data);
		else
			expect_matrix(&base->head, models[i], "lm_head.weight");
		expect_vector(
			base->final_norm, base->config.hidden, models[i], "model.norm.weight");
		for (uint32_t layer = 0; layer < base->config.n_layers; layer++)
			expect_layer(base, layer, models[i]);
		assert_int_equal(report.n_inexact, 0);
		assert_true(digest_equal(&report.model, base_model_digest(base)));
		base_free(base);
		close(fd);
	}
}

static void same_folder_same_bytes(void **state)
{
	struct import_report first, second;
	struct reason reason = {0};
	struct checkpoint *checkpoint = NULL;
	struct digest digest;
	int a = import_folder(models[0], &first, &reason);
	int b = import_folder(models[0], &second, &reason);
	struct stat st_a, st_b;
	uint8_t *bytes_a, *bytes_b;

	(void)state;
	assert_true(a >= 0 && b >= 0);
	assert_int_equal(fstat(a, &st_a), 0);
	assert_int_equal(fstat(b, &st_b), 0);
	assert_int_equal(st_a.st_size, st_b.st_size);
	assert_int_equal(st_a.st_size, first.file_bytes);
	bytes_a = malloc((size_t)st_a.st_size);
	bytes_b = malloc((size_t)st_b.st_size);
	assert_int_equal(file_read_at(a, bytes_a, (size_t)st_a.st_size, 0), 0);
	assert_int_equal(file_read_at(b, bytes_b, (size_t)st_b.st_size, 0), 0);
	assert_memory_equal(bytes_a, bytes_b, (size_t)st_a.st_size);
	free(bytes_a);
	free(bytes_b);
	close(a);
	close(b);

	assert_int_equal(checkpoint_open(models[0], &checkpoint, &reason), 0);
	assert_int_equal(checkpoint_digest(checkpoint, NULL, &digest, &reason), 0);
	assert_true(digest_equal(&digest, &first.model));
	checkpoint_free(checkpoint);
}

static void carries_text_sections(void **state)
{
	static const char folder[] = "models/Llama-deltad-16M-math";
	struct import_report report;
	struct reason reason = {0};
	int fd = import_folder(folder, &report, &reason);
	struct base *base;
	uint8_t *compiled = NULL;
	size_t n_compiled = 0;
	uint64_t n = 0;
	const uint8_t *section;

	(void)state;
	if (fd < 0)
		fail_msg("%s", reason.text);
	base = load_base(fd);
	assert_true(report.has_tokenizer);
	assert_string_equal(report.chat_format, "chatml");
	assert_string_equal(report.chat_refusal, "");
	assert_int_equal(tokenizer_compile(folder, &compiled, &n_compiled, &reason), 0);
	section = image_section(base->image, SECTION_TOKENIZER, &n);
	assert_non_null(section);
	assert_int_equal(n, n_compiled);
	assert_memory_equal(section, compiled, n);
	assert_non_null(image_section(base->image, SECTION_CHAT, &n));
	free(compiled);
	base_free(base);
	close(fd);
}

static void says_why_there_is_no_chat(void **state)
{
	struct import_report report;
	struct reason reason = {0};
	int fd = import_folder("models/Llama-deltad-16M", &report, &reason);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	assert_true(report.has_tokenizer);
	assert_string_equal(report.chat_format, "");
	assert_non_null(strstr(report.chat_refusal, "no chat template"));
	fd = import_folder(models[0], &report, &reason);
	assert_true(fd >= 0);
	close(fd);
	assert_false(report.has_tokenizer);
	assert_string_equal(report.chat_refusal, "there is no tokenizer");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keeps_every_number),
		cmocka_unit_test(same_folder_same_bytes),
		cmocka_unit_test(carries_text_sections),
		cmocka_unit_test(says_why_there_is_no_chat),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
