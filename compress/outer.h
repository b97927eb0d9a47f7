/*
 * What a delta carries outside the blocks: embedding, head and final norm. An adapter's factors of
 * the head stay what they are.
 */
#pragma once

#include "compress/calibration.h"
#include "compress/delta_file.h"
#include "compress/embedding.h"

struct outer_settings {
	const struct pair *pair;
	const struct calibration *calibration; /* whose ids tell how often tokens are used */
	struct embedding_choice choice;        /* for embedding and head */
	double bits; /* EMBEDDING_AUTO: bits a weight, all rows taken together */
	struct pool *pool;
};

/* Adds their parts. *ret_embedding is the embedding that a reader will have, vocab x hidden, bf16,
 * malloc'ed: what the blocks behind it are calibrated on. -EDOM if a change is not finite. */
int outer_add(const struct outer_settings *settings, struct delta_file *f, uint16_t **ret_embedding,
	struct reason *reason) _must_check_;
