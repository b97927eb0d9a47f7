/*
 * One walk over a message's fields that either writes or reads them, so that the order of fields is
 * said once for both directions. A coder that failed stays failed: further fields read as zero and
 * write nothing. Reading checks every length and count before it is used.
 */
#pragma once

#include "client/proto.h"
#include "common/cursor.h"

struct coder {
	bool reading;
	struct cursor in;
	uint8_t *out; /* may be NULL with room 0: only count */
	size_t room;
	size_t n; /* written, or that would have been */
	int error;
	struct reason *reason;
	void *owned; /* the array that reading has allocated; a message has at most one */
};

/* The first failure counts. `what` follows the field's name. A value that breaks the format is
 * -EBADMSG in both directions. */
void coder_fail(struct coder *c, int error, const char *field, const char *what);

void code_u32(struct coder *c, const char *field, uint32_t *value);
void code_u64(struct coder *c, const char *field, uint64_t *value);
void code_f32(struct coder *c, const char *field, float *value);
void code_f64(struct coder *c, const char *field, double *value);
void code_digest(struct coder *c, const char *field, struct digest *value);

/* A number that must not exceed `last`. */
void code_limited(struct coder *c, const char *field, uint32_t *value, uint32_t last);
/* A set of flags, of which `known` are defined. */
void code_flags(struct coder *c, const char *field, uint32_t *value, uint32_t known);
/* A member of enum type. */
#define code_enum(c, field, member, last)                                                          \
	do {                                                                                       \
		uint32_t code_value_ = (uint32_t)(member);                                         \
		code_limited(c, field, &code_value_, last);                                        \
		(member) = code_value_;                                                            \
	} while (0)

/* A string of `least` to `most` bytes. */
void code_str(
	struct coder *c, const char *field, struct proto_str *value, uint32_t least, uint32_t most);
/* A name: 1 to PROTO_MAX_NAME bytes without control characters. */
void code_name(struct coder *c, const char *field, struct proto_str *value);

/* The count of an array whose elements take at least `element_bytes` each on the wire. */
void code_count(
	struct coder *c, const char *field, uint32_t *n, uint32_t most, size_t element_bytes);
/* The same, and on reading an array of n elements of `size` bytes, owned by the coder, in *array
 * (NULL if n is 0). */
void code_array(struct coder *c, const char *field, uint32_t *n, uint32_t most,
	size_t element_bytes, void *array, size_t size);
void code_ids(struct coder *c, const char *field, uint32_t *n, uint32_t **ids);
