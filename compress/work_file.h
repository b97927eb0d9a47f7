/*
 * The file that a compression works in: what does not fit into memory, and what a later run needs
 * to go on where this one was ended, at any moment.
 *
 *   header     what is being made (a digest of inputs and settings), and the sizes below
 *   slots 0, 1 the residual stream of all windows; entry b of the log says what stood in slot
 *              (b + 1) % 2 after block b, and block b + 1 writes only to the other one
 *   taps       the inputs of the projections in work; nothing that has to last
 *   log        one entry a block, whose digest covers all of it: sums, digests of the windows, and
 *              the parts that the block has made, which are read from here when they are needed
 *
 * An entry is written after what it speaks of has reached the disk. What follows the last whole
 * entry is not there.
 */
#pragma once

#include "common/digest.h"
#include "common/reason.h"
#include "compress/parts.h"

struct work_file;

/* What the file has to hold; everything that it depends on is in `key`. */
struct work_shape {
	struct digest key;
	uint64_t origin; /* where it begins; what stands before is somebody else's */
	uint64_t n_windows;
	uint64_t slot_bytes; /* of one window's residual stream */
	uint64_t tap_bytes;  /* of one window's widest inputs */
	uint32_t n_blocks;
	uint32_t sums_bytes; /* of an entry, for the caller's use */
};

/* Takes up the work in an open file, or begins it there; `resume` false begins anew. The descriptor
 * is borrowed. -ENOSPC and other errors of the disk. */
int work_file_open(int fd, const struct work_shape *shape, bool resume, struct work_file **ret,
	struct reason *reason) _must_check_;
struct work_file *work_file_free(struct work_file *w);

static inline void work_file_freep(struct work_file **w)
{
	work_file_free(*w);
}

/* Blocks that are in the log. */
uint32_t work_file_blocks(const struct work_file *w);
/* Work was to be taken up, but the file held something else, which is gone now: another command's
 * work, or a damaged one. */
bool work_file_began_anew(const struct work_file *w);

/* Where the log ends: nothing of this work stands behind. */
uint64_t work_file_end(const struct work_file *w);

/* One window, whole; different windows may be moved at once. */
int work_file_read_x(const struct work_file *w, uint32_t slot, uint64_t window, void *ret)
	_must_check_;
int work_file_write_x(struct work_file *w, uint32_t slot, uint64_t window, const void *x)
	_must_check_;
/* The first n bytes of a window's inputs. */
int work_file_read_tap(const struct work_file *w, uint64_t window, size_t n, void *ret)
	_must_check_;
int work_file_write_tap(struct work_file *w, uint64_t window, size_t n, const void *tap)
	_must_check_;

/* A part, whose payload has moved into the log. */
struct work_part {
	struct tensor_record record;
	struct tensor_quality quality;
	uint64_t at; /* of the payload in the file */
};

/*
 * Block b = work_file_blocks() is done: `digests` are those of its windows as they stand in slot
 * (b + 1) % 2. Where each payload is now goes to ret_at.
 */
struct work_entry {
	const void *sums;
	const struct digest *digests;
	const struct part *parts;
	size_t n_parts;
};
int work_file_add(struct work_file *w, const struct work_entry *entry, uint64_t *ret_at,
	struct reason *reason) _must_check_;

/* The parts of a block in the log, and the sums after it. ret_parts is malloc'ed. */
int work_file_entry(const struct work_file *w, uint32_t block, void *ret_sums,
	struct work_part **ret_parts, size_t *ret_n, struct reason *reason) _must_check_;
/* Digests of the windows after the last block of the log: n_windows of them. */
const struct digest *work_file_digests(const struct work_file *w);
/* Forgets all blocks: what the log speaks of is damaged. */
int work_file_restart(struct work_file *w, struct reason *reason) _must_check_;
