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
