/*
 * A base image or delta file in memory: every byte checked against its digest, the memory sealed.
 *
 * States: bytes arrive in a private memfd, each chunk is verified before anything looks at it; when
 * all are in, the memfd is sealed against writing, growing and shrinking and mapped read-only. Only
 * then is a struct image handed out, so whoever holds one may trust `bytes` to be what the writer
 * wrote and to stay so, whatever happens to the file. (Trust in the *meaning* of the bytes is the
 * business of base_bind and delta_bind.)
 */
#pragma once

#include "common/progress.h"
#include "common/reason.h"
#include "store/format.h"

enum image_kind {
	IMAGE_KIND_BASE,
	IMAGE_KIND_DELTA,
};

struct image {
	enum image_kind kind;
	int fd; /* sealed memfd; owned */
	const uint8_t *bytes;
	uint64_t n_bytes;      /* of the levels that are there */
	uint32_t n_levels;     /* that are there; header.n_levels in a file that was not cut */
	uint64_t mapped_bytes; /* n_bytes, rounded up to a huge page where those hold it */
	uint64_t huge_bytes;   /* of these, in huge pages, where we filled the memory; else 0 */
	unsigned int
		n_nodes; /* memory nodes that it is spread over; 1 where there are no several */
	/* The errno with which the kernel refused io_uring, so that plain reads were used; else 0.
	 * Worth one line in a log. */
	int io_uring_refused;
	/* The same of the memory that io_uring reads to, which the limit on locked memory may keep
	 * it from holding, so that every read holds its own. */
	int registration_refused;
	struct format_header header; /* checked copy */
};

/* Checks a header page against the size of its file, which may be cut where a level ends: every
 * field, the rest of the page, and that the sections ascend by kind and place without touching each
 * other. Pure: a fuzz target. It leaves
 * the root to image_root(). An unknown version or section is -EOPNOTSUPP. */
int image_parse_header(const uint8_t page[static FORMAT_PAGE], uint64_t file_bytes,
	struct format_header *ret, struct reason *reason) _must_check_;

/* How many levels a file of that many bytes has; 0 if it ends at none of them. */
uint32_t image_levels(const struct format_header *h, uint64_t file_bytes);

/* Where a chunk lies: its bytes and, returned, its offset from the file's beginning. */
uint64_t image_chunk(const struct format_header *h, uint64_t index, uint64_t *ret_bytes);

/* The root that a header (its own `root` is ignored) and the bytes between it and the body have. */
int image_root(const struct format_header *header, const void *digests, uint64_t n_bytes,
	struct digest *ret) _must_check_;

/* Section of that kind: its bytes, or NULL if the file has none. */
const uint8_t *image_section(
	const struct image *image, enum section_kind kind, uint64_t *ret_bytes);

/* Of a base: the digest of the values that it serves, its model digest where there are no codes. */
const struct digest *image_served_digest(const struct format_header *base);
/* Was a delta made for what a base was packed from, or for what it serves? */
bool image_fits(const struct format_header *delta, const struct format_header *base);

/* The header of a file that stays where it is; its word alone, nothing else is looked at. -EBADMSG
 * if the file has none. */
int image_peek(int fd, struct format_header *ret, struct reason *reason) _must_check_;

/*
 * Reads an open file through io_uring (plain reads where the kernel forbids it), several chunks in
 * flight, each verified on arrival. `fd` stays the caller's. A chunk that does not match is
 * -EBADMSG, with its number in the reason. `progress` may be NULL; its cancelling is heeded.
 */
int image_load(int fd, struct image **ret, const struct progress *progress, struct reason *reason)
	_must_check_;

/* The same through a given way of reading, for tests that make reads fail. */
struct reader_ops;
int image_load_through(const struct reader_ops *ops, int fd, struct image **ret,
	const struct progress *progress, struct reason *reason) _must_check_;

/* The path is put before the reason. */
int image_load_path(const char *path, struct image **ret, const struct progress *progress,
	struct reason *reason) _must_check_;

/* Adopts a sealed memfd that holds a whole file (from a descriptor store or another process); takes
 * fd on success. Checks seals and the root; `verify_chunks` also every chunk. */
int image_from_memfd(int fd, bool verify_chunks, struct image **ret, struct reason *reason)
	_must_check_;

/* NULL is fine. Returns NULL. */
struct image *image_free(struct image *image);

static inline void imagep(struct image **image)
{
	image_free(*image);
}
