/*
 * What the files of this set share: masks, words and bf16 widened, sums over lanes, the
 * exponential.
 */
#pragma once

#include <immintrin.h>
#include <stddef.h>

#define always_inline_ inline __attribute__((always_inline))

/* The lanes of a vector that stand before the end of `left` numbers. */
static always_inline_ __mmask16 lanes_before(size_t left)
{
	return (__mmask16)(left >= 16 ? 0xffff : (1u << left) - 1);
}

/* The lanes of vector `i` of an array of `n` numbers. */
static always_inline_ __mmask16 lanes_of_vector(size_t i, size_t n)
{
	return lanes_before(n > i * 16 ? n - i * 16 : 0);
}

/* 16 words, each in a lane. */
static always_inline_ __m512i lanes_words(const void *at)
{
	return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at));
}

/* 16 numbers of bf16. */
static always_inline_ __m512 lanes_bf16(const void *at)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(lanes_words(at), 16));
}

/* Lanes are added in pairs 8 apart, then 4, 2, 1. */
static always_inline_ float lanes_sum(__m512 v)
{
	__m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
	__m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
	__m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

	return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/*
 * e^x with a relative error below 2e-7 where the result is a normal number; 0 and infinity beyond.
 * A NaN stays one: of two operands the instructions for the larger and the smaller take the second.
 * x = n ln 2 + r with |r| <= ln 2 / 2, where the Taylor polynomial of degree 7 is off by 6e-9.
 */
static always_inline_ __m512 lanes_exp(__m512 x)
{
	/* The upper part of ln 2 has 9 bits, so that n times it is exact. */
	const __m512 log2_e = _mm512_set1_ps(0x1.715476p+0f);
	const __m512 ln2_upper = _mm512_set1_ps(0x1.63p-1f),
		     ln2_lower = _mm512_set1_ps(-0x1.bd0106p-13f);
	__m512 n, r, p;

	x = _mm512_min_ps(_mm512_set1_ps(150), _mm512_max_ps(_mm512_set1_ps(-150), x));
	n = _mm512_roundscale_ps(
		_mm512_mul_ps(x, log2_e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	r = _mm512_fnmadd_ps(n, ln2_upper, x);
	r = _mm512_fnmadd_ps(n, ln2_lower, r);
	p = _mm512_set1_ps(1.0f / 5040);
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
	return _mm512_scalef_ps(p, n);
}
