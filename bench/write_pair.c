/*
 * Writes a base of 7B's shape (hidden 4096, ffn 11008, 32 heads, vocabulary 32000) but of few
 * blocks, and a fine-tune of it, to measure what compressing such a pair takes.
 *
 *   write_pair FOLDER N_BLOCKS        makes FOLDER/base and FOLDER/tuned
 *
 * Weights are random; the change of a projection is of rank 32 with a falling spectrum, and noise
 * of a quarter of its norm. A shard a block, bf16. There is no tokenizer.
 */
#include "common/reason.h"
#include "common/random.h"
#include "kernels/convert.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define HIDDEN 4096u
#define FFN 11008u
#define VOCAB 32000u
#define RANK 32u

struct tensor {
	char name[96];
	uint32_t rows, cols; /* cols 0: a vector of ones */
	bool changes;
};

struct shard {
	struct tensor tensors[12];
	size_t n;
};

static void add(struct shard *s, const char *name, uint32_t rows, uint32_t cols, bool changes)
{
	struct tensor *t = &s->tensors[s->n++];

	*t = (struct tensor){.rows = rows, .cols = cols, .changes = changes};
	snprintf(t->name, sizeof(t->name), "%s.weight", name);
}

static void add_block(struct shard *s, uint32_t block)
{
	static const struct {
		const char *name;
		uint32_t rows, cols;
	} of_block[] = {
		{"self_attn.q_proj", HIDDEN, HIDDEN},
		{"self_attn.k_proj", HIDDEN, HIDDEN},
		{"self_attn.v_proj", HIDDEN, HIDDEN},
		{"self_attn.o_proj", HIDDEN, HIDDEN},
		{"mlp.gate_proj", FFN, HIDDEN},
		{"mlp.up_proj", FFN, HIDDEN},
		{"mlp.down_proj", HIDDEN, FFN},
		{"input_layernorm", HIDDEN, 0},
		{"post_attention_layernorm", HIDDEN, 0},
	};
	char name[80];

	for (size_t i = 0; i < array_len(of_block); i++) {
		snprintf(name, sizeof(name), "model.layers.%u.%s", block, of_block[i].name);
		add(s, name, of_block[i].rows, of_block[i].cols, of_block[i].cols > 0);
	}
}

/* In [-1.7, 1.7], of variance 1. */
static float number(uint64_t seed, uint64_t at)
{
	return (float)((2 * random_share(random_at(seed, at)) - 1) * sqrt(3));
}

static uint64_t seed_of(const struct tensor *t)
{
	uint64_t seed = 0;

	for (const char *c = t->name; *c; c++)
		seed = mix64(seed + (uint8_t)*c);
	return seed;
}

static void write_row(
	const struct tensor *t, const float *v, uint32_t row, bool tuned, uint16_t *ret)
{
	uint64_t seed = seed_of(t);
	float u[RANK], scale = 0.002f / sqrtf(RANK);

	for (uint32_t k = 0; k < RANK; k++)
		u[k] = number(seed + 1, (uint64_t)row * RANK + k) * powf(0.9f, (float)k);
	for (uint32_t c = 0; c < t->cols; c++) {
		float value = 0.02f * number(seed, (uint64_t)row * t->cols + c), change;

		change = 0.0005f * number(seed + 3, (uint64_t)row * t->cols + c);
		for (uint32_t k = 0; v && k < RANK; k++)
			change += scale * u[k] * v[(size_t)k * t->cols + c];
		if (tuned && t->changes)
			value = bf16_to_f32(bf16_from_f32(value)) + change;
		ret[c] = bf16_from_f32(value);
	}
}

static int write_tensor(FILE *f, const struct tensor *t, bool tuned)
{
	uint32_t width = t->cols ? t->cols : t->rows, n_rows = t->cols ? t->rows : 1;
	_cleanup_(freep) uint16_t *row = malloc(width * sizeof(*row));
	_cleanup_(freep) float *v = malloc((size_t)RANK * width * sizeof(*v));

	if (!row || !v)
		return -ENOMEM;
	for (size_t i = 0; i < (size_t)RANK * width; i++)
		v[i] = number(seed_of(t) + 2, i);
	for (uint32_t i = 0; i < width; i++)
		row[i] = bf16_from_f32(1);
	for (uint32_t r = 0; r < n_rows; r++) {
		if (t->cols)
			write_row(t, tuned && t->changes ? v : NULL, r, tuned, row);
		if (fwrite(row, sizeof(*row), width, f) != width)
			return -EIO;
	}
	return 0;
}

static uint64_t tensor_bytes(const struct tensor *t)
{
	return 2 * (uint64_t)t->rows * (t->cols ? t->cols : 1);
}

