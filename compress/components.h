/*
 * A part of coded factors taken apart: its components one by one, and parts of some of them. Codes
 * and sigmas are copied, so that parts together are what the whole was.
 */
#pragma once

#include "common/reason.h"
#include "compress/parts.h"

struct components {
	struct part like;     /* record and quality of the whole; no payload */
	uint32_t n;           /* the first matters most, as compress/whitened.h makes them */
	uint8_t *v;           /* n x cols codes */
	uint8_t *u;           /* n x rows */
	const uint8_t *sigma; /* n fp16, in the payload, which must stay */
};

/* Can it be taken apart? */
static inline bool components_in(const struct part *p)
{
	return p->record.codec == CODEC_FACTORS && p->record.coding == CODING_STREAM;
}

/* Of a part for which components_in() is true. */
int components_of(const struct part *p, struct components *ret, struct reason *reason) _must_check_;
void components_done(struct components *c);

/* About the bytes of component i. */
double components_bytes(const struct components *c, uint32_t i);
/* What component i adds to the quadratic form that it was made for, in units of its own: factors
 * are rounded after they were multiplied with their singular value, which sigma takes back. */
double components_energy(const struct components *c, uint32_t i);

/* Components first .. first + n - 1, n > 0, as a part of that level. */
int components_part(const struct components *c, uint32_t first, uint32_t n, uint8_t level,
	struct part *ret) _must_check_;
