/*
 * What a core can do at most: read memory in streams, as a product reads its weights, and multiply
 * and add in registers, by each instruction that the kernels use. (Tiles: bench/tiles.h.)
 */
#pragma once

#ifdef __x86_64__

#include <immintrin.h>
#include <stdint.h>

#define CEILING_ROUNDS 200000
#define CEILING_CHAINS 12 /* latency times ports, and some */
/* Instructions of one call of what follows, each on all of its lanes. */
#define CEILING_STEPS ((double)CEILING_ROUNDS * CEILING_CHAINS)

/* What is stored there is wanted, the compiler must believe. */
static inline void ceiling_keep(const void *at)
{
	__asm__ volatile("" : : "r"(at) : "memory");
}

/* In four streams. `at` is aligned to 32 bytes, n_bytes a multiple of 256; sink has 32 floats. */
__attribute__((target("avx2"))) static inline void ceiling_read(
	const uint8_t *at, size_t n_bytes, float *sink)
{
	const size_t n = n_bytes / 4;
	__m256i sums[4] = {0};

	for (size_t i = 0; i < n; i += 64) {
		for (size_t s = 0; s < 4; s++) {
			const __m256i *line = (const __m256i *)(const void *)(at + s * n + i);

			_mm_prefetch((const char *)line + 3072, _MM_HINT_T0);
			sums[s] = _mm256_xor_si256(sums[s], _mm256_load_si256(line));
			sums[s] = _mm256_xor_si256(sums[s], _mm256_load_si256(line + 1));
		}
	}
	for (size_t s = 0; s < 4; s++)
		_mm256_storeu_ps(sink + 8 * s, _mm256_castsi256_ps(sums[s]));
	ceiling_keep(sink);
}

/* 2 x 8 operations a step; `data` has 16 * CEILING_CHAINS floats, and so below. */
__attribute__((target("avx2,fma"))) static inline void ceiling_fma_avx2(float *data)
{
	__m256 sums[CEILING_CHAINS], factor = _mm256_set1_ps(data[0]);

	for (int i = 0; i < CEILING_CHAINS; i++)
		sums[i] = _mm256_set1_ps((float)i);
	for (int round = 0; round < CEILING_ROUNDS; round++)
#pragma GCC unroll 12
		for (int i = 0; i < CEILING_CHAINS; i++)
			sums[i] = _mm256_fmadd_ps(sums[i], factor, factor);
	for (int i = 0; i < CEILING_CHAINS; i++)
		_mm256_storeu_ps(data + 8 * i, sums[i]);
	ceiling_keep(data);
}

/* 2 x 16 operations a step. */
__attribute__((target("avx512f"))) static inline void ceiling_fma_avx512(float *data)
{
	__m512 sums[CEILING_CHAINS], factor = _mm512_set1_ps(data[0]);

	for (int i = 0; i < CEILING_CHAINS; i++)
		sums[i] = _mm512_set1_ps((float)i);
	for (int round = 0; round < CEILING_ROUNDS; round++)
#pragma GCC unroll 12
		for (int i = 0; i < CEILING_CHAINS; i++)
			sums[i] = _mm512_fmadd_ps(sums[i], factor, factor);
	for (int i = 0; i < CEILING_CHAINS; i++)
		_mm512_storeu_ps(data + 16 * i, sums[i]);
	ceiling_keep(data);
}

/* 2 x 32 operations a step. */
__attribute__((target("avx512f,avx512bf16"))) static inline void ceiling_dot_bf16(float *data)
{
	__m512 sums[CEILING_CHAINS];
	__m512bh factor = (__m512bh)_mm512_set1_epi32((int)data[0]);

	for (int i = 0; i < CEILING_CHAINS; i++)
		sums[i] = _mm512_set1_ps((float)i);
	for (int round = 0; round < CEILING_ROUNDS; round++)
#pragma GCC unroll 12
		for (int i = 0; i < CEILING_CHAINS; i++)
			sums[i] = _mm512_dpbf16_ps(sums[i], factor, factor);
	for (int i = 0; i < CEILING_CHAINS; i++)
		_mm512_storeu_ps(data + 16 * i, sums[i]);
	ceiling_keep(data);
}

/* 2 x 64 operations a step. */
__attribute__((target("avx512f,avx512vnni"))) static inline void ceiling_dot_int8(float *data)
{
	__m512i sums[CEILING_CHAINS], factor = _mm512_set1_epi32((int)data[0]);

	for (int i = 0; i < CEILING_CHAINS; i++)
		sums[i] = _mm512_set1_epi32(i);
	for (int round = 0; round < CEILING_ROUNDS; round++)
#pragma GCC unroll 12
		for (int i = 0; i < CEILING_CHAINS; i++)
			sums[i] = _mm512_dpbusd_epi32(sums[i], factor, factor);
	for (int i = 0; i < CEILING_CHAINS; i++)
		_mm512_storeu_ps(data + 16 * i, _mm512_castsi512_ps(sums[i]));
	ceiling_keep(data);
}

#endif
