/*
 * The small things every folder shares: ownership by scope, checked arithmetic, array helpers.
 *
 * Result rule of the whole tree: 0 is success; a negative errno is a failure and goes up untouched;
 * a positive value is an expected condition from the callee's own enum, which its direct caller
 * must answer and never forward. Three errno values carry a fixed meaning between folders:
 *
 *   -EBADMSG      bytes from a file or a peer break their format
 *   -EOPNOTSUPP   well formed, but asks for something we do not implement
 *   -EMEDIUMTYPE  well formed and supported, but does not belong with its partner (a delta of
 *                 another base, a digest that does not match)
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _must_check_ __attribute__((warn_unused_result))
#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))

/* A function that is compiled for several vector lengths, of which the program takes what the CPU
 * has. Without contraction every one gives the same bits. Static ones: clang 14 gives others a name
 * that nobody finds. (What chooses runs before the thread sanitizer is ready for it.) */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define _vector_clones_ __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define _vector_clones_
#endif

#define array_len(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* For `_cleanup_(freep) char *p = NULL;` */
static inline void freep(void *pointer_to_pointer)
{
	free(*(void **)pointer_to_pointer);
}

/* For `_cleanup_(closep) int fd = -1;` */
static inline void closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* Hands an owned descriptor over: returns it and leaves -1 behind. */
static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* Hands an owned pointer over: returns it and leaves NULL behind. */
#define take_ptr(p)                                                                                \
	({                                                                                         \
		__typeof__(p) *take_from_ = &(p);                                                  \
		__typeof__(p) taken_ = *take_from_;                                                \
		*take_from_ = NULL;                                                                \
		taken_;                                                                            \
	})

/* Sum and product of sizes that come from outside. False, with *ret untouched, on overflow. */
static inline _must_check_ bool add_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
	uint64_t sum;

	if (__builtin_add_overflow(a, b, &sum))
		return false;
	*ret = sum;
	return true;
}

static inline _must_check_ bool mul_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
	uint64_t product;

	if (__builtin_mul_overflow(a, b, &product))
		return false;
	*ret = product;
	return true;
}

/* Is [offset, offset + bytes) inside [0, limit)? Compares by subtraction, so it cannot wrap. */
static inline bool range_inside(uint64_t offset, uint64_t bytes, uint64_t limit)
{
	return offset <= limit && bytes <= limit - offset;
}

/* Rounds up to a power of two. The caller's value is known to be far from the type's end. */
static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
	return (value + alignment - 1) & ~(alignment - 1);
}

static inline uint64_t div_up(uint64_t value, uint64_t divisor)
{
	return value / divisor + (value % divisor != 0);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Is it a text of printable ASCII that ends within its n bytes? Names in files are, because they
 * are shown on terminals. */
static inline bool is_printable_name(const char *name, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (name[i] == '\0')
			return true;
		if (name[i] < ' ' || name[i] > '~')
			return false;
	}
	return false;
}
