/*
 * The header of a safetensors file, checked against the rules of the format. Pure: the fuzz target.
 */
#pragma once

#include "foreign/json.h"
#include "foreign/safetensors.h"

#define SAFETENSORS_MAX_HEADER 100000000u

struct safetensors_header {
	json_t *json;                       /* owns the names */
	struct safetensors_tensor *tensors; /* by offset, which counts from the end of the header */
	size_t n_tensors;
};

/* `data_bytes` is what the file holds after the header. -EBADMSG with the rule that is broken. */
int safetensors_header_parse(const char *text, size_t n, uint64_t data_bytes,
	struct safetensors_header *ret, struct reason *reason) _must_check_;
void safetensors_header_done(struct safetensors_header *h);
