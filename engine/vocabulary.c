#include "engine/vocabulary.h"
#include "engine/hash.h"
#include "engine/tokenizer_tables.h"
#include "engine/utf8.h"

#include <endian.h>

void vocabulary_done(struct vocabulary *v)
{
	free(v->ends);
	free(v->slots);
	*v = (struct vocabulary){0};
}

static int read_ends(
	struct vocabulary *v, const uint8_t *ends_le, uint32_t n_text, struct reason *reason)
{
	uint32_t start = 0;

	for (uint32_t id = 0; id < v->n_tokens; id++) {
		uint32_t end;

		memcpy(&end, ends_le + 4 * (size_t)id, 4);
		end = le32toh(end);
		if (end < start || end > n_text)
			return reason_set(reason, -EBADMSG,
				"tokenizer: token %u ends at %u, outside [%u, %u]", id, end, start,
				n_text);
		if (end - start > TOKENIZER_MAX_TOKEN_BYTES)
			return reason_set(reason, -EBADMSG,
				"tokenizer: token %u has %u bytes, limit %u", id, end - start,
				TOKENIZER_MAX_TOKEN_BYTES);
		if (!utf8_is_border(v->text, n_text, end))
			return reason_set(reason, -EBADMSG,
				"tokenizer: token %u ends inside a character", id);
		v->ends[id] = end;
		start = end;
	}
	return 0;
}

/* The slot that holds the spelling, or the empty one where it would go. */
static uint32_t *find_slot(const struct vocabulary *v, const char *token, size_t n)
{
	uint32_t at = (uint32_t)hash_bytes(v->seed, token, n) & v->slot_mask;

	for (;; at = (at + 1) & v->slot_mask) {
		const char *other;
		size_t n_other;

		if (!v->slots[at])
			return &v->slots[at];
		other = vocabulary_token(v, v->slots[at] - 1, &n_other);
		if (n_other == n && memcmp(other, token, n) == 0)
			return &v->slots[at];
	}
}

static int fill_slots(struct vocabulary *v, struct reason *reason)
{
	for (uint32_t id = 0; id < v->n_tokens; id++) {
		size_t n;
		const char *token = vocabulary_token(v, id, &n);
		uint32_t *slot;

		if (n == 0)
			continue;
		slot = find_slot(v, token, n);
		if (*slot)
			return reason_set(reason, -EBADMSG,
				"tokenizer: tokens %u and %u have the same spelling", *slot - 1,
				id);
		*slot = id + 1;
	}
	return 0;
}

int vocabulary_init(struct vocabulary *v, const uint8_t *ends_le, uint32_t n_tokens,
	const char *text, uint32_t n_text, struct reason *reason)
{
	uint32_t n_slots = 16;
	int r;

	*v = (struct vocabulary){.n_tokens = n_tokens, .text = text, .seed = hash_seed()};
	if (n_tokens > TOKENIZER_MAX_IDS)
		return reason_set(reason, -EBADMSG, "tokenizer: %u tokens, limit %u", n_tokens,
			TOKENIZER_MAX_IDS);
	while (n_slots < 2 * n_tokens)
		n_slots *= 2;
	v->slot_mask = n_slots - 1;
	v->ends = malloc(sizeof(*v->ends) * ((size_t)n_tokens + 1));
	v->slots = calloc(n_slots, sizeof(*v->slots));
	if (!v->ends || !v->slots)
		return -ENOMEM;
	r = read_ends(v, ends_le, n_text, reason);
	if (r < 0)
		return r;
	return fill_slots(v, reason);
}

uint32_t vocabulary_find(const struct vocabulary *v, const char *token, size_t n)
{
	uint32_t slot = *find_slot(v, token, n);

	return slot ? slot - 1 : TOKENIZER_NONE;
}
