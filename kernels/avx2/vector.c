#include "kernels/avx2/avx2.h"

#include "kernels/avx2/lanes.h"

#include <math.h>

#define UNROLL 4

void avx2_rms_norm(float *y, const float *x, const float *w, size_t n, float eps)
{
	const size_t n_vectors = (n + 7) / 8;
	__m256 squares[UNROLL] = {0}, factor;
	double mean;

	if (n == 0)
		return;
	for (size_t i = 0; i < n_vectors; i += UNROLL) {
#pragma GCC unroll 4
		for (size_t k = 0; k < UNROLL; k++) {
			__m256 v = _mm256_maskload_ps(x + (i + k) * 8, lanes_of_vector(i + k, n));

			squares[k] = _mm256_fmadd_ps(v, v, squares[k]);
		}
	}
	mean = (double)lanes_sum(_mm256_add_ps(squares[0], squares[1]),
		       _mm256_add_ps(squares[2], squares[3])) /
	       (double)n;
	factor = _mm256_set1_ps((float)(1 / sqrt(mean + eps)));
	for (size_t i = 0; i < n_vectors; i++) {
		__m256i lanes = lanes_of_vector(i, n);
		__m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i * 8, lanes), factor);

		_mm256_maskstore_ps(
			y + i * 8, lanes, _mm256_mul_ps(v, _mm256_maskload_ps(w + i * 8, lanes)));
	}
}

void avx2_rope(float *x, const float *cosines, const float *sines, size_t n)
{
	const size_t half = n / 2;

	for (size_t i = 0; i < half; i += 8) {
		__m256i lanes = lanes_before(half - i);
		__m256 a = _mm256_maskload_ps(x + i, lanes);
		__m256 b = _mm256_maskload_ps(x + half + i, lanes);
		__m256 c = _mm256_maskload_ps(cosines + i, lanes);
		__m256 s = _mm256_maskload_ps(sines + i, lanes);

		_mm256_maskstore_ps(x + i, lanes, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
		_mm256_maskstore_ps(
			x + half + i, lanes, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
	}
}

void avx2_silu_mul(float *y, const float *gate, const float *up, size_t n)
{
	const __m256 one = _mm256_set1_ps(1);

	for (size_t i = 0; i < n; i += 8) {
		__m256i lanes = lanes_before(n - i);
		__m256 v = _mm256_maskload_ps(gate + i, lanes);
		__m256 e = lanes_exp(_mm256_sub_ps(_mm256_setzero_ps(), v));
		__m256 silu = _mm256_div_ps(v, _mm256_add_ps(one, e));

		_mm256_maskstore_ps(
			y + i, lanes, _mm256_mul_ps(silu, _mm256_maskload_ps(up + i, lanes)));
	}
}

void avx2_add(float *y, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i += 8) {
		__m256i lanes = lanes_before(n - i);

		_mm256_maskstore_ps(y + i, lanes,
			_mm256_add_ps(_mm256_maskload_ps(y + i, lanes),
				_mm256_maskload_ps(x + i, lanes)));
	}
}
