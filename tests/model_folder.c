#include "tests/model_folder.h"

#include "common/file.h"
#include "foreign/safetensors_write.h"
#include "kernels/convert.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

uint64_t folder_tensor_count(const struct folder_tensor *t)
{
	return t->n_dims == 2 ? t->shape[0] * t->shape[1] : t->shape[0];
}

static void read_tensor(
	struct folder_tensor *ret, const struct safetensors *s, const struct safetensors_tensor *t)
{
	_cleanup_(freep) uint16_t *raw = malloc(t->bytes);
	struct reason reason = {0};
	uint64_t n = t->bytes / 2;

	assert_int_equal(t->dtype, SAFETENSORS_BF16);
	assert_in_range(t->n_dims, 1, 2);
	*ret = (struct folder_tensor){
		.name = strdup(t->name),
		.dtype = t->dtype,
		.n_dims = t->n_dims,
		.shape = {t->shape[0], t->shape[1]},
		.values = malloc(n * sizeof(float)),
	};
	assert_int_equal(safetensors_read(s, t, 0, raw, t->bytes, &reason), 0);
	for (uint64_t i = 0; i < n; i++)
		ret->values[i] = bf16_to_f32(raw[i]);
}

void model_folder_read(struct model_folder *f, const char *folder)
{
	_cleanup_(freep) char *path = NULL;
	struct safetensors *s = NULL;
	struct reason reason = {0};

	assert_int_equal(safetensors_open_folder(folder, &s, &reason), 0);
	f->n_tensors = safetensors_n_tensors(s);
	f->tensors = calloc(f->n_tensors, sizeof(*f->tensors));
	for (size_t i = 0; i < f->n_tensors; i++)
		read_tensor(&f->tensors[i], s, safetensors_at(s, i));
	safetensors_free(s);
	assert_true(asprintf(&path, "%s/config.json", folder) > 0);
	f->config = json_load_file(path, 0, NULL);
	assert_non_null(f->config);
}

static void tensor_done(struct folder_tensor *t)
{
	free(t->name);
	free(t->values);
}

void model_folder_done(struct model_folder *f)
{
	for (size_t i = 0; i < f->n_tensors; i++)
		tensor_done(&f->tensors[i]);
	free(f->tensors);
	json_decref(f->config);
	*f = (struct model_folder){0};
}

struct folder_tensor *model_folder_find(struct model_folder *f, const char *name)
{
	for (size_t i = 0; i < f->n_tensors; i++)
		if (strcmp(f->tensors[i].name, name) == 0)
			return &f->tensors[i];
	fail_msg("the test's model has no tensor %s", name);
	return NULL;
}

void model_folder_add(struct model_folder *f, const char *name, const struct folder_tensor *like)
{
	struct folder_tensor copy = *like;
	size_t n_bytes = folder_tensor_count(like) * sizeof(float);

	copy.name = strdup(name);
	copy.values = malloc(n_bytes);
	memcpy(copy.values, like->values, n_bytes);
	f->tensors = reallocarray(f->tensors, f->n_tensors + 1, sizeof(*f->tensors));
	f->tensors[f->n_tensors++] = copy;
}

void model_folder_remove(struct model_folder *f, const char *name)
{
	struct folder_tensor *t = model_folder_find(f, name);
	size_t i = (size_t)(t - f->tensors);

	tensor_done(t);
	memmove(t, t + 1, (f->n_tensors - i - 1) * sizeof(*t));
	f->n_tensors--;
}

/* Puts the rows of `n` tensors of a layer one below the other, under a new name. */
static void fuse(
	struct model_folder *f, int layer, const char *const *parts, size_t n, const char *fused)
{
	struct folder_tensor all = {.dtype = SAFETENSORS_BF16, .n_dims = 2};
	char name[96];
	uint64_t at = 0;

	all.values = malloc(1u << 20);
	for (size_t i = 0; i < n; i++) {
		struct folder_tensor *t;

		snprintf(name, sizeof(name), "model.layers.%d.%s.weight", layer, parts[i]);
		t = model_folder_find(f, name);
		all.shape[0] += t->shape[0];
		all.shape[1] = t->shape[1];
		assert_true(folder_tensor_count(&all) * sizeof(float) <= 1u << 20);
		memcpy(all.values + at, t->values, folder_tensor_count(t) * sizeof(float));
		at += folder_tensor_count(t);
		model_folder_remove(f, name);
	}
	snprintf(name, sizeof(name), "model.layers.%d.%s.weight", layer, fused);
	model_folder_add(f, name, &all);
	free(all.values);
}

