/*
 * Bounded little-endian reading of bytes that are not trusted. A cursor that once ran past its end
 * stays failed and returns zeros, so a parser reads a whole record and checks once; cursor_end()
 * additionally demands that nothing is left over.
 */
#pragma once

#include "common/base.h"

#include <endian.h>
#include <string.h>

struct cursor {
	const uint8_t *at;
	size_t left;
	bool failed;
};

static inline struct cursor cursor_over(const void *bytes, size_t n)
{
	return (struct cursor){.at = bytes, .left = n};
}

/* Borrows the next n bytes; NULL (and the cursor fails) if they are not there. */
static inline const uint8_t *cursor_bytes(struct cursor *c, size_t n)
{
	const uint8_t *at = c->at;

	if (c->failed || n > c->left) {
		c->failed = true;
		return NULL;
	}
	c->at += n;
	c->left -= n;
	return at;
}

static inline uint8_t cursor_u8(struct cursor *c)
{
	const uint8_t *at = cursor_bytes(c, 1);

	return at ? *at : 0;
}

#define CURSOR_READER(bits)                                                                        \
	static inline uint##bits##_t cursor_u##bits(struct cursor *c)                              \
	{                                                                                          \
		const uint8_t *at = cursor_bytes(c, sizeof(uint##bits##_t));                       \
		uint##bits##_t value = 0;                                                          \
                                                                                                   \
		if (at)                                                                            \
			memcpy(&value, at, sizeof(value));                                         \
		return le##bits##toh(value);                                                       \
	}
CURSOR_READER(16)
CURSOR_READER(32)
CURSOR_READER(64)
#undef CURSOR_READER

static inline float cursor_f32(struct cursor *c)
{
	uint32_t bits = cursor_u32(c);
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* True if every read succeeded and every byte was consumed. */
static inline _must_check_ bool cursor_end(const struct cursor *c)
{
	return !c->failed && c->left == 0;
}
