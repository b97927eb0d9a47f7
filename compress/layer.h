/*
 * One block of base and fine-tune: its vectors, and of its matrices those in work.
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

/* Norms and biases that stand in the place of the fine-tune's; may be NULL, as may what it returns.
 */
struct vector_source {
	const float *(*of)(const void *state, enum tensor_role role, uint32_t layer);
	const void *state;
};

/* Reads the vectors; norms and biases that changed are added to the file, exactly. What a failure
 * leaves behind goes to layer_done(). ret->index says which. */
int layer_load(const struct pair *pair, const struct vector_source *vectors, struct delta_file *f,
	struct layer *ret, struct reason *reason) _must_check_;
/* Reads the matrices [first, last); forgets them. */
int layer_read(const struct pair *pair, struct layer *l, size_t first, size_t last,
	struct reason *reason) _must_check_;
void layer_drop(struct layer *l, size_t first, size_t last);
void layer_done(struct layer *l);

/* The block as it stands, NULL for what is not in memory: `base` of each matrix, the fine-tune's
 * vectors. */
struct block_weights layer_weights(const struct layer *l);
