/*
 * Adds what a pass through a block (compress/block_pass.h) says about its tensors to the gradients
 * of a model. Split by rows of the matrices, so that every sum has one order.
 */
#pragma once

#include "compress/backward.h"
#include "compress/block_pass.h"

/* x and g of every projection, after block_pass_backward(). */
void block_pass_taps(const struct block_pass *p, struct backward_taps *ret);

void gradient_add_block(struct dense_model *gradients, const struct block_pass *p);

/* d(embedding row of ids[t]) += dx[t] for n rows. */
void gradient_add_embedding(struct dense_model *gradients, struct pool *pool, const uint32_t *ids,
	const float *dx, size_t n);
