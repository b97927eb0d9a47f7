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
 * A dense matrix of small integers in kernel order, `rows` outputs by `cols` inputs, 8 or 4 bits.
 *
 *   8 bits   value = scale(row, group) * code
 *   4 bits   value = scale(row, group) * (step(row, sub-group) * code - offset(row, sub-group))
 *
 * with groups of 128 inputs and sub-groups of 16. The scale is a bf16. Codes of 8 bits are signed
 * bytes, as tiles multiply them. What a scale of 4 bits multiplies fits such a byte, so that 4 bits
 * become 8 on their way and from there on are the same. The value is exact in f32.
 *
 * The step is one of eight. The offset is a zero, as a code, in steps: one of eight, all a number
 * of quarters, so that the code of 0 lies in 5.75 .. 9.25; rounded to an integer.
 *
 * Blocks of 16 outputs; inside a block, groups; a group of a block is lines of 64 bytes, a line 16
 * lanes (outputs) of 4 bytes. Of codes, these are 4 neighbouring inputs (a quad):
 *
 *   8 bits   32 lines; line i is quad i
 *   4 bits   16 lines; the lower half of a byte of line i is of quad i, the upper of quad i + 16
 *
 * One line, of 4 bits one half of it, is what one dot-product instruction takes; 16 are one tile of
 * the matrix unit. Codes of missing inputs meet inputs of 0, those of missing rows are never used.
 *
 * 4 bits have a byte for each sub-group, its grid: sub-groups 0 to 3 of a row in one line, 4 to 7
 * in the next. It is what instructions look up in tables of 16 bytes, a line at once:
 *
 *   bits 0 to 2  which step: 5, 6, 7, 8, 9, 10, 11, 13
 *   bits 3 to 5  z, of a zero of 23 + 2 z quarters
 *   bits 6, 7    of sub-group s, bits 2 s and 2 s + 1 of the scale
 *
 *   codes   blocks x groups x 2048 or 1024 bytes, 64-byte aligned
 *   scales  blocks x groups x 16 lanes of bf16, 32-byte aligned; 4 bits: NULL
 *   grids   blocks x groups x 2 lines, 64-byte aligned; 8 bits: NULL
 */
#define MAT_INT_GROUP 128
#define MAT_INT_SUBGROUP 16
#define MAT_INT_SUBGROUPS (MAT_INT_GROUP / MAT_INT_SUBGROUP)
#define MAT_INT_LINE 64
#define MAT_INT_GRIDS 128 /* bytes of a group of a block: two lines */
#define MAT_INT_STEPS 5, 6, 7, 8, 9, 10, 11, 13
#define MAT_INT_N_STEPS 8
#define MAT_INT_N_ZEROS 8
#define MAT_INT_LEAST_ZERO 23 /* in quarters of a code; the next is 2 more */

struct mat_int {
	const uint8_t *codes;
	const uint16_t *scales;
	const uint8_t *grids;
	uint32_t rows;
	uint32_t cols;
	uint32_t bits;
};

static inline size_t mat_int_groups(uint32_t cols)
{
	return ((size_t)cols + MAT_INT_GROUP - 1) / MAT_INT_GROUP;
}

static inline size_t mat_int_blocks(uint32_t rows)
{
	return ((size_t)rows + MAT_BLOCK - 1) / MAT_BLOCK;
}

static inline int mat_int_step(uint8_t grid)
{
	static const uint8_t steps[MAT_INT_N_STEPS] = {MAT_INT_STEPS};

	return steps[grid % MAT_INT_N_STEPS];
}

static inline int mat_int_offset(uint8_t grid)
{
	return (mat_int_step(grid) * (MAT_INT_LEAST_ZERO + 2 * (grid / 8 % MAT_INT_N_ZEROS)) + 2) /
	       4;
}

/* Bytes of the codes of one group of one block. */
static inline size_t mat_int_group_bytes(uint32_t bits)
{
	return (size_t)MAT_BLOCK * MAT_INT_GROUP * bits / 8;
}

/*
 * 128 neighbouring activations of a row as the product with such a matrix takes them:
 *
 *   x = scale * code,  with codes from -127 to 127
 *
 * sums[s] is the sum of the codes of sub-group s: what is taken away as often as its offset says.
 * Inputs past the last one are 0. Groups of one row stand a stride apart, those of neighbouring
 * rows side by side:  group g of row t  is  x[g * x_stride + t].
 */
struct act_group {
	int8_t codes[MAT_INT_GROUP];
	int16_t sums[MAT_INT_SUBGROUPS];
	float scale;
} __attribute__((aligned(64)));

static inline int32_t act_group_sum(const struct act_group *x)
{
	int32_t sum = 0;

	for (int s = 0; s < MAT_INT_SUBGROUPS; s++)
		sum += x->sums[s];
	return sum;
}

