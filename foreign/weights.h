/*
 * How the projections and the head of a base are stored, and what that makes of their values.
 * Import writes these codes; whoever makes a delta against a base of codes, or merges one, rounds a
 * checkpoint's numbers here as well, and gets the same bits. A head of its own has 8 bits with
 * int8 and int4. The embedding stays as it is, and so does a head that is tied to it.
 *
 * int8  a scale for each 128 neighbours of a row.
 * int4  the same, and a step and an offset in units of it for each 16: 4.5 bits a weight.
 *
 * The same numbers give the same codes on every machine.
 */
#pragma once

#include "common/progress.h"
#include "foreign/checkpoint.h"
#include "foreign/integers.h"

enum weights {
	WEIGHTS_BF16,
	WEIGHTS_INT8,
	WEIGHTS_INT4,
	N_WEIGHTS,
};

/* "bf16", "int8", "int4". */
const char *weights_name(enum weights w);
bool weights_parse(const char *name, enum weights *ret);

/* Of a code of such a tensor; 0: it is not stored as codes. */
uint8_t weights_bits(enum weights w, enum tensor_role role);

/* Fills codec, bits and bytes of a record that has role, rows and cols. */
void weights_record(enum weights w, struct tensor_record *record);

/* The payload of a matrix from its rows x cols numbers, row-major: record->bytes at `ret`, aligned
 * to 64. Numbers are finite. */
void weights_pack(const struct tensor_record *record, const uint16_t *values, uint8_t *ret);

/* One group of a row of a payload of codes, of which all bytes were zeroed before; different ones
 * may be put at once. For whoever finds better codes than weights_pack(). */
void weights_put_group(const struct tensor_record *record, uint8_t *payload, uint32_t row,
	size_t group, const struct int_group *g);

/* The values that such a payload serves, row-major. */
void weights_values(const struct tensor_record *record, const uint8_t *payload, float *ret);

/* Both: what is served in place of a matrix's numbers, row-major; the same where there are no
 * codes. `shape` has role, rows and cols. */
int weights_served(enum weights w, const struct tensor_record *shape, const uint16_t *values,
	float *ret, struct reason *reason) _must_check_;

/* The digest of the values as served (store/model_digest.h); reads everything once. */
int weights_digest(struct checkpoint *c, enum weights w, const struct progress *progress,
	struct digest *ret, struct reason *reason) _must_check_;
