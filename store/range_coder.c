#include "store/range_coder.h"

#define FIRST_CAPACITY 4096

void range_encoder_begin(struct range_encoder *e, size_t limit)
{
	*e = (struct range_encoder){.range = UINT64_MAX, .limit = limit};
}

void range_encoder_done(struct range_encoder *e)
{
	free(e->bytes);
	*e = (struct range_encoder){.range = UINT64_MAX};
}

static int reserve_word(struct range_encoder *e)
{
	size_t capacity = e->capacity ? 2 * e->capacity : FIRST_CAPACITY;
	uint8_t *bytes;

	if (!range_inside(e->n, RANGE_WORD, e->limit))
		return -EFBIG;
	if (range_inside(e->n, RANGE_WORD, e->capacity))
		return 0;
	bytes = realloc(e->bytes, capacity);
	if (!bytes)
		return -ENOMEM;
	e->bytes = bytes;
	e->capacity = capacity;
	return 0;
}

static void put_word(struct range_encoder *e, uint32_t word)
{
	if (e->error == 0)
		e->error = reserve_word(e);
	if (e->error < 0)
		return;
	word = htole32(word);
	memcpy(e->bytes + e->n, &word, RANGE_WORD);
	e->n += RANGE_WORD;
}

void range_encoder_shift(struct range_encoder *e)
{
	put_word(e, (uint32_t)(e->low >> 32));
	e->low <<= 32;
	e->range <<= 32;
}

/* The fraction as a whole stays below 1, so some word before the end can take it. */
void range_encoder_carry(struct range_encoder *e)
{
	uint32_t word = 0;

	for (size_t at = e->n; word == 0 && at > 0; at -= RANGE_WORD) {
		memcpy(&word, e->bytes + at - RANGE_WORD, RANGE_WORD);
		word = htole32(le32toh(word) + 1);
		memcpy(e->bytes + at - RANGE_WORD, &word, RANGE_WORD);
	}
}

/* The smallest value of the interval whose low half is zero; there is one, as range is 2^32 or
 * more. */
int range_encoder_finish(struct range_encoder *e, uint8_t **ret, size_t *ret_n)
{
	uint64_t last = e->low + UINT32_MAX;
	int r;

	if (last < e->low)
		range_encoder_carry(e);
	put_word(e, (uint32_t)(last >> 32));
	r = e->error;
	if (r == 0) {
		*ret_n = e->n;
		*ret = take_ptr(e->bytes);
	}
	range_encoder_done(e);
	return r;
}

void range_decoder_begin(struct range_decoder *d, const uint8_t *bytes, size_t n)
{
	*d = (struct range_decoder){.range = UINT64_MAX, .at = bytes, .left = n};
	d->malformed = n == 0 || n % RANGE_WORD != 0;
	d->code = (uint64_t)range_decoder_word(d) << 32;
	d->code |= range_decoder_word(d);
	/* No encoder gets to the interval's end; below it, code stays below range for good. */
	if (d->code == UINT64_MAX) {
		d->malformed = true;
		d->code = 0;
	}
}

/* The decoder is one word ahead: the word of zeros that follows the last one. */
int range_decoder_finish(const struct range_decoder *d)
{
	if (d->malformed || d->left != 0 || d->n_missing != 1 || d->code >> 32 != 0)
		return -EBADMSG;
	return 0;
}
