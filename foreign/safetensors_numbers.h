/*
 * The numbers of a tensor, whatever it stores them as.
 */
#pragma once

#include "foreign/safetensors.h"

/* Is it BF16, F16 or F32? */
bool safetensors_has_numbers(const struct safetensors_tensor *tensor);

/* Numbers [first, first + n) of a tensor that has them. -EBADMSG names one that is not finite, or
 * would not be in bf16. */
int safetensors_read_f32(const struct safetensors *s, const struct safetensors_tensor *tensor,
	uint64_t first, float *ret, size_t n, struct reason *reason) _must_check_;
/* The same as bf16, rounded to nearest, and how many of them bf16 does not hold exactly. */
int safetensors_read_bf16(const struct safetensors *s, const struct safetensors_tensor *tensor,
	uint64_t first, uint16_t *ret, size_t n, uint64_t *ret_inexact, struct reason *reason)
	_must_check_;

/* Rounds to nearest; returns how many numbers changed by that. */
uint64_t numbers_to_bf16(uint16_t *ret, const float *values, size_t n);

/* Index of the first number that is infinite, or would be in bf16, or is none; n if there is none.
 */
size_t numbers_find_not_finite(const float *values, size_t n);