static void describe(const struct shard *s, char *ret, size_t room)
{
	uint64_t at = 0;
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++) {
		const struct tensor *t = &s->tensors[i];
		char cols[16] = "";

		if (t->cols)
			snprintf(cols, sizeof(cols), ",%u", t->cols);
		n += (size_t)snprintf(ret + n, room - n,
			"%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[%u%s],\"data_offsets\":[%llu,%llu]"
			"}",
			i ? ',' : '{', t->name, t->rows, cols, (unsigned long long)at,
			(unsigned long long)(at + tensor_bytes(t)));
		at += tensor_bytes(t);
	}
	snprintf(ret + n, room - n, "}");
}

static int write_shard(const char *folder, const char *name, const struct shard *s, bool tuned)
{
	char path[512], header[8192];
	uint64_t n;
	FILE *f;
	int r = 0;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "we");
	if (!f)
		return -errno;
	describe(s, header, sizeof(header));
	n = strlen(header);
	if (fwrite(&n, sizeof(n), 1, f) != 1 || fwrite(header, 1, n, f) != n)
		r = -EIO;
	for (size_t i = 0; r == 0 && i < s->n; i++)
		r = write_tensor(f, &s->tensors[i], tuned);
	if (fclose(f) != 0 && r == 0)
		r = -EIO;
	return r;
}

static int write_text(const char *folder, const char *name, const char *text)
{
	char path[512];
	FILE *f;
	int r;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "we");
	if (!f)
		return -errno;
	r = fputs(text, f) < 0 ? -EIO : 0;
	return fclose(f) != 0 ? -EIO : r;
}

static int write_config(const char *folder, uint32_t n_blocks)
{
	char text[1024];

	snprintf(text, sizeof(text),
		"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
		"\"hidden_size\":%u,\"intermediate_size\":%u,\"num_hidden_layers\":%u,"
		"\"num_attention_heads\":32,\"num_key_value_heads\":32,\"vocab_size\":%u,"
		"\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,"
		"\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,"
		"\"torch_dtype\":\"bfloat16\",\"bos_token_id\":1,\"eos_token_id\":2}\n",
		HIDDEN, FFN, n_blocks, VOCAB);
	return write_text(folder, "config.json", text);
}

static size_t list_shard(char *to, size_t room, const struct shard *s, const char *name, bool first)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++)
		n += (size_t)snprintf(to + n, room - n, "%s\"%s\":\"%s\"",
			first && i == 0 ? "" : ",", s->tensors[i].name, name);
	return n;
}

/* Shard n_blocks holds what is outside the blocks. */
static int write_model(const char *folder, uint32_t n_blocks, bool tuned)
{
	size_t room = 8192 * ((size_t)n_blocks + 1), n;
	_cleanup_(freep) char *index = malloc(room);
	int r = mkdir(folder, 0777) < 0 && errno != EEXIST ? -errno : 0;

	if (!index)
		return -ENOMEM;
	n = (size_t)snprintf(index, room, "{\"weight_map\":{");
	for (uint32_t i = 0; r == 0 && i <= n_blocks; i++) {
		struct shard s = {0};
		char name[64];

		snprintf(name, sizeof(name), "model-%05u-of-%05u.safetensors", i + 1, n_blocks + 1);
		if (i < n_blocks) {
			add_block(&s, i);
		} else {
			add(&s, "model.embed_tokens", VOCAB, HIDDEN, false);
			add(&s, "model.norm", HIDDEN, 0, false);
			add(&s, "lm_head", VOCAB, HIDDEN, false);
		}
		r = write_shard(folder, name, &s, tuned);
		n += list_shard(index + n, room - n, &s, name, i == 0);
	}
	snprintf(index + n, room - n, "}}\n");
	if (r == 0)
		r = write_text(folder, "model.safetensors.index.json", index);
	return r < 0 ? r : write_config(folder, n_blocks);
}

int main(int argc, char **argv)
{
	long n_blocks = argc == 3 ? strtol(argv[2], NULL, 10) : 0;
	char folder[256];
	int r;

	if (n_blocks < 1 || n_blocks > 1000 || strlen(argv[1]) > 200) {
		fprintf(stderr, "usage: write_pair FOLDER N_BLOCKS\n");
		return 2;
	}
	snprintf(folder, sizeof(folder), "%s/base", argv[1]);
	r = write_model(folder, (uint32_t)n_blocks, false);
	snprintf(folder, sizeof(folder), "%s/tuned", argv[1]);
	if (r == 0)
		r = write_model(folder, (uint32_t)n_blocks, true);
	if (r < 0)
		fprintf(stderr, "write_pair: %s: %s\n", folder, strerror(-r));
	return r < 0;
}