/*
 * A matrix of k-bit codes, k in 1 .. 8, or of plain numbers: row-major, columns in groups of 128.
 *
 *   value = step * scale(row, group) * (code - zero(row, group))
 *
 * The scale is fp16 and stands at  row * scale_row + group * scale_group; strides of n_groups and 1
 * give each group its own, 1 and 0 each row. The zero is a byte of each group of a row, or one
 * multiple of 1/2 for the whole matrix. scale * (code - zero) is exact in f32.
 *
 * Inside a group, column 16 s + i (s in 0..7, i in 0..15) is sub-position s of lane i. The bits of
 * the codes are split in planes of 1, 2, 4 or 8 bits, lowest bits first; a plane of p bits holds,
 * for lanes 0..15 in order, the p bits of sub-positions 0..7 packed from the lowest bit up, that is
 * p bytes a lane and 16 p bytes a group. Widths and their planes: 1 = {1}, 2 = {2}, 3 = {2, 1},
 * 4 = {4}, 5 = {4, 1}, 6 = {4, 2}, 7 = {4, 2, 1}, 8 = {8}. A group of a row therefore takes 16 k
 * bytes, its planes one after the other, so that a vector register of 16 lanes meets 16
 * neighbouring columns at every sub-position.
 *
 * 16 bits are fp16 and 32 bits are f32, 128 neighbours a group, and mean  step * number: they have
 * neither scales nor zeros.
 *
 * Codes of missing columns of the last group are never used. Codes are 16-byte aligned.
 *
 *   codes   rows x n_groups x 16 bits bytes
 *   scales  fp16; NULL: all are 1
 *   zeros   rows x n_groups, bytes; NULL: `zero` for all
 */
#define QMAT_GROUP 128
#define QMAT_LANES 16
#define QMAT_MAX_BITS 8 /* of a code; wider numbers are plain */
#define QMAT_BLOCK 32   /* groups whose products with rounded inputs are added before the next */
#define QMAT_CHAINS 4   /* in which they are */
#define QMAT_SUM_BLOCK MAT_INT_GROUP /* rows of a matrix whose rounded factors have one scale */

struct qmat {
	const uint8_t *codes;
	const uint16_t *scales;
	const uint8_t *zeros;
	uint32_t rows;
	uint32_t cols;
	uint32_t bits;
	uint32_t scale_row, scale_group;
	float step;
	float zero;
};

static inline size_t qmat_groups(uint32_t cols)
{
	return ((size_t)cols + QMAT_GROUP - 1) / QMAT_GROUP;
}

static inline size_t qmat_group_bytes(uint32_t bits)
{
	return (size_t)QMAT_LANES * bits;
}

static inline size_t qmat_row_bytes(const struct qmat *m)
{
	return qmat_groups(m->cols) * qmat_group_bytes(m->bits);
}

/*
 * A matrix of which each row keeps `n_keep` numbers in every `group` columns, all others being 0
 * (group-wise dropout). A survivor is one entry,  code << index_bits | column inside the group,  of
 * a byte where index_bits + bits <= 8, else of two; those of a group ascend by column.
 *
 *   value = step * scale(row) * (code - zero)
 *
 * `group` divides `cols` and is at most 2^index_bits; index_bits + bits <= 16; bits in 1 .. 8; zero
 * is a multiple of 1/2.
 *
 *   entries  rows x dropmat_row_entries(), group by group
 *   scales   fp16, of row r at r * scale_row; NULL: all are 1
 */
struct dropmat {
	const void *entries;
	const uint16_t *scales;
	uint32_t rows;
	uint32_t cols;
	uint32_t group;
	uint32_t n_keep;
	uint32_t index_bits;
	uint32_t bits;
	uint32_t scale_row;
	float step;
	float zero;
};

/* Bits of one entry in memory: 8 or 16. */
static inline uint32_t dropmat_entry_bits(uint32_t index_bits, uint32_t bits)
{
	return index_bits + bits <= 8 ? 8 : 16;
}

static inline size_t dropmat_row_entries(uint32_t cols, uint32_t group, uint32_t n_keep)
{
	return (size_t)(cols / group) * n_keep;
}

/* Of products with rounded inputs: columns whose products are added before the next, and chains in
 * which they are. */
#define DROPMAT_BLOCK 8192u
#define DROPMAT_CHAINS 16u

static inline int dropmat_is_power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

/* May the matrix be multiplied with rounded inputs? Four neighbouring entries then share an input
 * group, and 16 columns hold whole groups. */
static inline int dropmat_takes_rounded(const struct dropmat *m)
{
	return m->group >= 2 && m->group <= 16 && dropmat_is_power_of_two(m->group) &&
	       dropmat_is_power_of_two(m->n_keep) && m->n_keep <= m->group &&
	       m->index_bits + m->bits <= 8 && (1u << m->index_bits) == m->group;
}

/* How the numbers of a KV page are stored. */
enum kv_type {
	KV_TYPE_F32,
	KV_TYPE_BF16,
	KV_TYPE_INT8, /* codes of -127 to 127; a number is code * scale, rounded to f32 */
};

/* Bytes of one number. */
static inline size_t kv_number_bytes(enum kv_type type)
{
	switch (type) {
	case KV_TYPE_F32:
		return sizeof(float);
	case KV_TYPE_BF16:
		return sizeof(uint16_t);
	case KV_TYPE_INT8:
		return 1;
	}
	__builtin_unreachable();
}

/* Bytes of one row of a page: n numbers, and before those of int8 their scale, an unaligned f32. */
static inline size_t kv_row_bytes(enum kv_type type, size_t n)
{
	return n * kv_number_bytes(type) + (type == KV_TYPE_INT8 ? sizeof(float) : 0);
}
