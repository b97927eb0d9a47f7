/*
 * The set for the tile unit (AMX): products with matrices run on tiles, all else is the AVX-512
 * set's. Inside a tile no row meets another, and those with bf16 go one way whatever the number of
 * rows, which keeps a row's result its own. Those with integers are exact up to a chain that is the
 * same on any way, so that few rows go to dot products.
 *
 * Tiles are configured at the start of a product and released at its end. A thread with live tiles
 * has 8 KiB more to save whenever it is switched out, and between products a thread may sleep;
 * configuring takes less than a tenth of a microsecond.
 */
#pragma once

#include "kernels/kernels.h"

void kernels_amx(struct kernels *k);

/* Asks the system for the tile registers, on behalf of the whole process and for good. Negative
 * errno if it refuses; without its leave a tile instruction is a fault. */
int amx_permit(void) _must_check_;

size_t amx_panel_bytes(size_t n, uint32_t cols);
size_t amx_panel_parts(size_t n);
void amx_panel_fill(
	void *panel, const float *x, size_t x_stride, size_t n, uint32_t cols, size_t part);
void amx_matmul_panel(float *y, size_t y_stride, const struct mat_bf16 *w, const void *panel,
	size_t n, size_t block0, size_t block1);
void amx_matmul(float *y, size_t y_stride, const struct mat_bf16 *w, const float *x,
	size_t x_stride, size_t n, size_t block0, size_t block1);
void amx_matmul_int(float *y, size_t y_stride, const struct mat_int *w, const struct act_group *x,
	size_t x_stride, size_t n, size_t block0, size_t block1);
