/*
 * One check for each way to store a part of a tensor. A record is already checked
 * (store/tensor_table.h, store/part.h); a codec's function checks the payload, every byte that
 * could lead a kernel astray, and makes the view. The reason does not name the tensor, the caller
 * puts that before it.
 *
 * Numbers: vectors, sigmas and the scales of codes must be finite, because one bad value there
 * spoils every token. bf16 values of matrices are not looked at one by one; codes of k bits have no
 * invalid values.
 */
#pragma once

#include "store/delta.h"
#include "store/placement.h"
#include "store/part.h"

struct payload {
	const struct tensor_record *record; /* part_check() accepts it */
	const uint8_t *bytes;               /* record->bytes of them */
	/* For what has to be expanded: part_layout().expanded_bytes of memory, aligned to 64, and
	 * the base's matrix, which coded ROWS differ from. room NULL: nothing is expanded, and
	 * views of such parts have no numbers. */
	uint8_t *room;
	struct placement
		joined; /* of the room, for FACTORS that share it with others; zeroed: alone */
	const struct base_matrix *base;
	bool other_values; /* than those of the base that the delta was made for, where it has codes
			    */
};

/* One for each enum tensor_codec, but one for both of base matrices: sets *ret on success; -EBADMSG
 * with the reason. */
int codec_vector_f32(const struct payload *p, const float **ret, struct reason *reason)
	_must_check_;
int codec_base_matrix(const struct payload *p, struct base_matrix *ret, struct reason *reason)
	_must_check_;
int codec_rows(const struct payload *p, struct replaced_rows *ret, struct reason *reason)
	_must_check_;
int codec_factors(const struct payload *p, struct factors *ret, struct reason *reason) _must_check_;
int codec_codes(const struct payload *p, struct row_codes *ret, struct reason *reason) _must_check_;
int codec_dropout(const struct payload *p, struct dropmat *ret, struct reason *reason) _must_check_;

/* Whichever of those of a matrix the record names. */
int codec_part(const struct payload *p, struct delta_part *ret, struct reason *reason) _must_check_;

/* Shared by the codecs. */
int codec_expect(const struct payload *p, enum tensor_codec codec, struct reason *reason)
	_must_check_;
int codec_expect_finite(const float *values, uint64_t n, const char *what, struct reason *reason)
	_must_check_;
int codec_expect_finite_f16(
	const uint16_t *values, uint64_t n, const char *what, struct reason *reason) _must_check_;
/* A stream of n_rows x n_cols codes of a record's width and zero. */
struct coded_matrix {
	const uint8_t *bytes;
	uint64_t n_bytes;
	uint32_t n_rows, n_cols;
};
/* Expands it into rows as kernels want them, at `ret`; NULL: only the lengths are checked. */
int codec_expand(const struct tensor_record *record, const struct coded_matrix *m, uint8_t *ret,
	struct reason *reason) _must_check_;
/* Into one byte a code. */
int codec_expand_bytes(const struct tensor_record *record, const struct coded_matrix *m,
	uint8_t *ret, struct reason *reason) _must_check_;

/* The matrix of codes that a record of CODES describes, `rows` of it, and that of MAT_INT. */
struct qmat codec_stored_codes(const struct payload *p, uint32_t rows);
struct mat_int codec_mat_int(const struct payload *p);
/* Its scales, and its zeros if it has them. */
int codec_expect_scales(const struct tensor_record *record, const struct qmat *m,
	struct reason *reason) _must_check_;
/* Scales and zeros of a matrix on grids of groups. */
int codec_expect_grids(const struct qmat *m, const char *name, struct reason *reason) _must_check_;
/* Kernels compute whole blocks and pairs; what they find beyond the matrix must count as nothing.
 */
int codec_expect_zero_padding(const struct mat_bf16 *m, struct reason *reason) _must_check_;
