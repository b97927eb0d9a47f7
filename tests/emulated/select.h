/*
 * Kernel sets for tests on CPUs that lack them. kernels/avx512 and kernels/amx are compiled a
 * second time, against intrinsics in software (immintrin.h), and then run wherever AVX2 does.
 */
#pragma once

#include "kernels/kernels.h"

/* kernels_select(), but "amx" may be had without the tile unit on a CPU with the rest: its
 * instructions trap, and are emulated one by one. The kernels are those that are shipped. */
int select_shipped(struct kernels *ret, const char *name, struct reason *reason) _must_check_;

/* "avx512" or "amx" in software; its name then says so. -EOPNOTSUPP for any other and without
 * AVX2. */
int select_emulated(struct kernels *ret, const char *name, struct reason *reason) _must_check_;

/* What is shipped if it can be had. */
int select_or_emulate(struct kernels *ret, const char *name, struct reason *reason) _must_check_;
