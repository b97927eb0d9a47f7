/*
 * Reference values of a tiny model (tests/golden/data/tiny/NAME/golden.safetensors).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* What the reference computed for one prompt. */
struct golden_values {
	uint32_t *ids, *greedy;
	size_t n_ids, n_greedy;
	float *last_logits;
	size_t n_logits;
};

/* Case i of the model; fails the running test if it is not there. */
void golden_values_read(const char *name, size_t i, struct golden_values *ret);
void golden_values_done(struct golden_values *v);

/* Largest difference as a share of the largest |expected|. */
double largest_difference(const float *got, const float *expected, size_t n);

/* "tests/golden/data/tiny/NAME" into a caller's buffer. */
const char *tiny_folder(const char *name, char ret[static 128]);
/* The names of the tiny models, without their fine-tunes; NULL past the end. */
const char *tiny_name(size_t i);
