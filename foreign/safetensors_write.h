/*
 * Writing safetensors files: the header for a list of tensors, whose bytes the caller then puts at
 * the offsets that it gets back.
 */
#pragma once

#include "foreign/safetensors.h"

/* Writes the header into an empty file. Reads name, dtype and shape of the tensors and fills bytes
 * and offset (from the beginning of the file), in the order given, without gaps. */
int safetensors_write_header(
	int fd, struct safetensors_tensor *tensors, size_t n, struct reason *reason) _must_check_;
