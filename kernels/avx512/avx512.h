/*
 * The set for AVX-512 F, BW, DQ, VL with FMA. Sums run in f32 in an order that is fixed by the
 * sizes of the row alone.
 */
#pragma once

#include "kernels/kernels.h"

void kernels_avx512(struct kernels *k);

void avx512_matmul(float *y, size_t y_stride, const struct mat_bf16 *w, const float *x,
	size_t x_stride, size_t n, size_t block0, size_t block1);
void avx512_act_round(struct act_group *ret, size_t ret_stride, const float *x, size_t x_stride,
	size_t n, uint32_t cols);
void avx512_matmul_int(float *y, size_t y_stride, const struct mat_int *w,
	const struct act_group *x, size_t x_stride, size_t n, size_t block0, size_t block1);
void avx512_qmat_dot(float *z, size_t z_stride, const struct qmat *m, const float *x,
	size_t x_stride, size_t n, size_t row0, size_t row1);
void avx512_qmat_dot_int(float *z, size_t z_stride, const struct qmat *m, const struct act_group *x,
	size_t x_stride, size_t n, size_t row0, size_t row1);
void avx512_qmat_accumulate(float *y, size_t y_stride, const struct qmat *m, const float *z,
	size_t z_stride, size_t n, size_t group0, size_t group1);
void avx512_qmat_accumulate_int(float *y, size_t y_stride, const struct qmat *m, const float *z,
	size_t z_stride, size_t n, size_t group0, size_t group1);
void avx512_dropmat_dot(float *y, size_t y_stride, const struct dropmat *m, const float *x,
	size_t x_stride, size_t n, size_t row0, size_t row1);
void avx512_dropmat_dot_int(float *y, size_t y_stride, const struct dropmat *m,
	const struct act_group *x, size_t x_stride, size_t n, size_t row0, size_t row1);
void avx512_rms_norm(float *y, const float *x, const float *w, size_t n, float eps);
void avx512_rope(float *x, const float *cosines, const float *sines, size_t n);
void avx512_silu_mul(float *y, const float *gate, const float *up, size_t n);
void avx512_add(float *y, const float *x, size_t n);
void avx512_kv_store(void *ret, const float *x, size_t n, enum kv_type type);
void avx512_attend(
	const struct attend_sums *ret, const struct attend_call *call, size_t part, void *scratch);
