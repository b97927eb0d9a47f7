#include "tests/adapter_folder.h"

#include "common/random.h"
#include "kernels/convert.h"
#include "tests/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

void adapter_folder_begin(struct model_folder *f, uint32_t rank, double alpha)
{
	*f = (struct model_folder){0};
	f->config = json_pack("{ss ss si sf sb sn sn s[ss] so so}", "peft_type", "LORA",
		"task_type", "CAUSAL_LM", "r", (int)rank, "lora_alpha", alpha, "fan_in_fan_out", 0,
		"modules_to_save", "layers_to_transform", "target_modules", "q_proj", "v_proj",
		"rank_pattern", json_object(), "alpha_pattern", json_object());
	assert_non_null(f->config);
}

/* Each tensor has a stream of its own, by its name. */
static uint64_t seed_of(const char *name)
{
	uint64_t seed = 1;

	for (; *name; name++)
		seed = mix64(seed + (uint8_t)*name);
	return seed;
}

static float rounded(float value, enum safetensors_dtype dtype)
{
	if (dtype == SAFETENSORS_F16)
		return f16_to_f32(f16_from_f32(value));
	return dtype == SAFETENSORS_BF16 ? bf16_to_f32(bf16_from_f32(value)) : value;
}

struct folder_tensor *adapter_folder_add(struct model_folder *f, const char *name,
	enum safetensors_dtype dtype, uint64_t rows, uint64_t cols)
{
	struct folder_tensor t = {.dtype = dtype, .n_dims = cols ? 2 : 1, .shape = {rows, cols}};
	uint64_t n = folder_tensor_count(&t), seed = seed_of(name);
	char full[256];

	t.values = malloc((n + 1) * sizeof(*t.values));
	assert_non_null(t.values);
	for (uint64_t i = 0; i < n; i++)
		t.values[i] = rounded((float)(random_share(random_at(seed, i)) - 0.5) / 4, dtype);
	snprintf(full, sizeof(full), ADAPTER_PREFIX "%s", name);
	model_folder_add(f, full, &t);
	free(t.values);
	return &f->tensors[f->n_tensors - 1];
}

void adapter_folder_adapt(
	struct model_folder *f, const struct adapter_module *m, enum safetensors_dtype dtype)
{
	char name[192];

	snprintf(name, sizeof(name), "%s.lora_A.weight", m->name);
	adapter_folder_add(f, name, dtype, m->rank, m->inputs);
	snprintf(name, sizeof(name), "%s.lora_B.weight", m->name);
	adapter_folder_add(f, name, dtype, m->outputs, m->rank);
}

void adapter_folder_apply(struct model_folder *f, const struct adapter_module *m, double scale,
	uint32_t first, uint32_t rows, double *weights)
{
	const float *a, *b;
	char name[192];

	snprintf(name, sizeof(name), ADAPTER_PREFIX "%s.lora_A.weight", m->name);
	a = model_folder_find(f, name)->values;
	snprintf(name, sizeof(name), ADAPTER_PREFIX "%s.lora_B.weight", m->name);
	b = model_folder_find(f, name)->values + (size_t)first * m->rank;
	for (size_t row = 0; row < rows; row++)
		for (size_t col = 0; col < m->inputs; col++) {
			double sum = 0;

			for (size_t i = 0; i < m->rank; i++)
				sum += (double)b[row * m->rank + i] *
				       (double)a[i * m->inputs + col];
			weights[row * m->inputs + col] += scale * sum;
		}
}

static void rename_file(const char *folder, const char *from, const char *to)
{
	char *old = scratch_path(folder, from), *new = scratch_path(folder, to);

	assert_int_equal(rename(old, new), 0);
	free(old);
	free(new);
}

void adapter_folder_write(struct model_folder *f, const char *folder)
{
	model_folder_write(f, folder, 1);
	rename_file(folder, "config.json", "adapter_config.json");
	rename_file(folder, "model.safetensors", "adapter_model.safetensors");
}
