/*
 * What the files of this set share: masks, sums, the exponential.
 */
#pragma once

#include <immintrin.h>
#include <stddef.h>

#define always_inline_ inline __attribute__((always_inline))

/* The lanes of a vector that stand before the end of `left` numbers. */
static always_inline_ __m256i lanes_before(size_t left)
{
	return _mm256_cmpgt_epi32(_mm256_set1_epi32(left < 8 ? (int)left : 8),
		_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The lanes of vector `i` of an array of `n` numbers. */
static always_inline_ __m256i lanes_of_vector(size_t i, size_t n)
{
	return lanes_before(n > i * 8 ? n - i * 8 : 0);
}

/* Numbers of 16 bits, by an instruction of its own: left alone gcc adds into another register and
 * moves that back, and the sums of a tile no longer fit. */
static always_inline_ void lanes_add_words(__m256i *sums, __m256i words)
{
	__asm__("vpaddw %1, %0, %0" : "+x"(*sums) : "x"(words));
}

/* 16 lanes are added in pairs 8 apart, then 4, 2, 1. */
static always_inline_ float lanes_sum(__m256 low, __m256 high)
{
	__m256 eight = _mm256_add_ps(low, high);
	__m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
	__m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

	return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* 2^n for whole n in [-126, 127]. */
static always_inline_ __m256 lanes_power_of_two(__m256i n)
{
	return _mm256_castsi256_ps(
		_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/*
 * e^x with a relative error below 2e-7 where the result is a normal number; 0 and infinity beyond.
 * A NaN stays one: of two operands the instructions for the larger and the smaller take the second.
 * x = n ln 2 + r with |r| <= ln 2 / 2, where the Taylor polynomial of degree 7 is off by 6e-9.
 */
static always_inline_ __m256 lanes_exp(__m256 x)
{
	/* The upper part of ln 2 has 9 bits, so that n times it is exact. */
	const __m256 log2_e = _mm256_set1_ps(0x1.715476p+0f);
	const __m256 ln2_upper = _mm256_set1_ps(0x1.63p-1f);
	const __m256 ln2_lower = _mm256_set1_ps(-0x1.bd0106p-13f);
	__m256 n, r, p;
	__m256i whole, half;

	x = _mm256_min_ps(_mm256_set1_ps(150), _mm256_max_ps(_mm256_set1_ps(-150), x));
	n = _mm256_round_ps(
		_mm256_mul_ps(x, log2_e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	r = _mm256_fnmadd_ps(n, ln2_upper, x);
	r = _mm256_fnmadd_ps(n, ln2_lower, r);
	p = _mm256_set1_ps(1.0f / 5040);
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
	/* In two factors, because 2^n alone may be out of range where the result is not. */
	whole = _mm256_cvtps_epi32(n);
	half = _mm256_srai_epi32(whole, 1);
	p = _mm256_mul_ps(p, lanes_power_of_two(half));
	return _mm256_mul_ps(p, lanes_power_of_two(_mm256_sub_epi32(whole, half)));
}
