#include "foreign/adapter.h"

#include "foreign/adapter_config.h"
#include "foreign/checkpoint.h"
#include "foreign/safetensors.h"
#include "foreign/safetensors_numbers.h"
#include "store/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TENSORS_NAME "adapter_model.safetensors"
#define CONFIG_NAME "adapter_config.json"
#define PREFIX "base_model.model."
#define NAME_SIZE 192

struct adapter {
	char *folder;
	struct model_config base;
	struct model_config config;
	struct adapter_config *ranks;
	struct safetensors *tensors;
};

/* What the file has for one role; NULL where it has nothing. */
struct found {
	struct checkpoint_place place;
	char module[NAME_SIZE]; /* as patterns see it */
	const struct safetensors_tensor *a, *b, *whole;
};

struct adapter *adapter_free(struct adapter *a)
{
	if (!a)
		return NULL;
	adapter_config_free(a->ranks);
	safetensors_free(a->tensors);
	free(a->folder);
	free(a);
	return NULL;
}

const struct model_config *adapter_config(const struct adapter *a)
{
	return &a->config;
}

static _printf_(2, 3) const
	struct safetensors_tensor *find(const struct adapter *a, const char *fmt, ...)
{
	char name[NAME_SIZE + 64];
	va_list args;

	va_start(args, fmt);
	vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	return safetensors_find(a->tensors, name);
}

/* False if the model has no such role. */
static bool find_role(
	const struct adapter *a, enum tensor_role role, uint32_t layer, struct found *f)
{
	const char *leaf; /* ".weight" or ".bias" */

	*f = (struct found){0};
	if (!checkpoint_place(&a->base, role, layer, &f->place))
		return false;
	leaf = strrchr(f->place.name, '.');
	memcpy(f->module, f->place.name, (size_t)(leaf - f->place.name));
	f->whole = find(a, PREFIX "%s", f->place.name);
	if (!f->whole)
		f->whole = find(a, PREFIX "%s.base_layer%s", f->module, leaf);
	if (tensor_role_is_vector(role) || role == ROLE_EMBED)
		return true;
	f->a = find(a, PREFIX "%s.lora_A.weight", f->module);
	f->b = find(a, PREFIX "%s.lora_B.weight", f->module);
	return true;
}

static int expect_shape(
	const struct safetensors_tensor *t, uint64_t rows, uint64_t cols, struct reason *reason)
{
	char shape[192];

	if (!safetensors_has_numbers(t))
		return reason_set(reason, -EOPNOTSUPP,
			"tensor '%s': dtype %s is not implemented (BF16, F16 and F32 are)", t->name,
			safetensors_dtype_name(t->dtype));
	if (t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == cols)
		return 0;
	return reason_set(reason, -EMEDIUMTYPE,
		"tensor '%s': shape %s, expected [%llu, %llu] for this base and rank", t->name,
		safetensors_shape_text(t, shape), (unsigned long long)rows,
		(unsigned long long)cols);
}

static int check_factors(const struct adapter *a, const struct found *f, struct reason *reason)
{
	uint32_t rank;
	double scale;
	int r;

	if (!f->a != !f->b)
		return reason_set(
			reason, -EBADMSG, "tensor '%s' has no partner", (f->a ? f->a : f->b)->name);
	if (!f->a)
		return 0;
	r = adapter_config_module(a->ranks, f->module, &rank, &scale, reason);
	if (r == 0)
		r = expect_shape(f->a, rank, f->place.cols, reason);
	if (r == 0)
		r = expect_shape(f->b, f->place.tensor_rows, rank, reason);
	if (r == 0 && rank > min_u64(f->place.rows, f->place.cols))
		return reason_set(reason, -EOPNOTSUPP,
			"tensor '%s': rank %u for a matrix of %u x %u is not implemented",
			f->a->name, rank, f->place.rows, f->place.cols);
	if (r == 0 && f->whole)
		return reason_set(reason, -EOPNOTSUPP,
			"'%s' is both replaced and adapted, which is not implemented", f->module);
	return r;
}

static bool is_outer(enum tensor_role role)
{
	return role == ROLE_EMBED || role == ROLE_HEAD;
}

