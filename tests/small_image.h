/*
 * A tiny base image and a delta of it, with made-up values, written through store/writer.h: what
 * the tests of store/ read back and break.
 */
#pragma once

#include "store/base.h"
#include "store/delta.h"

/* 2 layers, biases, q and k norms, an own head, no size a multiple of a block or a group. */
extern const struct model_config small_config;

#define SMALL_ADDED_TOKENS 3

/* The value that the base has at (row, col) of a tensor; vectors have col 0. */
float small_value(enum tensor_role role, uint32_t layer, uint32_t row, uint32_t col);

/*
 * Records of the delta, in their order: level 0 has
 *   0 embed ROWS 7, 300 and three added   1 attn_norm   2 q FACTORS, 2 of 8 bits, grid GROUP
 *   3 k CODES of rows 1, 5, 43            4 v DROPOUT   5 up CODES, a stream
 * of layer 0, and of layer 1
 *   6 o FACTORS, 32, a stream             7 gate ROWS, a stream
 *   8 down FACTORS, one of fp16           9 head ROWS as in the embedding
 * level 1 has
 *   10 q of layer 0 FACTORS, 17 of 3 bits, grid GROUP
 */
#define SMALL_RECORDS 11

/* Both return an open, unnamed file in memory; the caller closes it. They fail the running test if
 * anything goes wrong. */
int small_base_file(void);
/* The base with codes for q of layer 0, 4 bits on grid GROUP, and for down of layer 1, 8 bits on
 * grid ROW: records 2 and 35. */
int small_coded_base_file(void);
int small_delta_file(void);

/* The number of descriptors that this process has open. */
size_t open_descriptors(void);
