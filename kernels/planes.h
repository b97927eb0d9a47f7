/*
 * Inputs in the order in which the bytes of a plane of codes meet them, for products that take
 * codes by whole registers of bytes; for the sets of x86-64.
 *
 * The planes of four groups are width times 64 bytes, and a byte of a plane has 8 / width codes. So
 * line `vector * (8 / width) + step` has, for each of 64 bytes, the input of its code number
 * `step`.
 */
#pragma once

#include "kernels/types.h"

#include <emmintrin.h>
#include <string.h>

#define PLANES_MAX 3
#define PLANE_GROUPS 4 /* that share lines */
#define PLANE_LINE 64
#define PLANE_LINES 8 /* of four groups */

struct plane {
	int width, shift;
};

/* Of the lowest plane. */
static inline __attribute__((always_inline)) int plane_first_width(int bits)
{
	return bits >= 8 ? 8 : bits >= 4 ? 4 : bits >= 2 ? 2 : bits;
}

/* Plane `i` of a width, lowest first; width 0 if there is none. */
static inline __attribute__((always_inline)) struct plane plane_of(int bits, int i)
{
	const int first = plane_first_width(bits);
	const int second = plane_first_width(bits - first);

	if (i == 0)
		return (struct plane){first, 0};
	if (i == 1)
		return (struct plane){second, first};
	return (struct plane){plane_first_width(bits - first - second), first + second};
}

/* `width` runs of 16 bytes, `stride` apart, byte by byte in turn. */
static inline __attribute__((always_inline)) void runs_interleave(
	__m128i ret[8], const int8_t *runs, size_t stride, int width)
{
	__m128i from[8];

	for (int i = 0; i < width; i++)
		ret[i] = _mm_loadu_si128((const void *)(runs + (size_t)i * stride));
	for (int unit = 1; unit < width; unit *= 2) {
		memcpy(from, ret, sizeof(from));
		/* Neighbours of `unit` vectors each join to one of twice as many. */
		for (int pair = 0; pair < width; pair += 2 * unit) {
			for (int i = 0; i < unit; i++) {
				__m128i a = from[pair + i], b = from[pair + unit + i];
				__m128i *to = &ret[pair + 2 * i];

				to[0] = unit == 1   ? _mm_unpacklo_epi8(a, b)
					: unit == 2 ? _mm_unpacklo_epi16(a, b)
						    : _mm_unpacklo_epi32(a, b);
				to[1] = unit == 1   ? _mm_unpackhi_epi8(a, b)
					: unit == 2 ? _mm_unpackhi_epi16(a, b)
						    : _mm_unpackhi_epi32(a, b);
			}
		}
	}
}

static inline __attribute__((always_inline)) void plane_arrange_width(
	int8_t *ret, size_t line_bytes, const int8_t *inputs, size_t group, int width)
{
	const int steps = 8 / width;

	for (int step = 0; step < steps; step++) {
		__m128i parts[8];

		runs_interleave(
			parts, inputs + step * QMAT_LANES, (size_t)steps * QMAT_LANES, width);
		for (int k = 0; k < width; k++) {
			size_t part = group * (size_t)width + (size_t)k;
			size_t line = part / 4 * (size_t)steps + (size_t)step;

			_mm_storeu_si128(
				(void *)(ret + line * line_bytes + part % 4 * 16), parts[k]);
		}
	}
}

/* The 128 inputs of group number `group`; lines are `line_bytes` apart. */
static inline void plane_arrange(
	int8_t *ret, size_t line_bytes, const int8_t *inputs, size_t group, int width)
{
	switch (width) {
	case 1:
		plane_arrange_width(ret, line_bytes, inputs, group, 1);
		break;
	case 2:
		plane_arrange_width(ret, line_bytes, inputs, group, 2);
		break;
	case 4:
		plane_arrange_width(ret, line_bytes, inputs, group, 4);
		break;
	case 8:
		plane_arrange_width(ret, line_bytes, inputs, group, 8);
		break;
	}
}
