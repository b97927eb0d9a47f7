/*
 * The tile unit in software, for the tests of kernels/amx on CPUs without it: a handler of SIGILL
 * that does what the architecture's manual says of each tile instruction. The kernels run as they
 * were compiled. A use that the hardware would refuse ends the program, saying which.
 */
#pragma once

#include "kernels/kernels.h"

/* False where the CPU lacks what the rest of the set needs, or is no x86-64. */
bool tile_unit_emulate(void);

/* kernels_select(), but "amx" is to be had wherever it can be emulated; says once if it is. */
int select_or_emulate(struct kernels *ret, const char *name, struct reason *reason) _must_check_;
