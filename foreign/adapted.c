#include "foreign/adapted.h"

#include "foreign/safetensors_numbers.h"
#include "kernels/convert.h"
#include "store/base.h"

#include <string.h>

static int read_base(struct checkpoint *base, enum tensor_role role, uint32_t layer, size_t n,
	float *ret, struct reason *reason)
{
	_cleanup_(freep) uint16_t *words = NULL;
	int r;

	if (tensor_role_is_vector(role))
		return checkpoint_read_f32(base, role, layer, ret, reason);
	words = malloc((n + 1) * sizeof(*words));
	if (!words)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = checkpoint_read_bf16(base, role, layer, words, NULL, reason);
	for (size_t i = 0; r == 0 && i < n; i++)
		ret[i] = bf16_to_f32(words[i]);
	return r;
}

static int add_factors(const struct adapter_factors *f, float *weights)
{
	_cleanup_(freep) double *sum = malloc(((size_t)f->cols + 1) * sizeof(*sum));

	if (!sum)
		return -ENOMEM;
	for (size_t row = 0; row < f->rows; row++) {
		float *w = weights + row * f->cols;

		memset(sum, 0, f->cols * sizeof(*sum));
		for (uint32_t i = 0; i < f->n; i++) {
			const float *a = f->a + (size_t)i * f->cols;
			double b = (double)f->sigma * (double)f->b[i * (size_t)f->rows + row];

			for (uint32_t c = 0; c < f->cols; c++)
				sum[c] += b * (double)a[c];
		}
		for (uint32_t c = 0; c < f->cols; c++)
			w[c] = (float)((double)w[c] + sum[c]);
	}
	return 0;
}

static int read_changed(struct checkpoint *base, const struct adapter *a, enum tensor_role role,
	uint32_t layer, size_t n, float *ret, struct reason *reason)
{
	_cleanup_(adapter_factors_done) struct adapter_factors factors = {0};
	int r;

	r = read_base(base, role, layer, n, ret, reason);
	if (r == 0)
		r = adapter_read_factors(a, role, layer, &factors, reason);
	if (r < 0 || factors.n == 0)
		return r;
	return add_factors(&factors, ret);
}

/* Finite numbers of a file may make others. */
static int check_values(
	enum tensor_role role, uint32_t layer, const float *values, size_t n, struct reason *reason)
{
	size_t bad = numbers_find_not_finite(values, n);

	if (bad == n)
		return 0;
	return reason_set(reason, -EBADMSG,
		"with the adapter, number %zu of %s of layer %u is %g, expected a finite one", bad,
		tensor_role_name(role), layer, (double)values[bad]);
}

int adapted_read(struct checkpoint *base, const struct adapter *a, enum tensor_role role,
	uint32_t layer, float **ret, size_t *ret_n, struct reason *reason)
{
	_cleanup_(freep) float *values = NULL;
	uint32_t rows, cols;
	size_t n;
	int r;

	if (!model_config_shape(adapter_config(a), role, layer, &rows, &cols))
		return reason_set(reason, -EINVAL, "%s: the model has no %s in layer %u",
			checkpoint_folder(base), tensor_role_name(role), layer);
	r = adapter_read_whole(a, role, layer, &values, reason);
	if (r < 0)
		return r;
	n = (size_t)rows * cols;
	if (!values) {
		values = malloc((n + 1) * sizeof(*values));
		if (!values)
			return reason_set(reason, -ENOMEM, "out of memory");
		r = read_changed(base, a, role, layer, n, values, reason);
	}
	if (r == 0)
		r = check_values(role, layer, values, n, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(values);
	*ret_n = n;
	return 0;
}
