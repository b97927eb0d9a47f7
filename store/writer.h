/*
 * Writes a base image or a delta file section by section, then the digests and the header, into an
 * open file (positioned writes only; the caller renames it into place).
 *
 * Order of calls: writer_begin, then for each section in ascending kind writer_section_begin,
 * writer_append..., writer_section_end; writer_finish. Bytes depend on the arguments alone.
 */
#pragma once

#include "common/reason.h"
#include "store/format.h"
#include "store/image.h"

struct writer;

/* `max_body_bytes` bounds what will be appended, the zeros of writer_align() included; it reserves
 * the room for chunk digests, of which FORMAT_MAX_SPARE bytes at most may stay unused (32 GiB of
 * contents). Appending more is -EFBIG. `fd` stays the caller's and must
 * outlive the writer. */
int writer_begin(int fd, enum image_kind kind, uint64_t max_body_bytes, struct writer **ret,
	struct reason *reason) _must_check_;

/* Starts a section at the next multiple of `alignment` (a power of two, at least FORMAT_PAGE; for
 * the weights of a base at least FORMAT_WEIGHTS_ALIGNMENT). */
int writer_section_begin(struct writer *w, enum section_kind kind, uint64_t alignment) _must_check_;
/* Appends bytes; NULL bytes appends zeros. */
int writer_append(struct writer *w, const void *bytes, uint64_t n_bytes) _must_check_;
/* Appends zeros up to a multiple of `alignment` from the file's beginning. */
int writer_align(struct writer *w, uint64_t alignment) _must_check_;
/* Where the next byte will stand, from the file's beginning. */
uint64_t writer_offset(const struct writer *w);
int writer_section_end(struct writer *w) _must_check_;
/* A whole section at the next page; with n_bytes 0, none. */
int writer_section(struct writer *w, enum section_kind kind, const void *bytes, uint64_t n_bytes)
	_must_check_;

/* Ends a level: what is appended from here on is in the next. Only in the weights of a delta;
 * writer_finish() ends the last one. At most FORMAT_MAX_LEVELS. */
int writer_level_end(struct writer *w) _must_check_;
/* Memory that a delta takes when bound, beside its file. */
void writer_expands(struct writer *w, uint64_t n_bytes);

/* Pads, writes the digests (each taken as its chunk was filled) and the header. `tuned`, in a
 * base that of the values as served, may be NULL in a base; so may `ret_header`. */
int writer_finish(struct writer *w, const struct digest *model, const struct digest *tuned,
	struct format_header *ret_header, struct reason *reason) _must_check_;

struct writer *writer_free(struct writer *w);

static inline void writerp(struct writer **w)
{
	writer_free(*w);
}
