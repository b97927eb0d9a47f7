#include "foreign/safetensors_numbers.h"

#include "kernels/convert.h"

#include <endian.h>
#include <math.h>

#define CHUNK_NUMBERS 16384u

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

/* Index of the first number that is infinite, or would be in bf16, or is none; n if there is none.
 */
static size_t find_not_finite(const float *values, size_t n)
{
	static const float limit = 0x1.ffp127f; /* half a step above the largest bf16 */
	size_t i = 0;

	while (i < n && fabsf(values[i]) < limit)
		i++;
	return i;
}

int safetensors_read_f32(const struct safetensors *s, const struct safetensors_tensor *tensor,
	uint64_t first, float *ret, size_t n, struct reason *reason)
{
	size_t size = safetensors_dtype_bits(tensor->dtype) / 8, bad;
	_cleanup_(freep) void *raw = malloc(CHUNK_NUMBERS * size);
	int r;

	if (!raw)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (size_t at = 0; at < n; at += CHUNK_NUMBERS) {
		size_t chunk = min_u64(CHUNK_NUMBERS, n - at);

		r = safetensors_read(s, tensor, (first + at) * size, raw, chunk * size, reason);
		if (r < 0)
			return r;
		to_floats(tensor->dtype, raw, ret + at, chunk);
	}
	bad = find_not_finite(ret, n);
	if (bad < n)
		return reason_set(reason, -EBADMSG,
			"tensor '%s': number %llu is %g, expected a finite one", tensor->name,
			(unsigned long long)(first + bad), (double)ret[bad]);
	return 0;
}
