/*
 * Where things lie in the payload of a part, and in the memory that it is expanded into. Writers
 * and the checker share these layouts, so there is one truth, and no offset in a file needs a check
 * of its own.
 *
 * A stored matrix of n x m, columns in groups of 128: codes, then scales, then zeros, as the grid
 * has them (kernels/types.h, struct qmat). Arrays begin at multiples of 64, in this order, but for
 * what stands before a stream, which is as dense as it can be:
 *
 *   ROWS     plain: u32 row[n] where n < rows, then the rows as a mat_bf16
 *            stream: the same list, then the stream of n x cols values
 *   FACTORS  plain: f32 sigma[n], V^T (n x cols), U^T (n x rows) as stored matrices
 *            stream: u64 bytes of the stream of V^T, f16 sigma[n] in units of `step`, the stream of
 *            V^T, the stream of U^T; code - zero is the value of both
 *   CODES    plain: a bitmap of the rows that have codes where n < rows, n x cols as a stored
 *            matrix
 *            stream: f16 scale[n] where the grid is ROW, the bitmap where n < rows, the stream
 *   DROPOUT  f16 scale[rows] where the grid is ROW; then the survivors' codes row by row, in the
 *            order of their columns: plain, packed from the lowest bit up; or a stream of rows x
 *            survivors
 *   MAT_INT  codes and scales of a struct mat_int, of 4 bits codes and grids
 */
#pragma once

#include "store/code_stream.h"
#include "store/dropout.h"
#include "store/format.h"

#define PART_ALIGNMENT 64u

struct stored_matrix {
	uint64_t codes, scales, zeros; /* scales: of MAT_INT of 4 bits the grids */
};

struct part_layout {
	/* In the payload; v is also the one matrix of CODES and MAT_INT, values also the codes of
	 * DROPOUT. */
	uint64_t list, sigma, values;
	struct stored_matrix v, u;
	uint64_t end; /* of the payload where it is plain; else where its stream begins */
	/* In the expanded memory. */
	uint64_t expanded_list, expanded_sigma, expanded_v, expanded_u;
	uint64_t expanded_bytes; /* a multiple of 64 */
};

/* Do codec, n, bits, grid, coding, level, group, step, zero and seed make sense together, and does
 * `bytes` fit the layout? rows and cols are already those of the model. -EBADMSG, -EOPNOTSUPP. */
int part_check(const struct tensor_record *record, struct reason *reason) _must_check_;

/* Of a record that part_check() accepts, but for its `bytes`. */
struct part_layout part_layout(const struct tensor_record *record);

/* Of the streams of a record: what code_stream.h calls centre is the whole part of its zero. */
struct code_shape part_code_shape(
	const struct tensor_record *record, uint32_t n_rows, uint32_t n_cols);

/* Bytes of a bitmap with a bit for each row, the lowest bit of a byte first. */
static inline uint64_t part_bitmap_bytes(uint32_t rows)
{
	return ((uint64_t)rows + 7) / 8;
}

/* Of a record of DROPOUT; the layout only of one that part_check() accepts. */
struct dropout_shape part_dropout_shape(const struct tensor_record *record);
struct dropout_layout part_dropout_layout(const struct tensor_record *record);
