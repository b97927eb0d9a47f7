#include "engine/added_tokens.h"
#include "engine/utf8.h"

#include <string.h>

static int compare_tokens(const void *left, const void *right)
{
	const struct added_token *a = left, *b = right;
	int order = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);

	if (order)
		return order;
	if (a->n != b->n)
		return a->n < b->n ? -1 : 1;
	return a->id < b->id ? -1 : a->id > b->id;
}

void added_tokens_sort(struct added_tokens *set)
{
	memset(set->begins, 0, sizeof(set->begins));
	if (set->n_items)
		qsort(set->items, set->n_items, sizeof(*set->items), compare_tokens);
	for (size_t i = 0; i < set->n_items; i++)
		set->begins[(uint8_t)set->items[i].text[0]] = true;
}

void added_tokens_done(struct added_tokens *set)
{
	free(set->items);
	set->items = NULL;
	set->n_items = 0;
}

/* First token in [low, high), all alike before `depth`, whose byte there is not below `byte`;
 * tokens that end at `depth` sort first and count as below. */
static size_t lower_bound(
	const struct added_tokens *set, size_t low, size_t high, size_t depth, int byte)
{
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct added_token *t = &set->items[middle];
		int here = t->n > depth ? (uint8_t)t->text[depth] : -1;

		if (here < byte)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The longest token that the text begins with, by narrowing the sorted list byte by byte. */
static const struct added_token *longest_at(
	const struct added_tokens *set, const char *text, size_t n)
{
	const struct added_token *best = NULL;
	size_t low = 0, high = set->n_items;

	for (size_t depth = 0; depth < n; depth++) {
		int byte = (uint8_t)text[depth];

		low = lower_bound(set, low, high, depth, byte);
		high = lower_bound(set, low, high, depth, byte + 1);
		if (low == high)
			break;
		if (set->items[low].n == depth + 1)
			best = &set->items[low];
	}
	return best;
}

static bool word_ends_at(const char *text, size_t at)
{
	return at > 0 && utf8_is_word(utf8_decode(text + utf8_previous(text, at)));
}

static bool word_begins_at(const char *text, size_t n, size_t at)
{
	return at < n && utf8_is_word(utf8_decode(text + at));
}

bool guards_touch(const struct guard *guards, size_t n_guards, size_t start, size_t end)
{
	size_t low = 0, high = n_guards;

	/* The first guard that ends after `start` is the only one that can begin before `end`
	 * without an earlier one doing so too. */
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (guards[middle].end <= start)
			low = middle + 1;
		else
			high = middle;
	}
	return low < n_guards && guards[low].start < end;
}

static size_t skip_space_back(const char *text, size_t from, size_t at)
{
	while (at > from) {
		size_t previous = utf8_previous(text, at);

		if (!utf8_is_space(utf8_decode(text + previous)))
			break;
		at = previous;
	}
	return at < from ? from : at;
}

static size_t skip_space(const char *text, size_t n, size_t at)
{
	while (at < n && utf8_is_space(utf8_decode(text + at)))
		at += utf8_length(text[at]);
	return at;
}

bool added_tokens_find(const struct added_tokens *set, const char *text, size_t n, size_t from,
	const struct guard *guards, size_t n_guards, struct added_match *ret)
{
	for (size_t at = from; at < n; at++) {
		const struct added_token *token;
		size_t end;

		if (!set->begins[(uint8_t)text[at]])
			continue;
		token = longest_at(set, text + at, n - at);
		if (!token)
			continue;
		end = at + token->n;
		if ((token->flags & TOKENIZER_ADDED_SPECIAL) &&
			guards_touch(guards, n_guards, at, end))
			continue;
		if ((token->flags & TOKENIZER_ADDED_SINGLE_WORD) &&
			(word_ends_at(text, at) || word_begins_at(text, n, end)))
			continue;
		*ret = (struct added_match){
			.token = token,
			.start = token->flags & TOKENIZER_ADDED_LSTRIP
					 ? skip_space_back(text, from, at)
					 : at,
			.end = token->flags & TOKENIZER_ADDED_RSTRIP ? skip_space(text, n, end)
								     : end,
		};
		return true;
	}
	return false;
}
