#include "engine/bpe.h"
#include "engine/hash.h"
#include "engine/tokenizer_tables.h"
#include "engine/utf8.h"

#include <endian.h>
#include <stdio.h>

#define NO_SYMBOL UINT32_MAX

struct bpe_pair {
	uint32_t left, right, merged;
	uint32_t rank_plus_1; /* 0: empty slot */
};

/* A token of the word, linked to its neighbours; after a merge the right one is dead. */
struct bpe_symbol {
	uint32_t token;
	uint32_t previous, next;
	bool dead;
};

/* A merge that was possible when it was pushed; `merged` tells whether it still is. */
struct bpe_candidate {
	uint32_t rank, at, merged;
};

void bpe_done(struct bpe *b)
{
	free(b->pairs);
	b->pairs = NULL;
}

void bpe_scratch_done(struct bpe_scratch *scratch)
{
	free(scratch->symbols);
	free(scratch->heap);
	*scratch = (struct bpe_scratch){0};
}

/* The slot of a pair, or the empty one where it would go. */
static struct bpe_pair *find_pair(const struct bpe *b, uint32_t left, uint32_t right)
{
	uint32_t at = (uint32_t)hash_mix(b->seed, (uint64_t)left << 32 | right) & b->pair_mask;

	for (;; at = (at + 1) & b->pair_mask) {
		struct bpe_pair *pair = &b->pairs[at];

		if (!pair->rank_plus_1 || (pair->left == left && pair->right == right))
			return pair;
	}
}

static bool merge_is_sound(const struct vocabulary *v, const struct bpe_pair *pair)
{
	const char *left, *right, *merged;
	size_t n_left, n_right, n_merged;

	if (pair->left >= v->n_tokens || pair->right >= v->n_tokens || pair->merged >= v->n_tokens)
		return false;
	left = vocabulary_token(v, pair->left, &n_left);
	right = vocabulary_token(v, pair->right, &n_right);
	merged = vocabulary_token(v, pair->merged, &n_merged);
	return n_left && n_right && n_left + n_right == n_merged &&
	       memcmp(merged, left, n_left) == 0 && memcmp(merged + n_left, right, n_right) == 0;
}

static int read_merges(
	struct bpe *b, const uint8_t *merges_le, uint32_t n_merges, struct reason *reason)
{
	for (uint32_t rank = 0; rank < n_merges; rank++) {
		struct tokenizer_merge merge;
		struct bpe_pair pair;

		memcpy(&merge, merges_le + sizeof(merge) * (size_t)rank, sizeof(merge));
		pair = (struct bpe_pair){
			.left = le32toh(merge.left),
			.right = le32toh(merge.right),
			.merged = le32toh(merge.merged),
			.rank_plus_1 = rank + 1,
		};
		if (!merge_is_sound(b->vocabulary, &pair))
			return reason_set(reason, -EBADMSG,
				"tokenizer: merge %u of tokens %u and %u is not spelled like token "
				"%u",
				rank, pair.left, pair.right, pair.merged);
		/* Of a pair that is listed twice the later rank counts, as in the reference. */
		*find_pair(b, pair.left, pair.right) = pair;
	}
	return 0;
}

static void find_byte_tokens(struct bpe *b)
{
	for (unsigned byte = 0; byte < 256; byte++) {
		char name[8];

		snprintf(name, sizeof(name), "<0x%02X>", byte);
		b->byte_tokens[byte] = vocabulary_find(b->vocabulary, name, 6);
	}
}

int bpe_init(struct bpe *b, const struct vocabulary *vocabulary, uint32_t flags, uint32_t unk,
	const uint8_t *merges_le, uint32_t n_merges, struct reason *reason)
{
	uint32_t n_slots = 16;

	*b = (struct bpe){
		.vocabulary = vocabulary, .flags = flags, .unk = unk, .seed = hash_seed()};
	if (unk != TOKENIZER_NONE && unk >= vocabulary->n_tokens)
		return reason_set(reason, -EBADMSG, "tokenizer: unknown token is %u of %u", unk,
			vocabulary->n_tokens);
	if (n_merges > TOKENIZER_MAX_IDS)
		return reason_set(reason, -EBADMSG, "tokenizer: %u merges, limit %u", n_merges,
			TOKENIZER_MAX_IDS);
	while (n_slots < 2 * n_merges)
		n_slots *= 2;
	b->pair_mask = n_slots - 1;
	b->pairs = calloc(n_slots, sizeof(*b->pairs));
	if (!b->pairs)
		return -ENOMEM;
	find_byte_tokens(b);
	return read_merges(b, merges_le, n_merges, reason);
}

