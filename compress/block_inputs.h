/*
 * The inputs of every block on their way through a model, in a file that a later run goes on with:
 * slots 0 .. n_slots - 1, written one after the other and read in any order.
 *
 *   header   what the inputs are of (a digest of all that they depend on), and the sizes
 *   records  of each slot, its digest, written after the slot has reached the disk
 *   slots
 */
#pragma once

#include "common/digest.h"
#include "common/reason.h"

struct block_inputs;

struct block_inputs_shape {
	struct digest key;
	uint64_t n_slots;
	uint64_t slot_bytes;
};

/* From the beginning of an open file, which is borrowed. Goes on with what is there where `resume`
 * and the shape is the same, else the file is emptied. -ENOSPC and other errors of the disk. */
int block_inputs_open(int fd, const struct block_inputs_shape *shape, bool resume,
	struct block_inputs **ret, struct reason *reason) _must_check_;
struct block_inputs *block_inputs_free(struct block_inputs *b);

static inline void block_inputsp(struct block_inputs **b)
{
	block_inputs_free(*b);
}

/* Slots that are written, from 0 on. */
uint64_t block_inputs_count(const struct block_inputs *b);
/* Where the slots end. */
uint64_t block_inputs_end(const struct block_inputs *b);
/* The next slot. */
int block_inputs_add(struct block_inputs *b, const void *x, struct reason *reason) _must_check_;
/* 1 if the slot is damaged. */
int block_inputs_read(const struct block_inputs *b, uint64_t slot, void *ret, struct reason *reason)
	_must_check_;
/* Forgets all, and what stands behind in the file: something was damaged. */
int block_inputs_restart(struct block_inputs *b, struct reason *reason) _must_check_;
/* Work was to be taken up, but the file held something else, or was damaged. */
bool block_inputs_began_anew(const struct block_inputs *b);
