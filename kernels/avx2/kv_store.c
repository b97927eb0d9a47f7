/*
 * How rows of keys and values are stored.
 */
#include "kernels/avx2/avx2.h"

#include "kernels/avx2/lanes.h"
#include "kernels/convert.h"

#include <math.h>
#include <string.h>

/* The eight halves, as dwords. */
static __m256i bf16_round(__m256i bits)
{
	__m256i upper = _mm256_srli_epi32(bits, 16);
	__m256i bias = _mm256_add_epi32(
		_mm256_and_si256(upper, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
	__m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
	__m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
	__m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));

	return _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), nan);
}

static void bf16_store(uint16_t *ret, const float *x, size_t n)
{
	size_t i = 0;

	for (; i + 8 <= n; i += 8) {
		__m256i dwords = bf16_round(_mm256_loadu_si256((const __m256i *)(x + i)));
		__m128i words = _mm_packus_epi32(
			_mm256_castsi256_si128(dwords), _mm256_extracti128_si256(dwords, 1));

		_mm_storeu_si128((__m128i *)(ret + i), words);
	}
	for (; i < n; i++)
		ret[i] = bf16_from_f32(x[i]);
}

/* By their bits, so that a NaN is larger than any number. */
static float largest_of(const float *x, size_t n)
{
	const __m256i size = _mm256_set1_epi32(0x7fffffff);
	__m256i largest = _mm256_setzero_si256();
	uint32_t lanes[8], most = 0;

	for (size_t i = 0; i < n; i += 8) {
		__m256 numbers = _mm256_maskload_ps(x + i, lanes_before(n - i));

		largest = _mm256_max_epu32(
			largest, _mm256_and_si256(_mm256_castps_si256(numbers), size));
	}
	_mm256_storeu_si256((__m256i *)(void *)lanes, largest);
	for (size_t i = 0; i < 8; i++)
		most = lanes[i] > most ? lanes[i] : most;
	return f32_from_bits(most);
}

static void int8_store(char *ret, const float *x, size_t n)
{
	const float largest = largest_of(x, n);
	const bool zero = largest < 0x1p-100f;
	const float scale = zero ? 0 : largest / 127, inverse = zero ? 0 : 127 / largest;
	char *codes = ret + sizeof(scale);
	size_t i = 0;

	memcpy(ret, &scale, sizeof(scale));
	for (; i + 8 <= n; i += 8) {
		__m256i dwords = _mm256_cvtps_epi32(
			_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(inverse)));
		__m128i words = _mm_packs_epi32(
			_mm256_castsi256_si128(dwords), _mm256_extracti128_si256(dwords, 1));

		_mm_storel_epi64((__m128i *)(void *)(codes + i), _mm_packs_epi16(words, words));
	}
	for (; i < n; i++)
		codes[i] = (char)lrintf(x[i] * inverse);
}

void avx2_kv_store(void *ret, const float *x, size_t n, enum kv_type type)
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
