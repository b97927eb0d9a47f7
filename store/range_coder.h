/*
 * Adaptive binary range coding: a sequence of bits, each with a probability that both sides learn
 * from the bits before it, in about as many bits as its entropy. Integer arithmetic only, so the
 * same bits give the same bytes everywhere.
 *
 * The coder narrows an interval [low, low + range) of 64-bit fractions; range stays at or above
 * 2^32, 32 bits leave at a time, and a carry runs back into the words already written. The bytes
 * are little-endian 32-bit words: the shortest whole words whose value, zeros following, lies in
 * the last interval, and the smallest such value. Exactly one string of bytes therefore stands for
 * a sequence of decisions, and the decoder refuses every other at its end.
 */
#pragma once

#include "common/base.h"

#include <endian.h>
#include <string.h>

#define RANGE_WORD sizeof(uint32_t)

/* What is known of one kind of bit. The first bits move it fast, later ones by 1/1024. */
struct range_bit {
	uint32_t one;  /* probability of a 1, in 2^-32 */
	uint32_t seen; /* bits, up to RANGE_BIT_SEEN */
};

#define RANGE_BIT_SEEN 1022
#define RANGE_BIT_HALF (UINT32_C(1) << 15)

/* Begins with a probability in 2^-16, taken as seriously as `seen` bits. */
static inline struct range_bit range_bit_of(uint32_t one, uint32_t seen)
{
	return (struct range_bit){.one = one << 16, .seen = seen};
}

/* Probability of a 1 in 2^-16: 1 to 65535. */
static inline uint32_t range_bit_one(const struct range_bit *b)
{
	return b->one >> 16 | 1;
}

static inline void range_bit_learn(struct range_bit *b, bool bit)
{
	int shift = 31 - __builtin_clz(b->seen + 2);

	if (bit)
		b->one += (UINT32_MAX - b->one) >> shift;
	else
		b->one -= b->one >> shift;
	b->seen += b->seen < RANGE_BIT_SEEN;
}

/* The same, `zero` being all ones for a 0 and nothing for a 1. */
static inline void range_bit_learn_close(struct range_bit *b, uint32_t zero)
{
	int shift = 31 - __builtin_clz(b->seen + 2);

	b->one += ((UINT32_MAX - b->one) >> shift & ~zero) - (b->one >> shift & zero);
	b->seen += b->seen < RANGE_BIT_SEEN;
}

struct range_encoder {
	uint64_t low, range;
	uint8_t *bytes; /* owned */
	size_t n, capacity, limit;
	int error; /* 0, -ENOMEM or -EFBIG; sticks, the calls after it do nothing */
};

/* Writes at most `limit` bytes. */
void range_encoder_begin(struct range_encoder *e, size_t limit);
/* Ends the sequence and hands the malloc'ed bytes over: at least one word. After it, as after
 * range_encoder_done(), the encoder owns nothing. */
int range_encoder_finish(struct range_encoder *e, uint8_t **ret, size_t *ret_n) _must_check_;
void range_encoder_done(struct range_encoder *e);
/* The rare ends of range_encode_split(). */
void range_encoder_carry(struct range_encoder *e);
void range_encoder_shift(struct range_encoder *e);

static inline void range_encode_split(struct range_encoder *e, uint64_t bound, bool bit)
{
	if (bit) {
		e->range = bound;
	} else {
		e->low += bound;
		e->range -= bound;
		if (e->low < bound)
			range_encoder_carry(e);
	}
	if (e->range >> 32 == 0)
		range_encoder_shift(e);
}

static inline void range_encode(struct range_encoder *e, struct range_bit *b, bool bit)
{
	range_encode_split(e, (e->range >> 16) * range_bit_one(b), bit);
	range_bit_learn(b, bit);
}

/* A bit that is as often 0 as 1. */
static inline void range_encode_even(struct range_encoder *e, bool bit)
{
	range_encode_split(e, e->range >> 1, bit);
}

/*
 * Reads no byte outside [bytes, bytes + n). Past the end it sees zeros: decoding goes on with
 * meaningless bits, in as many steps as the caller asks for, and range_decoder_finish() fails.
 */
struct range_decoder {
	uint64_t code, range; /* code: the bytes' value above the interval's low end, below range */
	const uint8_t *at;
	size_t left;
	uint32_t n_missing; /* words asked for after the end */
	bool malformed;
};

void range_decoder_begin(struct range_decoder *d, const uint8_t *bytes, size_t n);
/* -EBADMSG unless the bits asked for have used the bytes up and no other bytes say the same. */
int range_decoder_finish(const struct range_decoder *d) _must_check_;

/* More was asked for than there is: whatever follows, the bytes are malformed. */
static inline bool range_decoder_overrun(const struct range_decoder *d)
{
	return d->malformed || d->n_missing > 1;
}

static inline uint32_t range_decoder_word(struct range_decoder *d)
{
	uint32_t word;

	if (d->left < RANGE_WORD) {
		d->n_missing += d->n_missing < 2;
		return 0;
	}
	memcpy(&word, d->at, RANGE_WORD);
	d->at += RANGE_WORD;
	d->left -= RANGE_WORD;
	return le32toh(word);
}

static inline void range_decoder_shift(struct range_decoder *d)
{
	d->code = d->code << 32 | range_decoder_word(d);
	d->range <<= 32;
}

static inline bool range_decode(struct range_decoder *d, struct range_bit *b)
{
	uint64_t bound = (d->range >> 16) * range_bit_one(b);
	bool bit = d->code < bound;

	if (bit) {
		d->range = bound;
		range_bit_learn(b, true);
	} else {
		d->code -= bound;
		d->range -= bound;
		range_bit_learn(b, false);
	}
	if (d->range >> 32 == 0)
		range_decoder_shift(d);
	return bit;
}

/* The same for a bit that is hard to guess: without a branch on it, which would often go wrong. */
static inline bool range_decode_close(struct range_decoder *d, struct range_bit *b)
{
	uint64_t bound = (d->range >> 16) * range_bit_one(b);
	uint64_t zero = (uint64_t)0 - (d->code >= bound); /* all ones for a 0 */

	d->code -= bound & zero;
	d->range = (bound & ~zero) + ((d->range - bound) & zero);
	range_bit_learn_close(b, (uint32_t)zero);
	if (d->range >> 32 == 0)
		range_decoder_shift(d);
	return zero == 0;
}

/* Likewise without a branch on the bit. */
static inline bool range_decode_even(struct range_decoder *d)
{
	uint64_t bound = d->range >> 1;
	uint64_t zero = (uint64_t)0 - (d->code >= bound); /* all ones for a 0 */

	d->code -= bound & zero;
	d->range = bound + (d->range & 1 & zero);
	if (d->range >> 32 == 0)
		range_decoder_shift(d);
	return zero == 0;
}
