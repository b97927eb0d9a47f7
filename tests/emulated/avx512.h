/*
 * The intrinsics of AVX-512 that SIMDe lacks, and those of which it has less than the hardware
 * does: aligned accesses that fault when they are not, the size of a negative zero, the scaling of
 * numbers below 2^-126 and to them. Lanes that a mask leaves out touch no memory, and a gather
 * touches its lanes alone.
 */
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define emulated_ static inline __attribute__((__always_inline__))

union zmm {
	__m512 ps;
	__m512i si;
	__m256 ps256[2];
	__m256i si256[2];
	float f32[16];
	int32_t i32[16];
	uint32_t u32[16];
	int8_t i8[64];
};

/* An aligned access. */

emulated_ void emulated_check_aligned(const void *at)
{
	if ((uintptr_t)at % sizeof(union zmm) != 0)
		__builtin_trap();
}

emulated_ __m512 emulated_load_ps(const void *from)
{
	emulated_check_aligned(from);
	return simde_mm512_loadu_ps(from);
}
#undef _mm512_load_ps
#define _mm512_load_ps emulated_load_ps

emulated_ __m512i emulated_load_si512(const void *from)
{
	emulated_check_aligned(from);
	return simde_mm512_loadu_si512(from);
}
#undef _mm512_load_si512
#define _mm512_load_si512 emulated_load_si512

emulated_ void emulated_store_ps(void *to, __m512 a)
{
	emulated_check_aligned(to);
	simde_mm512_storeu_ps(to, a);
}
#undef _mm512_store_ps
#define _mm512_store_ps emulated_store_ps

emulated_ void emulated_store_si512(void *to, __m512i a)
{
	emulated_check_aligned(to);
	simde_mm512_storeu_si512(to, a);
}
#undef _mm512_store_si512
#define _mm512_store_si512 emulated_store_si512

/* A masked access to `n` numbers. */

emulated_ void emulated_masked_copy(
	void *to, const void *from, uint64_t mask, size_t n, size_t size)
{
	for (size_t i = 0; i < n; i++)
		if (mask >> i & 1)
			memcpy((char *)to + i * size, (const char *)from + i * size, size);
}

emulated_ __m512 emulated_maskz_loadu_ps(__mmask16 mask, const void *from)
{
	union zmm r = {.ps = simde_mm512_setzero_ps()};

	emulated_masked_copy(&r, from, mask, 16, sizeof(float));
	return r.ps;
}
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps

emulated_ __m512i emulated_maskz_loadu_epi32(__mmask16 mask, const void *from)
{
	union zmm r = {.si = simde_mm512_setzero_si512()};

	emulated_masked_copy(&r, from, mask, 16, sizeof(int32_t));
	return r.si;
}
#undef _mm512_maskz_loadu_epi32
#define _mm512_maskz_loadu_epi32 emulated_maskz_loadu_epi32

emulated_ __m512i emulated_mask_loadu_epi8(__m512i other, __mmask64 mask, const void *from)
{
	union zmm r = {.si = other};

	emulated_masked_copy(&r, from, mask, 64, 1);
	return r.si;
}
#undef _mm512_mask_loadu_epi8
#define _mm512_mask_loadu_epi8 emulated_mask_loadu_epi8
#undef _mm512_maskz_loadu_epi8
#define _mm512_maskz_loadu_epi8(mask, from)                                                        \
	emulated_mask_loadu_epi8(simde_mm512_setzero_si512(), mask, from)

emulated_ __m256i emulated_maskz_loadu_epi16(__mmask16 mask, const void *from)
{
	__m256i r = _mm256_setzero_si256();

	emulated_masked_copy(&r, from, mask, 16, sizeof(int16_t));
	return r;
}
#undef _mm256_maskz_loadu_epi16
#define _mm256_maskz_loadu_epi16 emulated_maskz_loadu_epi16

emulated_ __m128i emulated_mm_maskz_loadu_epi8(__mmask16 mask, const void *from)
{
	__m128i r = _mm_setzero_si128();

	emulated_masked_copy(&r, from, mask, 16, 1);
	return r;
}
#undef _mm_maskz_loadu_epi8
#define _mm_maskz_loadu_epi8 emulated_mm_maskz_loadu_epi8

emulated_ void emulated_mask_storeu_ps(void *to, __mmask16 mask, __m512 a)
{
	emulated_masked_copy(to, &a, mask, 16, sizeof(float));
}
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps

