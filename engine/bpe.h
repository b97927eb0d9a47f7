/*
 * Byte-pair encoding of one word (Sennrich et al., arXiv 1508.07909, section 3.2): characters
 * become tokens, then the pair with the best merge is joined until no pair has one. A heap over
 * linked symbols makes that O(n log n) in the word's length.
 */
#pragma once

#include "engine/buffer.h"
#include "engine/vocabulary.h"

struct bpe {
	const struct vocabulary *vocabulary; /* borrowed */
	uint32_t flags;                      /* enum tokenizer_flag */
	uint32_t unk;
	uint32_t byte_tokens[256]; /* of <0xHH>, TOKENIZER_NONE where missing */
	struct bpe_pair *pairs;    /* open addressing by (left, right); owned */
	uint32_t pair_mask;
	uint64_t seed;
};

/* Memory that words share; zero-initialised, one for each thread that encodes. */
struct bpe_scratch {
	struct bpe_symbol *symbols;
	size_t symbol_capacity;
	struct bpe_candidate *heap;
	size_t n_heap, heap_capacity;
};

/* `merges_le` is the table's array. Checks that each merge joins two tokens into the one that is
 * spelled so. */
int bpe_init(struct bpe *b, const struct vocabulary *vocabulary, uint32_t flags, uint32_t unk,
	const uint8_t *merges_le, uint32_t n_merges, struct reason *reason) _must_check_;
void bpe_done(struct bpe *b);

/* Appends the tokens of a word, valid UTF-8 of n < 2^31 bytes. -ENOMEM. */
int bpe_encode(const struct bpe *b, struct bpe_scratch *scratch, const char *word, size_t n,
	struct id_list *tokens) _must_check_;
void bpe_scratch_done(struct bpe_scratch *scratch);
