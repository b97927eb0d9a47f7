/*
 * Conversions between number formats, each in one place. Scalar and exact; the vector sets have
 * their own forms of the same arithmetic.
 */
#pragma once

#include <stdint.h>
#include <string.h>

static inline float f32_from_bits(uint32_t bits)
{
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

static inline uint32_t f32_to_bits(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

static inline float bf16_to_f32(uint16_t value)
{
	return f32_from_bits((uint32_t)value << 16);
}

/* Rounds to nearest, ties to even; a NaN stays a (quiet) NaN. */
static inline uint16_t bf16_from_f32(float value)
{
	uint32_t bits = f32_to_bits(value);

	if ((bits & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(bits >> 16) | 0x0040;
	return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float f16_to_f32(uint16_t value)
{
	uint32_t sign = (uint32_t)(value & 0x8000) << 16;
	uint32_t exponent = (value >> 10) & 0x1f;
	uint32_t fraction = value & 0x3ff;

	if (exponent == 0x1f)
		return f32_from_bits(sign | 0x7f800000 | fraction << 13);
	if (exponent == 0) {
		float magnitude = (float)fraction * 0x1p-24f;

		return sign ? -magnitude : magnitude;
	}
	return f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/* Rounds to nearest, ties to even; values past the largest half become infinity. */
static inline uint16_t f16_from_f32(float value)
{
	uint32_t bits = f32_to_bits(value);
	uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
	uint32_t magnitude = bits & 0x7fffffff;

	if (magnitude > 0x7f800000)
		return sign | 0x7e00;
	if (magnitude >= 0x477ff000)
		return sign | 0x7c00;
	if (magnitude < 0x38800000) {
		/* Adding 0.5 rounds the subnormal bits to the end of the fraction. */
		float shifted = f32_from_bits(magnitude) + 0.5f;

		return sign | (uint16_t)(f32_to_bits(shifted) - 0x3f000000);
	}
	magnitude += 0xfff + ((magnitude >> 13) & 1);
	return sign | (uint16_t)((magnitude - 0x38000000) >> 13);
}
