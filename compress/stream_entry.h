/*
 * What method "auto" leaves in its file of work for a block (compress/auto_stream.h): the parts of
 * all menus, and of each projection what is not in a part.
 */
#pragma once

#include "compress/dense_model.h"
#include "compress/ladder.h"
#include "compress/work_file.h"

/* The sums of an entry of the file. */
struct stream_sums {
	uint64_t numbers[DENSE_N_PROJECTIONS]; /* 0: the projection did not change */
	double nothing[DENSE_N_PROJECTIONS];   /* loss without any part */
};

struct stream_entry {
	struct stream_sums sums;
	struct part *parts;
	size_t n;
};

/* Takes the parts of a ladder. */
int stream_entry_add(struct stream_entry *e, size_t projection, uint64_t numbers,
	struct ladder *ladder) _must_check_;
void stream_entry_done(struct stream_entry *e);

/* The next block of the file, with the gradient at its inputs. */
int stream_entry_write(const struct stream_entry *e, struct work_file *work, const float *dx,
	size_t n_dx, struct reason *reason) _must_check_;
