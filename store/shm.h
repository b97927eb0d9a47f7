/*
 * Memory that can be given to other processes: written by us first, then sealed, from then on the
 * same for everybody and for ever.
 *
 * States: shm_create() maps it writable; shm_seal() drops that mapping, seals against writing,
 * growing and shrinking and maps it read-only; shm_adopt() begins there with somebody else's sealed
 * memfd. The kernel refuses to seal (-EBUSY) while any writable mapping is left, or buffers in it
 * are still registered with an io_uring.
 */
#pragma once

#include "common/base.h"

struct shm {
	int fd; /* owned */
	uint8_t *bytes;
	uint64_t n_bytes;
	uint64_t mapped_bytes; /* n_bytes rounded up to the page size of the memory */
};

#define SHM_INIT ((struct shm){.fd = -1})

/* All memory is reserved at once, so running out is -ENOSPC or -ENOMEM here and not a signal later.
 * Uses reserved huge pages if enough are free, else asks for transparent ones. */
int shm_create(const char *name, uint64_t n_bytes, struct shm *ret) _must_check_;
int shm_seal(struct shm *shm) _must_check_;
/* Takes `fd` on success. -EPERM if a seal is missing. n_bytes is the size of the memfd. */
int shm_adopt(int fd, struct shm *ret) _must_check_;
void shm_done(struct shm *shm);
