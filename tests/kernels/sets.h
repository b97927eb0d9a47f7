/*
 * What the kernel tests share: the sets, random numbers, buffers whose
 * neighbourhood is watched.
 */
#pragma once

#include "kernels/kernels.h"
#include "tests/emulated/select.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define ROUNDING 0x1p-24 /* E of kernels.h */

/* Calls `check` with every set that this CPU has, and with those in software wherever they run: a
 * sanitizer sees of them what masked accesses touch. */
static inline void for_each_set(void (*check)(const struct kernels *k))
{
	static const char *const names[] = {"ref", "avx2", "avx512", "amx"};

	for (size_t i = 0; i < array_len(names); i++) {
		struct reason reason;
		struct kernels shipped, emulated;
		int r = select_shipped(&shipped, names[i], &reason);

		if (r == 0)
			check(&shipped);
		if (select_emulated(&emulated, names[i], NULL) == 0)
			check(&emulated);
		else if (r < 0)
			print_message("skipped: kernel set %s: %s\n", names[i], reason.text);
	}
}

static inline uint32_t random_u32(void)
{
	static uint64_t state = 88172645463325252u;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 16);
}

/* In [-1, 1). */
static inline float random_f32(void)
{
	return (float)(int32_t)random_u32() * 0x1p-31f;
}

/* Never NULL. Exactly `n` numbers, so that a sanitizer sees a read past the end. */
static inline void *numbers_new(size_t n, size_t size)
{
	void *p = n < SIZE_MAX / 16 ? calloc(n ? n : 1, size) : NULL;

	assert_non_null(p);
	return p;
}

static inline float *random_new(size_t n)
{
	float *x = numbers_new(n, sizeof(*x));

	for (size_t i = 0; i < n; i++)
		x[i] = random_f32();
	return x;
}

/*
 * An output array of `n` floats at an address that is a multiple of 4 and not of 8, between numbers
 * that nobody may touch. All of it starts as one pattern, so that an output that was not written
 * shows too.
 */
#define GUARD_NUMBERS 33
#define GUARD_BITS 0x7fc5a5a5u

struct guarded {
	float *numbers; /* owned; what the kernel gets is guarded_at() */
	size_t n;
};

static inline struct guarded guarded_new(size_t n)
{
	struct guarded g = {.numbers = numbers_new(n + 2 * GUARD_NUMBERS, sizeof(float)), .n = n};
	uint32_t bits = GUARD_BITS;

	for (size_t i = 0; i < n + 2 * GUARD_NUMBERS; i++)
		memcpy(&g.numbers[i], &bits, sizeof(bits));
	return g;
}

static inline float *guarded_at(const struct guarded *g)
{
	return g->numbers + GUARD_NUMBERS;
}

static inline bool is_untouched(const float *number)
{
	uint32_t bits;

	memcpy(&bits, number, sizeof(bits));
	return bits == GUARD_BITS;
}

static inline void guarded_check(const struct guarded *g)
{
	for (size_t i = 0; i < GUARD_NUMBERS; i++) {
		assert_true(is_untouched(&g->numbers[i]));
		assert_true(is_untouched(&g->numbers[GUARD_NUMBERS + g->n + i]));
	}
}

static inline void guarded_done(struct guarded *g)
{
	free(g->numbers);
}

static inline bool same_bits(float a, float b)
{
	return memcmp(&a, &b, sizeof(a)) == 0;
}

#define expect_near(set, got, exact, tolerance, ...)                                               \
	do {                                                                                       \
		double got_ = (got), exact_ = (exact), tolerance_ = (tolerance);                   \
		if (!(fabs(got_ - exact_) <= tolerance_)) {                                        \
			print_error(__VA_ARGS__);                                                  \
			fail_msg(" %s: got %.9g, exact %.17g, off by %.3g, allowed %.3g", (set),   \
				got_, exact_, fabs(got_ - exact_), tolerance_);                    \
		}                                                                                  \
	} while (0)
