#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"

#include <math.h>

#define UNROLL 4

void avx512_rms_norm(float *y, const float *x, const float *w, size_t n, float eps)
{
	const size_t n_vectors = (n + 15) / 16;
	__m512 squares[UNROLL] = {0}, factor;
	double mean;

	if (n == 0)
		return;
	for (size_t i = 0; i < n_vectors; i += UNROLL) {
#pragma GCC unroll 4
		for (size_t k = 0; k < UNROLL; k++) {
			__m512 v =
				_mm512_maskz_loadu_ps(lanes_of_vector(i + k, n), x + (i + k) * 16);

			squares[k] = _mm512_fmadd_ps(v, v, squares[k]);
		}
	}
	squares[0] = _mm512_add_ps(squares[0], squares[1]);
	squares[2] = _mm512_add_ps(squares[2], squares[3]);
	mean = (double)lanes_sum(_mm512_add_ps(squares[0], squares[2])) / (double)n;
	factor = _mm512_set1_ps((float)(1 / sqrt(mean + eps)));
	for (size_t i = 0; i < n_vectors; i++) {
		__mmask16 lanes = lanes_of_vector(i, n);
		__m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i * 16), factor);

		_mm512_mask_storeu_ps(y + i * 16, lanes,
			_mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, w + i * 16)));
	}
}

void avx512_rope(float *x, const float *cosines, const float *sines, size_t n)
{
	const size_t half = n / 2;

	for (size_t i = 0; i < half; i += 16) {
		__mmask16 lanes = lanes_before(half - i);
		__m512 a = _mm512_maskz_loadu_ps(lanes, x + i);
		__m512 b = _mm512_maskz_loadu_ps(lanes, x + half + i);
		__m512 c = _mm512_maskz_loadu_ps(lanes, cosines + i);
		__m512 s = _mm512_maskz_loadu_ps(lanes, sines + i);

		_mm512_mask_storeu_ps(x + i, lanes, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
		_mm512_mask_storeu_ps(
			x + half + i, lanes, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
	}
}

void avx512_silu_mul(float *y, const float *gate, const float *up, size_t n)
{
	const __m512 one = _mm512_set1_ps(1);

	for (size_t i = 0; i < n; i += 16) {
		__mmask16 lanes = lanes_before(n - i);
		__m512 v = _mm512_maskz_loadu_ps(lanes, gate + i);
		__m512 e = lanes_exp(_mm512_sub_ps(_mm512_setzero_ps(), v));
		__m512 silu = _mm512_div_ps(v, _mm512_add_ps(one, e));

		_mm512_mask_storeu_ps(
			y + i, lanes, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(lanes, up + i)));
	}
}

void avx512_add(float *y, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i += 16) {
		__mmask16 lanes = lanes_before(n - i);

		_mm512_mask_storeu_ps(y + i, lanes,
			_mm512_add_ps(_mm512_maskz_loadu_ps(lanes, y + i),
				_mm512_maskz_loadu_ps(lanes, x + i)));
	}
}
