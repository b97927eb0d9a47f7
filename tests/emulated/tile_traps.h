/*
 * Tile instructions on CPUs without them: a handler of SIGILL that decodes them and lets
 * tile_unit.h do what they say. The kernels run as they were compiled.
 */
#pragma once

#include "common/base.h"

/* False where the CPU lacks what the rest of the set amx needs, or is no x86-64. */
bool tile_traps_set(void);
