/*
 * The parts of which a tensor's delta is the sum, as they go into a delta file.
 */
#pragma once

#include "common/reason.h"
#include "store/format.h"

struct part {
	struct tensor_record record;
	struct tensor_quality quality;
	uint8_t *payload; /* owned */
	uint64_t n_payload;
};

static inline void part_done(struct part *p)
{
	free(p->payload);
	*p = (struct part){0};
}
