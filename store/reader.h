/*
 * Reads a stretch of a file, chunk by chunk, several chunks in flight, by one or several threads:
 * what is done with a chunk that arrived may take longer than reading it.
 *
 * What to do about a short read, a read of nothing, a signal or a fault is decided here, once; how
 * reads are carried out is behind struct reader_ops: io_uring (store/ring.h) or plain reads. Tests
 * put a third one there, which fails as told.
 */
#pragma once

#include "common/reason.h"

#define READER_DEPTH 8 /* of each lane */
#define READER_MAX_LANES 8u
/* So often in a row may one read be told to come again without getting a byte. */
#define READER_MAX_RETRIES 1000

struct read_request {
	int fd;
	void *to;
	uint64_t n_bytes;
	uint64_t offset;
};

/*
 * A way of carrying out up to READER_DEPTH reads at once, each known by its slot.
 *
 *   open      all reads will go to that memory, page-aligned, which stays until close; 0, or a
 *             positive errno: why it will read more slowly than it might, or a negative one, of
 *             which ENOSYS, EPERM and EACCES mean that the kernel forbids this way
 *   submit    starts a read in a slot that has none under way; 0 or an errno, then nothing started
 *   complete  waits for one read to end: its slot, and its result as read(2) gives it (bytes, 0 at
 *             the end of the file, or a negative errno). An errno of its own means that waiting is
 *             broken for good
 *   cancel    asks every read under way to end soon; each is still completed
 *   close     after all reads are completed
 */
struct reader_ops {
	int (*open)(void *memory, uint64_t n_bytes, void **ret_state);
	int (*submit)(void *state, unsigned int slot, const struct read_request *request);
	int (*complete)(void *state, unsigned int *ret_slot, int *ret_result);
	void (*cancel)(void *state);
	void (*close)(void *state);
};

/* Reads by pread(2), one after the other. */
extern const struct reader_ops plain_reader;

struct read_chunk {
	uint64_t index;
	const uint8_t *bytes;
	uint64_t n_bytes;
};

struct read_plan {
	int fd;
	int direct_fd; /* the same file opened with O_DIRECT, or -1 */
	uint64_t begin, end;
	uint64_t chunk;
	/* So many lanes, each with a thread and READER_DEPTH reads of its own, take the chunks as
	 * they come to them; at most READER_MAX_LANES. Later ones that cannot be opened are done
	 * without. */
	unsigned int n_lanes;
	/* Called for each chunk, in the order of arrival, with its bytes, which stay where they are
	 * until it returns; an error ends the reading and is returned. With several lanes several
	 * may be called at once. */
	int (*arrived)(void *user, const struct read_chunk *chunk, struct reason *reason);
	void *user;
};

/* As many lanes as this process has CPUs for and as so many chunks keep busy. At least 1. */
unsigned int reader_lanes(uint64_t n_chunks);

/*
 * Reads [begin, end). A short read is continued; -EINTR and -EAGAIN are tried again, within a
 * limit; -EINVAL from `direct_fd` goes to `fd` instead; the file's end before `end` is -ENODATA;
 * anything else ends the reading. When it returns, nothing is under way any more. 0, or what open
 * returned of a lane that read more slowly, or an errno.
 */
int reader_run(const struct reader_ops *ops, const struct read_plan *plan, struct reason *reason)
	_must_check_;