emulated_ void emulated_mm_mask_storeu_ps(void *to, __mmask8 mask, __m128 a)
{
	emulated_masked_copy(to, &a, mask, 4, sizeof(float));
}
#undef _mm_mask_storeu_ps
#define _mm_mask_storeu_ps emulated_mm_mask_storeu_ps

emulated_ void emulated_mm_mask_storeu_epi8(void *to, __mmask16 mask, __m128i a)
{
	emulated_masked_copy(to, &a, mask, 16, 1);
}
#undef _mm_mask_storeu_epi8
#define _mm_mask_storeu_epi8 emulated_mm_mask_storeu_epi8

emulated_ void emulated_mask_cvtepi32_storeu_epi16(void *to, __mmask16 mask, __m512i a)
{
	union zmm v = {.si = a};
	int16_t low[16];

	for (size_t i = 0; i < 16; i++)
		low[i] = (int16_t)v.i32[i];
	emulated_masked_copy(to, low, mask, 16, sizeof(*low));
}
#undef _mm512_mask_cvtepi32_storeu_epi16
#define _mm512_mask_cvtepi32_storeu_epi16 emulated_mask_cvtepi32_storeu_epi16

emulated_ __m512i emulated_i32gather_epi32(__m512i index, const void *base, int scale)
{
	union zmm v = {.si = index};

	for (size_t i = 0; i < 16; i++)
		memcpy(&v.i32[i], (const char *)base + (ptrdiff_t)v.i32[i] * scale, sizeof(*v.i32));
	return v.si;
}
#undef _mm512_i32gather_epi32
#define _mm512_i32gather_epi32 emulated_i32gather_epi32
#undef _mm512_i32gather_ps
#define _mm512_i32gather_ps(index, base, scale)                                                    \
	simde_mm512_castsi512_ps(emulated_i32gather_epi32(index, base, scale))

/* From one type to another. */

emulated_ __m512 emulated_cvtepi32_ps(__m512i a)
{
	union zmm v = {.si = a};

	v.ps256[0] = _mm256_cvtepi32_ps(v.si256[0]);
	v.ps256[1] = _mm256_cvtepi32_ps(v.si256[1]);
	return v.ps;
}
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps

emulated_ __m512i emulated_cvtps_epi32(__m512 a)
{
	union zmm v = {.ps = a};

	v.si256[0] = _mm256_cvtps_epi32(v.ps256[0]);
	v.si256[1] = _mm256_cvtps_epi32(v.ps256[1]);
	return v.si;
}
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32 emulated_cvtps_epi32

emulated_ __m128i emulated_cvtepi32_epi8(__m512i a)
{
	union zmm v = {.si = a};
	int8_t low[16];

	for (size_t i = 0; i < 16; i++)
		low[i] = (int8_t)v.i32[i];
	return _mm_loadu_si128((const void *)low);
}
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8 emulated_cvtepi32_epi8

emulated_ __m512i emulated_cvtepi8_epi32(__m128i a)
{
	union zmm v;

	v.si256[0] = _mm256_cvtepi8_epi32(a);
	v.si256[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8));
	return v.si;
}
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32

emulated_ __m512i emulated_cvtepu8_epi32(__m128i a)
{
	union zmm v;

	v.si256[0] = _mm256_cvtepu8_epi32(a);
	v.si256[1] = _mm256_cvtepu8_epi32(_mm_srli_si128(a, 8));
	return v.si;
}
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32 emulated_cvtepu8_epi32

emulated_ __m512i emulated_cvtepu16_epi32(__m256i a)
{
	union zmm v;

	v.si256[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(a));
	v.si256[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1));
	return v.si;
}
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32

emulated_ __m512 emulated_cvtph_ps(__m256i a)
{
	union zmm v;

	v.ps256[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(a));
	v.ps256[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1));
	return v.ps;
}
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps emulated_cvtph_ps

