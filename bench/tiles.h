/*
 * What the tile unit can do: multiplications and additions a second on one core, from registers
 * alone, and of bf16 with tiles loaded from the second cache as a product of many rows does.
 */
#pragma once

#ifdef __x86_64__

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>

#define TILE_ROUNDS 100000
#define TILE_OPERATIONS (16 * 16 * 32 * 2.0) /* of one instruction */
#define TILE_BUFFER ((size_t)1 << 20)

static const uint8_t tiles_config[64] __attribute__((aligned(64))) = {
	[0] = 1,
	[16] = 64,
	[18] = 64,
	[20] = 64,
	[22] = 64,
	[24] = 64,
	[26] = 64,
	[28] = 64,
	[30] = 64,
	[48] = 16,
	[49] = 16,
	[50] = 16,
	[51] = 16,
	[52] = 16,
	[53] = 16,
	[54] = 16,
	[55] = 16,
};

__attribute__((target("amx-tile,amx-bf16"))) static inline void tiles_from_registers(void)
{
	_tile_loadconfig(tiles_config);
	for (int round = 0; round < TILE_ROUNDS; round++) {
		_tile_dpbf16ps(0, 4, 6);
		_tile_dpbf16ps(1, 4, 7);
		_tile_dpbf16ps(2, 5, 6);
		_tile_dpbf16ps(3, 5, 7);
	}
	_tile_release();
}

__attribute__((target("amx-tile,amx-int8"))) static inline void tiles_from_registers_int8(void)
{
	_tile_loadconfig(tiles_config);
	for (int round = 0; round < TILE_ROUNDS; round++) {
		_tile_dpbssd(0, 4, 6);
		_tile_dpbssd(1, 4, 7);
		_tile_dpbssd(2, 5, 6);
		_tile_dpbssd(3, 5, 7);
	}
	_tile_release();
}

/* Two tiles of each side for four products, each from a place of its own. */
__attribute__((target("amx-tile,amx-bf16"))) static inline void tiles_from_cache(
	const uint8_t *buffer)
{
	_tile_loadconfig(tiles_config);
	for (int round = 0; round < TILE_ROUNDS; round++) {
		const uint8_t *at = buffer + (size_t)round * 4096 % TILE_BUFFER;

		_tile_loadd(4, at, 64);
		_tile_loadd(6, at + 1024, 64);
		_tile_dpbf16ps(0, 4, 6);
		_tile_loadd(7, at + 2048, 64);
		_tile_dpbf16ps(1, 4, 7);
		_tile_loadd(5, at + 3072, 64);
		_tile_dpbf16ps(2, 5, 6);
		_tile_dpbf16ps(3, 5, 7);
	}
	_tile_release();
}

#endif
