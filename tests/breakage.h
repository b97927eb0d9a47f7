/*
 * Files of tests/small_image.h that are broken field by field, with digests that match, and what
 * must become of each.
 */
#pragma once

#include "store/base.h"
#include "store/delta.h"

#include <stddef.h>

/* A good file and a place to break copies of it. */
struct breakable {
	enum image_kind kind;
	uint8_t *good;
	uint8_t *broken;
	uint64_t n_bytes;
	struct format_header header;
	int fd; /* an unnamed file with what is to be opened */
};

/* A base image, a delta of it, and the base with codes for some matrices. */
#define N_BREAKABLES 3
extern struct breakable breakables[N_BREAKABLES];

/* Setup and teardown of a group of tests. */
int breakables_make(void **state);
int breakables_free(void **state);

/* Loads and binds what the file's descriptor has now, and lets go of it again. Fails the test if a
 * descriptor is left. */
int breakable_open(const struct breakable *f, struct reason *reason);
/* Everything as it was. */
void breakable_restore(const struct breakable *f);
/* Puts what is in f->broken into the file, with digests that match it. */
void breakable_write(const struct breakable *f);
const struct format_section *breakable_section(const struct breakable *f, enum section_kind kind);
/* Of the good file. */
const struct tensor_record *breakable_record(const struct breakable *f, uint32_t index);

enum breakable_part {
	PART_HEADER,
	PART_CONFIG,
	PART_RECORD,
	PART_CERTIFICATE,
	PART_PAYLOAD,
};

/* One field overwritten. `index` is the record. */
struct breakage {
	enum breakable_part part;
	uint32_t index;
	size_t offset;
	size_t width;
	uint64_t value;
	int error;
	const char *words;
};

/* Fails the test, with the field and what came instead, unless each of them is refused as it says.
 */
void breakable_expect_refused(const struct breakable *f, const struct breakage *b, size_t n);

uint64_t bits_of_f32(float value);
uint64_t bits_of_f64(double value);

#define BAD -EBADMSG
#define UNKNOWN -EOPNOTSUPP
#define MISFIT -EMEDIUMTYPE
#define HEADER(field, width, value, error, words)                                                  \
	{                                                                                          \
		PART_HEADER, 0, offsetof(struct format_header, field), width, value, error, words  \
	}
#define CONFIG(field, value, error, words)                                                         \
	{                                                                                          \
		PART_CONFIG, 0, offsetof(struct model_config, field),                              \
			sizeof(((struct model_config *)0)->field), value, error, words             \
	}
#define RECORD(i, field, value, error, words)                                                      \
	{                                                                                          \
		PART_RECORD, i, offsetof(struct tensor_record, field),                             \
			sizeof(((struct tensor_record *)0)->field), value, error, words            \
	}
#define PAYLOAD(i, offset, width, value, error, words)                                             \
	{                                                                                          \
		PART_PAYLOAD, i, offset, width, value, error, words                                \
	}
