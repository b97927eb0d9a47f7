/*
 * Writes a model of random weights in the shape of a known one, and on demand a fine-tune of it, to
 * measure what making, serving and compressing such models takes.
 *
 *   write_model [OPTION ...] FOLDER     makes FOLDER/base
 *     --shape 1.1b|7b    of TinyLlama-1.1B, or of Llama-2-7B (7b)
 *     --blocks N         as many blocks and not all 22, or 32
 *     --positions N      most that the model takes (4096)
 *     --tuned            also makes FOLDER/tuned
 *
 * The change of a projection is of rank 32 with a falling spectrum, and noise of a quarter of its
 * norm. A shard a block, bf16, written row by row. There is no tokenizer.
 */
#include "common/reason.h"
#include "common/random.h"
#include "kernels/convert.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define RANK 32u

struct shape {
	const char *name;
	uint32_t n_blocks, hidden, ffn, n_heads, n_kv_heads, vocab;
	uint32_t n_positions;
};

static const struct shape shapes[] = {
	{"1.1b", 22, 2048, 5632, 32, 4, 32000, 4096},
	{"7b", 32, 4096, 11008, 32, 32, 32000, 4096},
};

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

static void add_block(struct shard *s, const struct shape *shape, uint32_t block)
{
	uint32_t hidden = shape->hidden, ffn = shape->ffn;
	uint32_t kv = hidden / shape->n_heads * shape->n_kv_heads;
	const struct {
		const char *name;
		uint32_t rows, cols;
	} of_block[] = {
		{"self_attn.q_proj", hidden, hidden},
		{"self_attn.k_proj", kv, hidden},
		{"self_attn.v_proj", kv, hidden},
		{"self_attn.o_proj", hidden, hidden},
		{"mlp.gate_proj", ffn, hidden},
		{"mlp.up_proj", ffn, hidden},
		{"mlp.down_proj", hidden, ffn},
		{"input_layernorm", hidden, 0},
		{"post_attention_layernorm", hidden, 0},
	};
	char name[80];

	for (size_t i = 0; i < array_len(of_block); i++) {
		snprintf(name, sizeof(name), "model.layers.%u.%s", block, of_block[i].name);
		add(s, name, of_block[i].rows, of_block[i].cols, of_block[i].cols > 0);
	}
}