/* Lowest rank first, leftmost among equals. */
static bool candidate_before(const struct bpe_candidate *a, const struct bpe_candidate *b)
{
	return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static int heap_push(struct bpe_scratch *s, struct bpe_candidate candidate)
{
	void *heap = s->heap;
	int r = buffer_reserve(&heap, &s->heap_capacity, s->n_heap, 1, sizeof(*s->heap));
	size_t at;

	if (r < 0)
		return r;
	s->heap = heap;
	for (at = s->n_heap++; at > 0; at = (at - 1) / 2) {
		if (!candidate_before(&candidate, &s->heap[(at - 1) / 2]))
			break;
		s->heap[at] = s->heap[(at - 1) / 2];
	}
	s->heap[at] = candidate;
	return 0;
}

static struct bpe_candidate heap_pop(struct bpe_scratch *s)
{
	struct bpe_candidate top = s->heap[0], last = s->heap[--s->n_heap];
	size_t at = 0;

	for (;;) {
		size_t child = 2 * at + 1;

		if (child >= s->n_heap)
			break;
		if (child + 1 < s->n_heap && candidate_before(&s->heap[child + 1], &s->heap[child]))
			child++;
		if (!candidate_before(&s->heap[child], &last))
			break;
		s->heap[at] = s->heap[child];
		at = child;
	}
	s->heap[at] = last;
	return top;
}

/* Queues the merge of a symbol with its right neighbour, if there is one. */
static int push_candidate(const struct bpe *b, struct bpe_scratch *s, uint32_t at)
{
	uint32_t next = s->symbols[at].next;
	const struct bpe_pair *pair;

	if (next == NO_SYMBOL)
		return 0;
	pair = find_pair(b, s->symbols[at].token, s->symbols[next].token);
	if (!pair->rank_plus_1)
		return 0;
	return heap_push(
		s, (struct bpe_candidate){
			   .rank = pair->rank_plus_1 - 1, .at = at, .merged = pair->merged});
}

/* Symbols are linked once all are there, so only the token matters here. Room is reserved. */
static void add_symbol(struct bpe_scratch *s, size_t *n_symbols, uint32_t token)
{
	s->symbols[(*n_symbols)++] = (struct bpe_symbol){.token = token};
}

static bool add_byte_tokens(const struct bpe *b, struct bpe_scratch *s, size_t *n_symbols,
	const char *character, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (b->byte_tokens[(uint8_t)character[i]] == TOKENIZER_NONE)
			return false;
	for (size_t i = 0; i < n; i++)
		add_symbol(s, n_symbols, b->byte_tokens[(uint8_t)character[i]]);
	return true;
}

/* One symbol for each character, at most one for each byte. */
static int split_characters(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t n,
	size_t *ret_n_symbols)
{
	void *symbols = s->symbols;
	int r = buffer_reserve(&symbols, &s->symbol_capacity, 0, n, sizeof(*s->symbols));
	bool after_unk = false;
	size_t n_symbols = 0, length;

	if (r < 0)
		return r;
	s->symbols = symbols;
	for (size_t at = 0; at < n; at += length) {
		uint32_t token;

		length = utf8_length(word[at]);
		token = vocabulary_find(b->vocabulary, word + at, length);
		if (token != TOKENIZER_NONE) {
			add_symbol(s, &n_symbols, token);
			after_unk = false;
			continue;
		}
		if ((b->flags & TOKENIZER_BYTE_FALLBACK) &&
			add_byte_tokens(b, s, &n_symbols, word + at, length)) {
			after_unk = false;
			continue;
		}
		if (b->unk == TOKENIZER_NONE || (after_unk && (b->flags & TOKENIZER_FUSE_UNK)))
			continue;
		add_symbol(s, &n_symbols, b->unk);
		after_unk = true;
	}
	*ret_n_symbols = n_symbols;
	return 0;
}

static void apply_merge(struct bpe_scratch *s, const struct bpe_candidate *merge)
{
	struct bpe_symbol *left = &s->symbols[merge->at];
	struct bpe_symbol *right = &s->symbols[left->next];

	left->token = merge->merged;
	left->next = right->next;
	right->dead = true;
	if (left->next != NO_SYMBOL)
		s->symbols[left->next].previous = merge->at;
}

/* Has nothing happened to the two symbols since the candidate was pushed? */
static bool candidate_holds(
	const struct bpe *b, const struct bpe_scratch *s, const struct bpe_candidate *c)
{
	const struct bpe_symbol *left = &s->symbols[c->at];
	const struct bpe_pair *pair;

	if (left->dead || left->next == NO_SYMBOL)
		return false;
	pair = find_pair(b, left->token, s->symbols[left->next].token);
	return pair->rank_plus_1 && pair->merged == c->merged;
}

static int merge_all(const struct bpe *b, struct bpe_scratch *s, size_t n_symbols)
{
	int r;

	s->n_heap = 0;
	for (size_t i = 0; i < n_symbols; i++) {
		s->symbols[i].previous = i ? (uint32_t)i - 1 : NO_SYMBOL;
		s->symbols[i].next = i + 1 < n_symbols ? (uint32_t)i + 1 : NO_SYMBOL;
	}
	for (size_t i = 0; i < n_symbols; i++) {
		r = push_candidate(b, s, (uint32_t)i);
		if (r < 0)
			return r;
	}
	while (s->n_heap) {
		struct bpe_candidate best = heap_pop(s);

		if (!candidate_holds(b, s, &best))
			continue;
		apply_merge(s, &best);
		r = push_candidate(b, s, best.at);
		if (r == 0 && s->symbols[best.at].previous != NO_SYMBOL)
			r = push_candidate(b, s, s->symbols[best.at].previous);
		if (r < 0)
			return r;
	}
	return 0;
}

int bpe_encode(const struct bpe *b, struct bpe_scratch *scratch, const char *word, size_t n,
	struct id_list *tokens)
{
	size_t n_symbols;
	int r;

	if (b->flags & TOKENIZER_IGNORE_MERGES) {
		uint32_t whole = vocabulary_find(b->vocabulary, word, n);

		if (whole != TOKENIZER_NONE)
			return id_list_append(tokens, whole);
	}
	r = split_characters(b, scratch, word, n, &n_symbols);
	if (r == 0)
		r = merge_all(b, scratch, n_symbols);
	for (size_t i = 0; r == 0 && i < n_symbols; i++)
		if (!scratch->symbols[i].dead)
			r = id_list_append(tokens, scratch->symbols[i].token);
	return r;
}
