/*
 * One block of base and fine-tune in memory.
 */
#pragma once

#include "compress/block.h"
#include "compress/delta_file.h"
#include "compress/pair.h"

enum layer_place {
	PLACE_Q,
	PLACE_K,
	PLACE_V,
	PLACE_O,
	PLACE_GATE,
	PLACE_UP,
	PLACE_DOWN,
	N_PLACES,
};

#define LAYER_VECTORS 11u

struct layer {
	uint32_t index;
	struct pair_matrix matrices[N_PLACES];
	float *vectors[LAYER_VECTORS]; /* of the fine-tune; NULL where there is none */
};

enum tensor_role layer_role(enum layer_place place);

/* Reads all of it; norms and biases that changed are added to the file, exactly. What a failure
 * leaves behind goes to layer_done(). */
int layer_load(const struct pair *pair, uint32_t index, struct delta_file *f, struct layer *ret,
	struct reason *reason) _must_check_;
void layer_done(struct layer *l);

/* The block as it stands: `base` of each matrix, the fine-tune's vectors. */
struct block_weights layer_weights(const struct layer *l);
