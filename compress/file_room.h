/*
 * What of a file whose size is given is left for tensors that are still to be coded.
 */
#pragma once

#include "common/reason.h"
#include "store/format.h"

struct file_room {
	const struct model_config *config; /* of the fine-tune */
	double ratio;                      /* its 16-bit bytes over those of the file */
	size_t n_tokenizer, n_chat, n_selftest;
	uint64_t outer_bytes; /* of embedding and head, where they are coded already */
};

/* Bytes of payloads and records, if all norms have changed and everything lies as badly as it can.
 * A tensor in several parts takes a record, a quality and a gap more for each further one: that is
 * its maker's to count. -ERANGE if there are none. */
int file_room(const struct file_room *f, double *ret, struct reason *reason) _must_check_;
