/*
 * One check for each way to store a tensor. A record's place and shape are already checked
 * (store/tensor_table.h); a codec's function checks the payload, every byte that could lead a
 * kernel astray, and makes the view. The reason does not name the tensor, the caller puts that
 * before it.
 *
 * Numbers: vectors, sigmas and the scales of codes must be finite, because one bad value there
 * spoils every token. bf16 values of matrices are not looked at one by one; codes of k bits have no
 * invalid values.
 */
#pragma once

#include "store/delta.h"

struct payload {
	const struct tensor_record *record;
	const uint8_t *bytes; /* record->bytes of them */
};

/* One for each enum tensor_codec: sets *ret on success; -EBADMSG with the reason. */
int codec_vector_f32(const struct payload *p, const float **ret, struct reason *reason)
	_must_check_;
int codec_mat_bf16(const struct payload *p, struct mat_bf16 *ret, struct reason *reason)
	_must_check_;
int codec_dense_rows(const struct payload *p, struct dense_rows *ret, struct reason *reason)
	_must_check_;
int codec_mixed_svd(const struct payload *p, struct mixed_svd *ret, struct reason *reason)
	_must_check_;

/* Shared by the codecs: the record says codec and n_parts, and the payload has that size. */
int codec_expect(const struct payload *p, enum tensor_codec codec, uint64_t n_bytes,
	struct reason *reason) _must_check_;
int codec_expect_finite(const float *values, uint64_t n, const char *what, struct reason *reason)
	_must_check_;
