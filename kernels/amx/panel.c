#include "kernels/amx/amx.h"
#include "kernels/amx/panel.h"

#include "kernels/avx512/lanes.h"

/* 16 inputs of one row. An infinity is all hi: what is left of it is not a number. */
static always_inline_ void split_store(uint8_t *hi, size_t lo, __m512 x)
{
	__m256i upper = (__m256i)_mm512_cvtneps_pbh(x);
	__m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16);
	__m512 value = _mm512_castsi512_ps(wide);
	__mmask16 finite = _mm512_cmp_ps_mask(
		_mm512_abs_ps(value), _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
	__m512 left = _mm512_maskz_sub_ps(finite, x, value);

	_mm256_storeu_si256((__m256i *)(void *)hi, upper);
	_mm256_storeu_si256((__m256i *)(void *)(hi + lo), (__m256i)_mm512_cvtneps_pbh(left));
}

static void row_fill(uint8_t *ret, const float *x, size_t cols, size_t height)
{
	const size_t lo = panel_lo(height), step = panel_step_bytes(height);

	for (size_t c = 0; c < cols; c += PANEL_STEP, ret += step) {
		__mmask16 first = lanes_before(cols - c);
		__mmask16 second = lanes_before(cols - c > 16 ? cols - c - 16 : 0);

		split_store(ret, lo, _mm512_maskz_loadu_ps(first, x + c));
		split_store(
			ret + PANEL_ROW_BYTES / 2, lo, _mm512_maskz_loadu_ps(second, x + c + 16));
	}
}

static void row_clear(uint8_t *ret, size_t cols, size_t height)
{
	const __m512i zero = _mm512_setzero_si512();

	for (size_t s = 0; s < panel_steps(cols); s++, ret += panel_step_bytes(height)) {
		_mm512_storeu_si512(ret, zero);
		_mm512_storeu_si512(ret + panel_lo(height), zero);
	}
}

void panel_fill_tile(uint8_t *ret, const float *x, size_t x_stride, size_t n, size_t cols,
	size_t row, size_t height)
{
	for (size_t r = 0; r < height; r++, ret += PANEL_ROW_BYTES) {
		if (row + r < n)
			row_fill(ret, x + (row + r) * x_stride, cols, height);
		else
			row_clear(ret, cols, height);
	}
}

size_t amx_panel_bytes(size_t n, uint32_t cols)
{
	return panel_tiles(n) * panel_steps(cols) * panel_step_bytes(PANEL_TILE_ROWS);
}

size_t amx_panel_parts(size_t n)
{
	return panel_tiles(n);
}

void amx_panel_fill(
	void *panel, const float *x, size_t x_stride, size_t n, uint32_t cols, size_t part)
{
	size_t height = panel_height(n);
	size_t tile_bytes = panel_steps(cols) * panel_step_bytes(height);

	panel_fill_tile(
		(uint8_t *)panel + part * tile_bytes, x, x_stride, n, cols, part * height, height);
}