/* Embedding and head may have more rows: added tokens. */
static int check_whole(const struct adapter *a, enum tensor_role role, const struct found *f,
	struct reason *reason)
{
	const struct safetensors_tensor *t = f->whole;
	bool vector = tensor_role_is_vector(role);
	uint64_t rows;
	char shape[192];

	if (!t)
		return 0;
	rows = is_outer(role) && t->n_dims == 2 ? t->shape[0] : f->place.tensor_rows;
	if (!vector) {
		if (rows < a->base.vocab && is_outer(role))
			return reason_set(reason, -EMEDIUMTYPE,
				"tensor '%s' has %llu rows, expected the base's %u or more",
				t->name, (unsigned long long)rows, a->base.vocab);
		if (rows > UINT32_MAX)
			return reason_set(reason, -EOPNOTSUPP, "tensor '%s' has %llu rows", t->name,
				(unsigned long long)rows);
		return expect_shape(t, rows, f->place.cols, reason);
	}
	if (t->n_dims == 1 && t->shape[0] == rows && safetensors_has_numbers(t))
		return 0;
	return reason_set(reason, -EMEDIUMTYPE,
		"tensor '%s': %s of shape %s, expected numbers of shape [%llu]", t->name,
		safetensors_dtype_name(t->dtype), safetensors_shape_text(t, shape),
		(unsigned long long)rows);
}

static void mark(const struct adapter *a, const struct safetensors_tensor *t, bool *used)
{
	if (t)
		used[t - safetensors_at(a->tensors, 0)] = true;
}

static int check_role(const struct adapter *a, enum tensor_role role, uint32_t layer, bool *used,
	struct reason *reason)
{
	struct found f;
	int r;

	if (!find_role(a, role, layer, &f))
		return 0;
	r = check_factors(a, &f, reason);
	if (r == 0)
		r = check_whole(a, role, &f, reason);
	if (r < 0)
		return r;
	mark(a, f.a, used);
	mark(a, f.b, used);
	mark(a, f.whole, used);
	return 0;
}

static int check_unused(const struct adapter *a, const bool *used, struct reason *reason)
{
	for (size_t i = 0; i < safetensors_n_tensors(a->tensors); i++) {
		const char *name = safetensors_at(a->tensors, i)->name;

		if (used[i])
			continue;
		if (strstr(name, ".lora_embedding_"))
			return reason_set(reason, -EOPNOTSUPP,
				"tensor '%.128s': adapters of the embedding are not implemented",
				name);
		if (strstr(name, ".lora_magnitude_vector"))
			return reason_set(reason, -EOPNOTSUPP,
				"tensor '%.128s': DoRA is not implemented", name);
		return reason_set(reason, -EOPNOTSUPP,
			"tensor '%.128s' belongs to no module of the base", name);
	}
	return 0;
}

/* A tied head cannot be replaced alone, nor the embedding without it; the number of added tokens
 * must be the same in both. */
static int check_outer(struct adapter *a, struct reason *reason)
{
	uint32_t last = a->base.n_layers - 1;
	uint64_t embed_rows = a->base.vocab, head_rows = a->base.vocab;
	struct found embed, head;

	(void)find_role(a, ROLE_EMBED, 0, &embed);
	if (embed.whole && (a->base.flags & MODEL_TIED_HEAD))
		return reason_set(reason, -EOPNOTSUPP,
			"tensor '%s': a replaced embedding where the head is tied to it is not "
			"implemented",
			embed.whole->name);
	if (embed.whole)
		embed_rows = embed.whole->shape[0];
	if (find_role(a, ROLE_HEAD, last, &head) && head.whole)
		head_rows = head.whole->shape[0];
	if (embed_rows != head_rows && !(a->base.flags & MODEL_TIED_HEAD))
		return reason_set(reason, -EOPNOTSUPP,
			"the embedding has %llu rows and the head %llu, expected the same",
			(unsigned long long)embed_rows, (unsigned long long)head_rows);
	a->config.vocab = (uint32_t)embed_rows;
	return 0;
}

