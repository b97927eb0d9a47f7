#include "compress/sequences.h"

#include <endian.h>
#include <string.h>

static int make_room(struct sequences *s, size_t n)
{
	struct sequence *items = reallocarray(s->items, s->n + 1, sizeof(*items));
	uint32_t *ids;

	if (!items)
		return -ENOMEM;
	s->items = items;
	ids = reallocarray(s->ids, s->n_ids + n, sizeof(*ids));
	if (!ids)
		return -ENOMEM;
	s->ids = ids;
	return 0;
}

int sequences_add(struct sequences *s, const uint32_t *ids, size_t n, size_t answer)
{
	int r;

	if (n < 2 || n > UINT32_MAX || answer < 1 || answer >= n)
		return -EINVAL;
	r = make_room(s, n);
	if (r < 0)
		return r;
	memcpy(s->ids + s->n_ids, ids, n * sizeof(*ids));
	s->items[s->n++] =
		(struct sequence){.first = s->n_ids, .n = (uint32_t)n, .answer = (uint32_t)answer};
	s->n_ids += n;
	return 0;
}

void sequences_done(struct sequences *s)
{
	free(s->items);
	free(s->ids);
	*s = (struct sequences){0};
}

size_t sequences_read(const struct sequences *s)
{
	return s->n_ids - s->n;
}

size_t sequences_judged(const struct sequences *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++)
		n += s->items[i].n - s->items[i].answer;
	return n;
}

int sequences_add_some(struct sequences *s, const struct sequences *all, size_t n_tokens)
{
	size_t every = div_up(sequences_read(all), n_tokens);
	int r = 0;

	for (size_t i = 0; r == 0 && i < all->n; i += every)
		r = sequences_add(s, sequence_ids(all, i), all->items[i].n, all->items[i].answer);
	return r;
}

uint32_t sequences_longest(const struct sequences *s)
{
	uint32_t longest = 0;

	for (size_t i = 0; i < s->n; i++)
		longest = longest > s->items[i].n ? longest : s->items[i].n;
	return longest;
}

void sequences_digest(const struct sequences *s, struct digest_state *state)
{
	for (size_t i = 0; i < s->n_ids; i++) {
		uint32_t id = htole32(s->ids[i]);

		digest_add(state, &id, sizeof(id));
	}
}

size_t ids_first_beyond(const uint32_t *ids, size_t n, uint32_t vocab)
{
	size_t i = 0;

	while (i < n && ids[i] < vocab)
		i++;
	return i;
}

int ids_check(const uint32_t *ids, size_t n, uint32_t vocab, struct reason *reason)
{
	size_t i = ids_first_beyond(ids, n, vocab);

	if (i == n)
		return 0;
	return reason_set(reason, -EBADMSG,
		"the tokenizer makes id %u, the model has a vocabulary of %u", ids[i], vocab);
}

int sequences_check(const struct sequences *s, uint32_t vocab, struct reason *reason)
{
	size_t i = ids_first_beyond(s->ids, s->n_ids, vocab);

	if (i == s->n_ids)
		return 0;
	return reason_set(reason, -EBADMSG,
		"token %u of the sequences is outside the vocabulary of %u", s->ids[i], vocab);
}
