/*
 * The tile unit in software: what the architecture's manual says of each tile instruction. A use
 * that the hardware would refuse ends the program, saying which.
 */
#pragma once

#include "common/base.h"

void tile_unit_load_config(const void *config);
void tile_unit_release(void);
void tile_unit_zero(unsigned int tile);
void tile_unit_load(unsigned int tile, const void *from, ptrdiff_t stride);
void tile_unit_store(unsigned int tile, void *to, ptrdiff_t stride);
void tile_unit_dot_bf16(unsigned int sums, unsigned int a, unsigned int b);
void tile_unit_dot_int8(
	unsigned int sums, unsigned int a, unsigned int b, bool a_signed, bool b_signed);