void model_folder_fuse(struct model_folder *f)
{
	static const char *const qkv[] = {
		"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
	static const char *const gate_up[] = {"mlp.gate_proj", "mlp.up_proj"};
	json_int_t n_layers = json_integer_value(json_object_get(f->config, "num_hidden_layers"));

	for (int layer = 0; layer < n_layers; layer++) {
		fuse(f, layer, qkv, array_len(qkv), "self_attn.qkv_proj");
		fuse(f, layer, gate_up, array_len(gate_up), "mlp.gate_up_proj");
	}
	json_object_set_new(f->config, "model_type", json_string("phi3"));
	json_object_set_new(f->config, "architectures", json_pack("[s]", "Phi3ForCausalLM"));
}

void model_folder_set_dtype(struct model_folder *f, enum safetensors_dtype dtype)
{
	for (size_t i = 0; i < f->n_tensors; i++)
		f->tensors[i].dtype = dtype;
}

static void write_values(int fd, const struct folder_tensor *t, uint64_t offset)
{
	uint64_t n = folder_tensor_count(t);
	_cleanup_(freep) uint16_t *halves = malloc(n * sizeof(*halves));

	if (t->dtype == SAFETENSORS_F32) {
		assert_int_equal(file_write_at(fd, t->values, n * sizeof(float), offset), 0);
		return;
	}
	for (uint64_t i = 0; i < n; i++)
		halves[i] = t->dtype == SAFETENSORS_F16 ? f16_from_f32(t->values[i])
							: bf16_from_f32(t->values[i]);
	assert_int_equal(file_write_at(fd, halves, n * sizeof(*halves), offset), 0);
}

/* Every n_shards-th tensor from the shard's own number on. */
static uint64_t write_shard(
	const struct model_folder *f, const char *path, size_t shard, size_t n_shards)
{
	_cleanup_(freep) struct safetensors_tensor *list = calloc(f->n_tensors, sizeof(*list));
	_cleanup_(closep) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct reason reason = {0};
	uint64_t bytes = 0;
	size_t n = 0;

	for (size_t i = shard; i < f->n_tensors; i += n_shards)
		list[n++] = (struct safetensors_tensor){
			.name = f->tensors[i].name,
			.dtype = f->tensors[i].dtype,
			.n_dims = f->tensors[i].n_dims,
			.shape = {f->tensors[i].shape[0], f->tensors[i].shape[1]},
		};
	assert_int_equal(safetensors_write_header(fd, list, n, &reason), 0);
	for (size_t i = 0; i < n; i++) {
		write_values(fd, &f->tensors[shard + i * n_shards], list[i].offset);
		bytes += list[i].bytes;
	}
	return bytes;
}

static void write_shards(const struct model_folder *f, const char *folder, size_t n_shards)
{
	json_t *map = json_object();
	uint64_t bytes = 0;
	char path[512];

	for (size_t shard = 0; shard < n_shards; shard++) {
		snprintf(path, sizeof(path), "%s/part-%zu.safetensors", folder, shard);
		bytes += write_shard(f, path, shard, n_shards);
		for (size_t i = shard; i < f->n_tensors; i += n_shards)
			json_object_set_new(
				map, f->tensors[i].name, json_string(strrchr(path, '/') + 1));
	}
	snprintf(path, sizeof(path), "%s/" SAFETENSORS_INDEX_NAME, folder);
	map = json_pack(
		"{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)bytes, "weight_map", map);
	assert_int_equal(json_dump_file(map, path, 0), 0);
	json_decref(map);
}

void model_folder_write(struct model_folder *f, const char *folder, size_t n_shards)
{
	char path[512];

	assert_int_equal(mkdir(folder, 0700), 0);
	snprintf(path, sizeof(path), "%s/config.json", folder);
	assert_int_equal(json_dump_file(f->config, path, 0), 0);
	snprintf(path, sizeof(path), "%s/model.safetensors", folder);
	if (n_shards == 1)
		write_shard(f, path, 0, 1);
	else
		write_shards(f, folder, n_shards);
}
