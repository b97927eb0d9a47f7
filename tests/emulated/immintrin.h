/*
 * Stands in for the compiler's header when kernels/avx512 and kernels/amx are compiled for CPUs
 * with AVX2 alone: SIMDe has most of the intrinsics of AVX-512, our own headers the others and the
 * tile unit's. What a kernel uses and none of them has is an error of the compiler.
 */
#pragma once

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include "tests/emulated/avx512.h"
#include "tests/emulated/amx.h"
