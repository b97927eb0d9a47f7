/*
 * Memory that can be given to other processes: written by us first, then sealed, from then on the
 * same for everybody and for ever.
 *
 * States: shm_create() makes it, shm_write() fills it, shm_seal() seals it against writing, growing
 * and shrinking and maps it read-only; shm_adopt() begins there with somebody else's sealed memfd.
 * The kernel refuses to seal (-EBUSY) while any writable mapping is left.
 */
#pragma once

#include "common/base.h"

struct shm {
	int fd;         /* owned */
	uint8_t *bytes; /* of sealed memory */
	uint8_t *room;  /* until then, where huge pages are to be had: a mapping to write through */
	uint64_t n_bytes;
	uint64_t mapped_bytes; /* n_bytes rounded up to the page size of the memory */
	bool reserved;         /* all in huge pages that the machine keeps for those who ask */
	uint64_t huge_bytes;   /* of mapped_bytes, in huge pages; known when shm_seal() has been */
	unsigned int n_nodes;  /* that the memory is spread over; 1 where there are no several */
};

#define SHM_INIT ((struct shm){.fd = -1})

/* Uses reserved huge pages if enough are free and we may have the first, else transparent ones if
 * the kernel gives them to those who ask; where there are several memory nodes, all of them in
 * turn. */
int shm_create(const char *name, uint64_t n_bytes, struct shm *ret) _must_check_;
/* Fills [at, at + n_bytes), making the memory. Several threads may, each its own part. Running out
 * of memory is -ENOMEM or -ENOSPC here and not a signal later. */
int shm_write(struct shm *shm, uint64_t at, const void *bytes, uint64_t n_bytes) _must_check_;
int shm_seal(struct shm *shm) _must_check_;
/* Takes `fd` on success. -EPERM if a seal is missing. n_bytes is the size of the memfd. */
int shm_adopt(int fd, struct shm *ret) _must_check_;
void shm_done(struct shm *shm);