static void add_others(struct shard *s, const struct shape *shape)
{
	add(s, "model.embed_tokens", shape->vocab, shape->hidden, false);
	add(s, "model.norm", shape->hidden, 0, false);
	add(s, "lm_head", shape->vocab, shape->hidden, false);
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

static void make_row(const struct tensor *t, uint32_t row, float *ret)
{
	uint64_t seed = seed_of(t);

	for (uint32_t c = 0; c < t->cols; c++)
		ret[c] = 0.02f * number(seed, (uint64_t)row * t->cols + c);
}

/* Adds the change to a row of the base, as that is stored. */
static void change_row(const struct tensor *t, const float *v, uint32_t row, float *values)
{
	uint64_t seed = seed_of(t);
	float scale = 0.002f / sqrtf(RANK);

	for (uint32_t c = 0; c < t->cols; c++)
		values[c] = bf16_to_f32(bf16_from_f32(values[c])) +
			    0.0005f * number(seed + 3, (uint64_t)row * t->cols + c);
	for (uint32_t k = 0; k < RANK; k++) {
		float u = number(seed + 1, (uint64_t)row * RANK + k) * powf(0.9f, (float)k);

		for (uint32_t c = 0; c < t->cols; c++)
			values[c] += scale * u * v[(size_t)k * t->cols + c];
	}
}

/* The RANK x cols factor of the change; NULL without memory for it. */
static float *make_factor(const struct tensor *t)
{
	size_t n = (size_t)RANK * t->cols;
	float *v = malloc(n * sizeof(*v));

	for (size_t i = 0; v && i < n; i++)
		v[i] = number(seed_of(t) + 2, i);
	return v;
}

static int write_matrix(FILE *f, const struct tensor *t, bool changed)
{
	_cleanup_(freep) float *values = malloc(t->cols * sizeof(*values));
	_cleanup_(freep) uint16_t *row = malloc(t->cols * sizeof(*row));
	_cleanup_(freep) float *v = changed ? make_factor(t) : NULL;

	if (!row || !values || (changed && !v))
		return -ENOMEM;
	for (uint32_t r = 0; r < t->rows; r++) {
		make_row(t, r, values);
		if (changed)
			change_row(t, v, r, values);
		for (uint32_t c = 0; c < t->cols; c++)
			row[c] = bf16_from_f32(values[c]);
		if (fwrite(row, sizeof(*row), t->cols, f) != t->cols)
			return -EIO;
	}
	return 0;
}

static int write_ones(FILE *f, uint32_t n)
{
	const uint16_t one = bf16_from_f32(1);

	for (uint32_t i = 0; i < n; i++)
		if (fwrite(&one, sizeof(one), 1, f) != 1)
			return -EIO;
	return 0;
}

static int write_tensor(FILE *f, const struct tensor *t, bool tuned)
{
	return t->cols ? write_matrix(f, t, tuned && t->changes) : write_ones(f, t->rows);
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

static int write_config(const char *folder, const struct shape *s)
{
	char text[1024];

	snprintf(text, sizeof(text),
		"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
		"\"hidden_size\":%u,\"intermediate_size\":%u,\"num_hidden_layers\":%u,"
		"\"num_attention_heads\":%u,\"num_key_value_heads\":%u,\"vocab_size\":%u,"
		"\"max_position_embeddings\":%u,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,"
		"\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,"
		"\"torch_dtype\":\"bfloat16\",\"bos_token_id\":1,\"eos_token_id\":2}\n",
		s->hidden, s->ffn, s->n_blocks, s->n_heads, s->n_kv_heads, s->vocab,
		s->n_positions);
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

/* The last shard holds what is outside the blocks. */
static int write_model(const char *folder, const struct shape *shape, bool tuned)
{
	uint32_t n_shards = shape->n_blocks + 1;
	size_t room = 8192 * (size_t)n_shards, n;
	_cleanup_(freep) char *index = malloc(room);
	int r = mkdir(folder, 0777) < 0 && errno != EEXIST ? -errno : 0;

	if (!index)
		return -ENOMEM;
	n = (size_t)snprintf(index, room, "{\"weight_map\":{");
	for (uint32_t i = 0; r == 0 && i < n_shards; i++) {
		struct shard s = {0};
		char name[64];

		snprintf(name, sizeof(name), "model-%05u-of-%05u.safetensors", i + 1, n_shards);
		if (i < shape->n_blocks)
			add_block(&s, shape, i);
		else
			add_others(&s, shape);
		r = write_shard(folder, name, &s, tuned);
		n += list_shard(index + n, room - n, &s, name, i == 0);
	}
	snprintf(index + n, room - n, "}}\n");
	if (r == 0)
		r = write_text(folder, "model.safetensors.index.json", index);
	return r < 0 ? r : write_config(folder, shape);
}

static bool set_shape(const char *name, struct shape *ret)
{
	for (size_t i = 0; i < array_len(shapes); i++)
		if (strcmp(name, shapes[i].name) == 0) {
			*ret = shapes[i];
			return true;
		}
	return false;
}

static bool set_count(const char *text, uint32_t most, uint32_t *ret)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (end == text || *end != '\0' || n < 1 || n > most)
		return false;
	*ret = (uint32_t)n;
	return true;
}

struct arguments {
	struct shape shape;
	bool tuned;
	const char *folder;
};

static bool parse_arguments(int argc, char **argv, struct arguments *ret)
{
	static const struct option options[] = {
		{"shape", required_argument, NULL, 's'},
		{"blocks", required_argument, NULL, 'b'},
		{"positions", required_argument, NULL, 'p'},
		{"tuned", no_argument, NULL, 't'},
		{0},
	};
	uint32_t n_blocks = 0, n_positions = 0;
	bool good = set_shape("7b", &ret->shape);
	int option;

	while (good && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 's')
			good = set_shape(optarg, &ret->shape);
		else if (option == 'b')
			good = set_count(optarg, 1000, &n_blocks);
		else if (option == 'p')
			good = set_count(optarg, 1u << 24, &n_positions);
		else
			good = option == 't';
		ret->tuned |= option == 't';
	}
	if (n_blocks)
		ret->shape.n_blocks = n_blocks;
	if (n_positions)
		ret->shape.n_positions = n_positions;
	ret->folder = argv[optind];
	return good && optind + 1 == argc && strlen(ret->folder) <= 200;
}

int main(int argc, char **argv)
{
	struct arguments a = {0};
	char folder[256];
	int r;

	if (!parse_arguments(argc, argv, &a)) {
		fprintf(stderr, "usage: write_model [--shape 1.1b|7b] [--blocks N] [--positions N] "
				"[--tuned] FOLDER\n");
		return 2;
	}
	snprintf(folder, sizeof(folder), "%s/base", a.folder);
	r = write_model(folder, &a.shape, false);
	if (r == 0 && a.tuned) {
		snprintf(folder, sizeof(folder), "%s/tuned", a.folder);
		r = write_model(folder, &a.shape, true);
	}
	if (r < 0)
		fprintf(stderr, "write_model: %s: %s\n", folder, strerror(-r));
	return r < 0;
}