static int check_tensors(struct adapter *a, struct reason *reason)
{
	_cleanup_(freep) bool *used = calloc(safetensors_n_tensors(a->tensors) + 1, sizeof(*used));
	int r = 0;

	if (!used)
		return -ENOMEM;
	for (uint32_t layer = 0; layer < a->base.n_layers; layer++)
		for (uint32_t role = 0; r == 0 && role < N_ROLES; role++)
			r = check_role(a, (enum tensor_role)role, layer, used, reason);
	if (r == 0)
		r = check_unused(a, used, reason);
	if (r == 0)
		r = check_outer(a, reason);
	return r;
}

int adapter_open(const char *folder, const struct model_config *base, struct adapter **ret,
	struct reason *reason)
{
	_cleanup_(adapterp) struct adapter *a = calloc(1, sizeof(*a));
	_cleanup_(freep) char *path = NULL;
	int r;

	if (!a)
		return -ENOMEM;
	a->base = a->config = *base;
	a->folder = strdup(folder);
	if (!a->folder || asprintf(&path, "%s/%s", folder, TENSORS_NAME) < 0)
		return -ENOMEM;
	r = adapter_config_load(folder, &a->ranks, reason);
	if (r == 0)
		r = safetensors_open(path, &a->tensors, reason);
	if (r == 0)
		r = check_tensors(a, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", folder);
	*ret = take_ptr(a);
	return 0;
}

void adapter_factors_done(struct adapter_factors *f)
{
	free(f->a);
	free(f->b);
	*f = (struct adapter_factors){0};
}

/* Rows [first, first + rows) of B, transposed. */
static int read_b(const struct adapter *a, const struct found *f, uint32_t n, float *ret,
	struct reason *reason)
{
	size_t rows = f->place.rows;
	_cleanup_(freep) float *b = malloc((rows * n + 1) * sizeof(*b));
	int r;

	if (!b)
		return -ENOMEM;
	r = safetensors_read_f32(
		a->tensors, f->b, (uint64_t)f->place.first_row * n, b, rows * n, reason);
	for (size_t row = 0; r == 0 && row < rows; row++)
		for (uint32_t i = 0; i < n; i++)
			ret[i * rows + row] = b[row * n + i];
	return r;
}

int adapter_read_factors(const struct adapter *a, enum tensor_role role, uint32_t layer,
	struct adapter_factors *ret, struct reason *reason)
{
	_cleanup_(adapter_factors_done) struct adapter_factors factors = {0};
	struct found f;
	double scale;
	int r;

	*ret = factors;
	if (!find_role(a, role, layer, &f) || !f.a)
		return 0;
	r = adapter_config_module(a->ranks, f.module, &factors.n, &scale, reason);
	if (r < 0)
		return r;
	factors.rows = f.place.rows;
	factors.cols = f.place.cols;
	factors.sigma = (float)scale;
	factors.a = malloc(((size_t)factors.n * factors.cols + 1) * sizeof(float));
	factors.b = malloc(((size_t)factors.n * factors.rows + 1) * sizeof(float));
	if (!factors.a || !factors.b)
		return -ENOMEM;
	r = safetensors_read_f32(
		a->tensors, f.a, 0, factors.a, (size_t)factors.n * factors.cols, reason);
	if (r == 0)
		r = read_b(a, &f, factors.n, factors.b, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", a->folder);
	*ret = factors;
	factors = (struct adapter_factors){0};
	return 0;
}

int adapter_read_whole(const struct adapter *a, enum tensor_role role, uint32_t layer, float **ret,
	struct reason *reason)
{
	_cleanup_(freep) float *values = NULL;
	struct found f;
	uint32_t rows;
	size_t n;
	int r;

	*ret = NULL;
	if (!find_role(a, role, layer, &f) || !f.whole)
		return 0;
	rows = is_outer(role) ? (uint32_t)f.whole->shape[0] : f.place.rows;
	n = (size_t)rows * f.place.cols;
	values = malloc((n + 1) * sizeof(*values));
	if (!values)
		return -ENOMEM;
	r = safetensors_read_f32(
		a->tensors, f.whole, (uint64_t)f.place.first_row * f.place.cols, values, n, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", a->folder);
	*ret = take_ptr(values);
	return 0;
}
