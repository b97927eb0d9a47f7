/*
 * Plain views of packed numbers: what the kernels compute on. A view owns nothing; the memory
 * behind it is checked by store/ before a view is made.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/*
 * A dense matrix in kernel order, `rows` outputs by `cols` inputs, bf16.
 *
 * Blocks of 16 outputs; inside a block, pairs of inputs; inside a pair, 16 lanes of two values:
 *
 *   element (r, c) stands at ((r / 16) * n_pairs + c / 2) * 32 + (r % 16) * 2 + c % 2
 *   with n_pairs = ceil(cols / 2)
 *
 * Missing rows of the last block and the missing second column of the last pair are zero. One
 * 64-byte line is what one dot-product instruction takes, and 16 lines are one tile of the matrix
 * unit. Data is 64-byte aligned.
 */
#define MAT_BLOCK 16

struct mat_bf16 {
	const uint16_t *data;
	uint32_t rows;
	uint32_t cols;
};

static inline size_t mat_bf16_pairs(uint32_t cols)
{
	return ((size_t)cols + 1) / 2;
}

static inline size_t mat_bf16_blocks(uint32_t rows)
{
	return ((size_t)rows + MAT_BLOCK - 1) / MAT_BLOCK;
}

static inline size_t mat_bf16_index(uint32_t cols, uint32_t r, uint32_t c)
{
	return ((r / MAT_BLOCK) * mat_bf16_pairs(cols) + c / 2) * (2 * MAT_BLOCK) +
	       (r % MAT_BLOCK) * 2 + c % 2;
}

/*
 * A matrix of k-bit codes, k in {2, 3, 4, 8}: row-major, columns in groups of 128, each group of a
 * row with its own grid:  value = scale * (code - zero),  scale in fp16, zero in 0 .. 2^k - 1.
 *
 * Inside a group, column 16 s + i (s in 0..7, i in 0..15) is sub-position s of lane i. The bits of
 * the codes are split in planes of 1, 2, 4 or 8 bits, lowest bits first; a plane of p bits holds,
 * for lanes 0..15 in order, the p bits of sub-positions 0..7 packed from the lowest bit up, that is
 * p bytes a lane and 16 p bytes a group. Widths and their planes: 2 = {2}, 3 = {2, 1}, 4 = {4},
 * 8 = {8}. A group of a row therefore takes 16 k bytes, its planes one after the other, so that a
 * vector register of 16 lanes meets 16 neighbouring columns at every sub-position.
 *
 * Missing columns of the last group have code = zero point (value 0). Codes are 16-byte aligned.
 *
 *   codes   rows x n_groups x 16 k bytes
 *   scales  rows x n_groups, fp16
 *   zeros   rows x n_groups, bytes
 */
#define QMAT_GROUP 128
#define QMAT_LANES 16
#define QMAT_MAX_BITS 8

struct qmat {
	const uint8_t *codes;
	const uint16_t *scales;
	const uint8_t *zeros;
	uint32_t rows;
	uint32_t cols;
	uint32_t bits;
};

static inline size_t qmat_groups(uint32_t cols)
{
	return ((size_t)cols + QMAT_GROUP - 1) / QMAT_GROUP;
}

static inline size_t qmat_group_bytes(uint32_t bits)
{
	return (size_t)QMAT_LANES * bits;
}

/* How the numbers of a KV page are stored. */
enum kv_type {
	KV_TYPE_F32,
	KV_TYPE_BF16,
};

static inline size_t kv_type_size(enum kv_type type)
{
	return type == KV_TYPE_F32 ? sizeof(float) : sizeof(uint16_t);
}
