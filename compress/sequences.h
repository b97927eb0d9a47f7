/*
 * Token sequences that a model is calibrated, trained or judged on, and where each begins to count.
 *
 * Token p of a sequence is judged if answer <= p < n: a model that has read the tokens before it is
 * asked for it. So a sequence has n - answer judged tokens, and its last token is never read.
 */
#pragma once

#include "common/digest.h"
#include "common/reason.h"

struct sequence {
	size_t first;    /* of `ids` of all */
	uint32_t n;      /* tokens, 2 or more */
	uint32_t answer; /* first judged token, 1 .. n - 1 */
};

struct sequences {
	struct sequence *items;
	size_t n;
	uint32_t *ids;
	size_t n_ids;
};

/* Copies the ids. A sequence that has nothing to judge (n < 2, or answer not in 1 .. n - 1) is
 * -EINVAL. */
int sequences_add(struct sequences *s, const uint32_t *ids, size_t n, size_t answer) _must_check_;
void sequences_done(struct sequences *s);
/* Appends some of `all`, evenly spread: about n_tokens to read. */
int sequences_add_some(struct sequences *s, const struct sequences *all, size_t n_tokens)
	_must_check_;

static inline const uint32_t *sequence_ids(const struct sequences *s, size_t i)
{
	return s->ids + s->items[i].first;
}

/* Tokens that are read, and tokens that are judged, by all of them; tokens of the longest. */
size_t sequences_read(const struct sequences *s);
size_t sequences_judged(const struct sequences *s);
uint32_t sequences_longest(const struct sequences *s);
/* Adds all ids, as little-endian u32. */
void sequences_digest(const struct sequences *s, struct digest_state *state);
/* The first of n ids that is not below `vocab`; n if all are. */
size_t ids_first_beyond(const uint32_t *ids, size_t n, uint32_t vocab);
/* Of ids that a tokenizer has made, which may have tokens that the model has no embedding for:
 * -EBADMSG names the first that is not below `vocab`. */
int ids_check(const uint32_t *ids, size_t n, uint32_t vocab, struct reason *reason) _must_check_;
/* Is every id below `vocab`? -EBADMSG names the first that is not. */
int sequences_check(const struct sequences *s, uint32_t vocab, struct reason *reason) _must_check_;
