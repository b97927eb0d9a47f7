/*
 * The tile intrinsics that kernels/amx uses, on the tile unit in software.
 */
#pragma once

#include "tests/emulated/tile_unit.h"

#undef _tile_loadconfig
#define _tile_loadconfig(config) tile_unit_load_config(config)
#undef _tile_release
#define _tile_release() tile_unit_release()
#undef _tile_zero
#define _tile_zero(tile) tile_unit_zero(tile)
#undef _tile_loadd
#define _tile_loadd(tile, from, stride) tile_unit_load(tile, from, (ptrdiff_t)(stride))
#undef _tile_stored
#define _tile_stored(tile, to, stride) tile_unit_store(tile, to, (ptrdiff_t)(stride))
#undef _tile_dpbf16ps
#define _tile_dpbf16ps(sums, a, b) tile_unit_dot_bf16(sums, a, b)
#undef _tile_dpbssd
#define _tile_dpbssd(sums, a, b) tile_unit_dot_int8(sums, a, b, true, true)
