/*
 * The numbers that a part stands for.
 */
#pragma once

#include "compress/parts.h"
#include "engine/pool.h"

/* Adds a part of a projection to its weights (record.rows x record.cols), or puts its rows in
 * their place, as store/format.h says; checked like bytes from a file. */
int part_apply(struct pool *pool, const struct part *part, float *weights, struct reason *reason)
	_must_check_;