/* To nearest even whatever the thread's rules are; numbers below 2^-126 are 0, a NaN is quiet. */
emulated_ uint16_t emulated_bf16(uint32_t bits)
{
	const uint32_t magnitude = bits & 0x7fffffff;

	if (magnitude > 0x7f800000)
		return (uint16_t)(bits >> 16 | 0x40);
	if (magnitude < 0x00800000)
		return (uint16_t)(bits >> 16 & 0x8000);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Its type differs between compilers, which all cast it to this one. */
emulated_ __m256i emulated_cvtneps_pbh(__m512 a)
{
	union zmm v = {.ps = a};
	uint16_t r[16];

	for (size_t i = 0; i < 16; i++)
		r[i] = emulated_bf16(v.u32[i]);
	return _mm256_loadu_si256((const void *)r);
}
#undef _mm512_cvtneps_pbh
#define _mm512_cvtneps_pbh emulated_cvtneps_pbh

/* Parts and sums of a vector. */

/* SIMDe has it, under its own name alone. */
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4 simde_mm512_shuffle_f32x4

emulated_ __m256 emulated_extractf32x8_ps(__m512 a, int half)
{
	union zmm v = {.ps = a};

	return v.ps256[half];
}
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps emulated_extractf32x8_ps

emulated_ int emulated_reduce_add_epi32(__m512i a)
{
	union zmm v = {.si = a};
	uint32_t sum = 0;

	for (size_t i = 0; i < 16; i++)
		sum += v.u32[i];
	return (int)sum;
}
#undef _mm512_reduce_add_epi32
#define _mm512_reduce_add_epi32 emulated_reduce_add_epi32

emulated_ unsigned int emulated_reduce_max_epu32(__m512i a)
{
	union zmm v = {.si = a};
	uint32_t max = 0;

	for (size_t i = 0; i < 16; i++)
		max = v.u32[i] > max ? v.u32[i] : max;
	return max;
}
#undef _mm512_reduce_max_epu32
#define _mm512_reduce_max_epu32 emulated_reduce_max_epu32

/* These are no instructions: compilers take pairs of lanes 8 apart, then 4, 2, 1, the later one
 * first. */
emulated_ float emulated_reduce_add_ps(__m512 a)
{
	union zmm v = {.ps = a};

	for (size_t n = 8; n > 0; n /= 2)
		for (size_t i = 0; i < n; i++)
			v.f32[i] = v.f32[i + n] + v.f32[i];
	return v.f32[0];
}
#undef _mm512_reduce_add_ps
#define _mm512_reduce_add_ps emulated_reduce_add_ps

emulated_ float emulated_reduce_max_ps(__m512 a)
{
	union zmm v = {.ps = a};

	for (size_t n = 8; n > 0; n /= 2)
		for (size_t i = 0; i < n; i++)
			v.f32[i] = v.f32[i + n] > v.f32[i] ? v.f32[i + n] : v.f32[i];
	return v.f32[0];
}
#undef _mm512_reduce_max_ps
#define _mm512_reduce_max_ps emulated_reduce_max_ps

/* Arithmetic. */

emulated_ __m512i emulated_srai_epi32(__m512i a, unsigned int bits)
{
	union zmm v = {.si = a};

	v.si256[0] = _mm256_srai_epi32(v.si256[0], (int)bits);
	v.si256[1] = _mm256_srai_epi32(v.si256[1], (int)bits);
	return v.si;
}
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 emulated_srai_epi32

emulated_ __m512 emulated_abs_ps(__m512 a)
{
	return simde_mm512_castsi512_ps(simde_mm512_and_si512(
		simde_mm512_castps_si512(a), simde_mm512_set1_epi32(0x7fffffff)));
}
#undef _mm512_abs_ps
#define _mm512_abs_ps emulated_abs_ps

/* SIMDe widens all to 32 bits, which took a third of the time of a test. */
emulated_ __m256i emulated_dpbusd_half(__m256i sums, __m256i a, __m256i b)
{
	__m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xff)),
		_mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
	__m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));

	return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}

emulated_ __m512i emulated_dpbusd_epi32(__m512i sums, __m512i a, __m512i b)
{
	union zmm r = {.si = sums}, x = {.si = a}, y = {.si = b};

	r.si256[0] = emulated_dpbusd_half(r.si256[0], x.si256[0], y.si256[0]);
	r.si256[1] = emulated_dpbusd_half(r.si256[1], x.si256[1], y.si256[1]);
	return r.si;
}
#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32 emulated_dpbusd_epi32

/* a * 2^b for an integer b, rounded once: in double the product is exact, or so small that it is 0
 * as a float. */
emulated_ __m512 emulated_scalef_ps(__m512 a, __m512 b)
{
	union zmm v = {.ps = a}, power = {.ps = b};

	for (size_t i = 0; i < 16; i++)
		v.f32[i] = (float)(v.f32[i] * exp2(floor(power.f32[i])));
	return v.ps;
}
#undef _mm512_scalef_ps
#define _mm512_scalef_ps emulated_scalef_ps
