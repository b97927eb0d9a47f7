#include "foreign/safetensors_numbers.h"

#include "kernels/convert.h"

#include <endian.h>
#include <math.h>

#define CHUNK_NUMBERS 65536u
#define BF16_EXPONENT 0x7f80u

bool safetensors_has_numbers(const struct safetensors_tensor *tensor)
{
	return tensor->dtype == SAFETENSORS_BF16 || tensor->dtype == SAFETENSORS_F16 ||
	       tensor->dtype == SAFETENSORS_F32;
}

static void to_floats(enum safetensors_dtype dtype, const void *raw, float *ret, size_t n)
{
	const uint32_t *words = raw;
	const uint16_t *halves = raw;

	if (dtype == SAFETENSORS_F32)
		for (size_t i = 0; i < n; i++)
			ret[i] = f32_from_bits(le32toh(words[i]));
	else if (dtype == SAFETENSORS_BF16)
		for (size_t i = 0; i < n; i++)
			ret[i] = bf16_to_f32(le16toh(halves[i]));
	else
		for (size_t i = 0; i < n; i++)
			ret[i] = f16_to_f32(le16toh(halves[i]));
}

/* Counted first, which takes no branches. */
size_t numbers_find_not_finite(const float *values, size_t n)
{
	static const float limit = 0x1.ffp127f; /* half a step above the largest bf16 */
	size_t n_bad = 0, i = 0;

	for (size_t k = 0; k < n; k++)
		n_bad += !(fabsf(values[k]) < limit);
	if (n_bad == 0)
		return n;
	while (fabsf(values[i]) < limit)
		i++;
	return i;
}

static int say_not_finite(const struct safetensors_tensor *tensor, uint64_t index, double value,
	struct reason *reason)
{
	return reason_set(reason, -EBADMSG, "tensor '%s': number %llu is %g, expected a finite one",
		tensor->name, (unsigned long long)index, value);
}

int safetensors_read_f32(const struct safetensors *s, const struct safetensors_tensor *tensor,
	uint64_t first, float *ret, size_t n, struct reason *reason)
{
	size_t size = safetensors_dtype_bits(tensor->dtype) / 8;
	_cleanup_(freep) void *raw = malloc(CHUNK_NUMBERS * size);

	if (!raw)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (size_t at = 0; at < n; at += CHUNK_NUMBERS) {
		size_t chunk = min_u64(CHUNK_NUMBERS, n - at), bad;
		int r = safetensors_read(s, tensor, (first + at) * size, raw, chunk * size, reason);

		if (r < 0)
			return r;
		to_floats(tensor->dtype, raw, ret + at, chunk);
		bad = numbers_find_not_finite(ret + at, chunk);
		if (bad < chunk)
			return say_not_finite(
				tensor, first + at + bad, (double)ret[at + bad], reason);
	}
	return 0;
}

uint64_t numbers_to_bf16(uint16_t *ret, const float *values, size_t n)
{
	uint64_t n_inexact = 0;

	for (size_t i = 0; i < n; i++) {
		ret[i] = bf16_from_f32(values[i]);
		n_inexact += bf16_to_f32(ret[i]) != values[i];
	}
	return n_inexact;
}

/* As they are stored: nothing is converted, and nothing lost. */
static int read_stored_bf16(const struct safetensors *s, const struct safetensors_tensor *tensor,
	uint64_t first, uint16_t *ret, size_t n, struct reason *reason)
{
	for (size_t at = 0; at < n; at += CHUNK_NUMBERS) {
		size_t chunk = min_u64(CHUNK_NUMBERS, n - at);
		unsigned int n_bad = 0;
		int r = safetensors_read(s, tensor, (first + at) * sizeof(*ret), ret + at,
			chunk * sizeof(*ret), reason);

		if (r < 0)
			return r;
		for (size_t i = at; i < at + chunk; i++) {
			ret[i] = le16toh(ret[i]);
			n_bad += (ret[i] & BF16_EXPONENT) == BF16_EXPONENT;
		}
		for (size_t i = at; n_bad > 0 && i < at + chunk; i++)
			if ((ret[i] & BF16_EXPONENT) == BF16_EXPONENT)
				return say_not_finite(
					tensor, first + i, (double)bf16_to_f32(ret[i]), reason);
	}
	return 0;
}

int safetensors_read_bf16(const struct safetensors *s, const struct safetensors_tensor *tensor,
	uint64_t first, uint16_t *ret, size_t n, uint64_t *ret_inexact, struct reason *reason)
{
	_cleanup_(freep) float *values = NULL;
	uint64_t n_inexact = 0;

	if (tensor->dtype == SAFETENSORS_BF16) {
		*ret_inexact = 0;
		return read_stored_bf16(s, tensor, first, ret, n, reason);
	}
	values = malloc(CHUNK_NUMBERS * sizeof(*values));
	if (!values)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (size_t at = 0; at < n; at += CHUNK_NUMBERS) {
		size_t chunk = min_u64(CHUNK_NUMBERS, n - at);
		int r = safetensors_read_f32(s, tensor, first + at, values, chunk, reason);

		if (r < 0)
			return r;
		n_inexact += numbers_to_bf16(ret + at, values, chunk);
	}
	*ret_inexact = n_inexact;
	return 0;
}
