/*
 * How rows of keys and values are stored.
 */
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"
#include "kernels/convert.h"

#include <string.h>

static void bf16_store(uint16_t *ret, const float *x, size_t n)
{
	const __m512i one = _mm512_set1_epi32(1), infinity = _mm512_set1_epi32(0x7f800000);

	for (size_t i = 0; i < n; i += 16) {
		__mmask16 lanes = lanes_before(n - i);
		__m512i bits = _mm512_maskz_loadu_epi32(lanes, x + i);
		__m512i upper = _mm512_srli_epi32(bits, 16);
		__m512i bias =
			_mm512_add_epi32(_mm512_and_si512(upper, one), _mm512_set1_epi32(0x7fff));
		__m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
		__m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
		__mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude, infinity);

		rounded = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
		_mm512_mask_cvtepi32_storeu_epi16(ret + i, lanes, rounded);
	}
}

static float largest_of(const float *x, size_t n)
{
	const __m512i size = _mm512_set1_epi32(0x7fffffff);
	__m512i largest = _mm512_setzero_si512();

	/* By their bits, so that a NaN is larger than any number. */
	for (size_t i = 0; i < n; i += 16)
		largest = _mm512_max_epu32(largest,
			_mm512_and_si512(
				_mm512_maskz_loadu_epi32(lanes_before(n - i), x + i), size));
	return f32_from_bits(_mm512_reduce_max_epu32(largest));
}

static void int8_store(char *ret, const float *x, size_t n)
{
	const float largest = largest_of(x, n);
	const bool zero = largest < 0x1p-100f;
	const float scale = zero ? 0 : largest / 127;
	const __m512 inverse = _mm512_set1_ps(zero ? 0 : 127 / largest);

	memcpy(ret, &scale, sizeof(scale));
	for (size_t i = 0; i < n; i += 16) {
		const __mmask16 lanes = lanes_before(n - i);
		__m512i codes = _mm512_cvtps_epi32(
			_mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), inverse));

		_mm_mask_storeu_epi8(ret + sizeof(scale) + i, lanes, _mm512_cvtsepi32_epi8(codes));
	}
}

void avx512_kv_store(void *ret, const float *x, size_t n, enum kv_type type)
{
	switch (type) {
	case KV_TYPE_F32:
		memcpy(ret, x, n * sizeof(*x));
		break;
	case KV_TYPE_BF16:
		bf16_store(ret, x, n);
		break;
	case KV_TYPE_INT8:
		int8_store(ret, x, n);
		break;
	}
}
