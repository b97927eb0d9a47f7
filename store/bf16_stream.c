#include "store/bf16_stream.h"

#include "store/range_coder.h"

#include <inttypes.h>
#include <string.h>

#define SIGN_BIT UINT16_C(0x8000)
#define N_MAGNITUDES 512   /* exponent and first bit of the mantissa */
#define N_LENGTHS 16       /* of a difference that is not zero: 1 to 16 bits */
#define N_NEIGHBOURHOODS 8 /* which of three neighbours changed */
#define LEARNT_BITS 3      /* below a difference's highest; the others are even */

struct strip_model {
	struct range_bit changed[N_MAGNITUDES][N_NEIGHBOURHOODS];
	struct range_bit length[N_MAGNITUDES][N_LENGTHS];
	struct range_bit lower[N_LENGTHS][1 << LEARNT_BITS];
	struct range_bit down[2]; /* by the base's sign: weight decay */
};

/* One strip on its way in or out. */
struct strip_state {
	struct strip_model model;
	uint32_t cols;
	uint16_t *base; /* of the row at hand; cols words; owned, as the next two */
	uint16_t *tuned;
	uint8_t *changed; /* of the row above, then of the row at hand */
};

static struct strip_state *strip_state_free(struct strip_state *s)
{
	if (!s)
		return NULL;
	free(s->base);
	free(s->tuned);
	free(s->changed);
	free(s);
	return NULL;
}

static void strip_statep(struct strip_state **s)
{
	strip_state_free(*s);
}

static void bits_begin(struct range_bit *bits, size_t n)
{
	for (size_t i = 0; i < n; i++)
		bits[i] = range_bit_of(RANGE_BIT_HALF, 0);
}

static struct strip_state *strip_state_new(uint32_t cols)
{
	_cleanup_(strip_statep) struct strip_state *s = malloc(sizeof(*s));

	if (!s)
		return NULL;
	s->cols = cols;
	s->base = malloc(cols * sizeof(*s->base));
	s->tuned = malloc(cols * sizeof(*s->tuned));
	s->changed = calloc(cols, 1);
	if (!s->base || !s->tuned || !s->changed)
		return NULL;
	bits_begin(s->model.changed[0], N_MAGNITUDES * N_NEIGHBOURHOODS);
	bits_begin(s->model.length[0], N_MAGNITUDES * N_LENGTHS);
	bits_begin(s->model.lower[0], N_LENGTHS << LEARNT_BITS);
	bits_begin(s->model.down, array_len(s->model.down));
	return take_ptr(s);
}

/* The words in the order of their numbers: negative NaNs first, -0 just below 0. */
static uint16_t order_of(uint16_t word)
{
	return word & SIGN_BIT ? (uint16_t)~word : word | SIGN_BIT;
}

static uint16_t word_of(uint16_t order)
{
	return order & SIGN_BIT ? order & (uint16_t)~SIGN_BIT : (uint16_t)~order;
}

static uint32_t magnitude_of(uint16_t word)
{
	return word >> 6 & (N_MAGNITUDES - 1);
}

/*
 * A difference, -32768 to 32767 around the circle of words, said and read: each pair of functions
 * is to be changed together. The longest one is -32768 alone, with nothing more to say.
 */
static void encode_length(struct range_encoder *e, struct range_bit *tree, uint32_t length)
{
	for (uint32_t node = 1, bit = 4; bit-- > 0;) {
		bool one = (length - 1) >> bit & 1;

		range_encode(e, &tree[node], one);
		node = 2 * node + one;
	}
}

static inline uint32_t decode_length(struct range_decoder *d, struct range_bit *tree)
{
	uint32_t node = 1;

	while (node < N_LENGTHS)
		node = 2 * node + range_decode_close(d, &tree[node]);
	return node - N_LENGTHS + 1;
}

static void encode_lower(
	struct range_encoder *e, struct range_bit *tree, uint32_t length, uint32_t value)
{
	for (uint32_t node = 1, bit = length - 1; bit-- > 0;) {
		bool one = value >> bit & 1;

		if (node < 1 << LEARNT_BITS)
			range_encode(e, &tree[node], one);
		else
			range_encode_even(e, one);
		node = 2 * node + one;
	}
}

/* Below the highest bit the value grows like the way through the tree. */
static inline uint32_t decode_lower(
	struct range_decoder *d, struct range_bit *tree, uint32_t length)
{
	uint32_t value = 1;

	for (uint32_t left = length - 1; left > 0; left--)
		value = 2 * value + (value < 1 << LEARNT_BITS ? range_decode_close(d, &tree[value])
							      : range_decode_even(d));
	return value;
}

static void encode_difference(
	struct range_encoder *e, struct strip_model *m, uint16_t base, int difference)
{
	uint32_t value = (uint32_t)abs(difference);
	uint32_t length = 32 - (uint32_t)__builtin_clz(value);

	encode_length(e, m->length[magnitude_of(base)], length);
	if (length == N_LENGTHS)
		return;
	range_encode(e, &m->down[base >> 15], difference < 0);
	encode_lower(e, m->lower[length - 1], length, value);
}

static inline int decode_difference(struct range_decoder *d, struct strip_model *m, uint16_t base)
{
	uint32_t length = decode_length(d, m->length[magnitude_of(base)]);
	bool down;
	int value;

	if (length == N_LENGTHS)
		return INT16_MIN;
	down = range_decode_close(d, &m->down[base >> 15]);
	value = (int)decode_lower(d, m->lower[length - 1], length);
	return down ? -value : value;
}

/* Which of the words left, two left and above changed. */
static uint32_t neighbourhood(const uint8_t *changed, uint32_t c)
{
	uint32_t left = c > 0 ? changed[c - 1] : 0, second = c > 1 ? changed[c - 2] : left;

	return left | second << 1 | (uint32_t)changed[c] << 2;
}

static void encode_row(struct range_encoder *e, struct strip_state *s)
{
	for (uint32_t c = 0; c < s->cols; c++) {
		uint16_t base = s->base[c];
		int difference = (int16_t)(order_of(s->tuned[c]) - order_of(base));
		uint32_t near = neighbourhood(s->changed, c);

		range_encode(e, &s->model.changed[magnitude_of(base)][near], difference != 0);
		if (difference != 0)
			encode_difference(e, &s->model, base, difference);
		s->changed[c] = difference != 0;
	}
}

static void decode_row(struct range_decoder *d, struct strip_state *s)
{
	for (uint32_t c = 0; c < s->cols; c++) {
		uint16_t base = s->base[c];
		uint32_t near = neighbourhood(s->changed, c);
		bool changed = range_decode(d, &s->model.changed[magnitude_of(base)][near]);
		int difference = changed ? decode_difference(d, &s->model, base) : 0;

		s->tuned[c] = word_of((uint16_t)(order_of(base) + difference));
		s->changed[c] = changed;
	}
}

static int encode_strip(const struct strip *strip, uint32_t cols, const struct bf16_rows *base,
	const struct bf16_rows *tuned, struct strips_writer *out)
{
	_cleanup_(strip_statep) struct strip_state *s = strip_state_new(cols);
	_cleanup_(freep) uint8_t *bytes = NULL;
	struct range_encoder e;
	size_t n;
	int r;

	if (!s)
		return -ENOMEM;
	range_encoder_begin(&e, STRIP_MAX_BYTES);
	for (uint32_t row = 0; row < strip->n_rows; row++) {
		base->get(base->user, strip->first_row + row, s->base);
		tuned->get(tuned->user, strip->first_row + row, s->tuned);
		encode_row(&e, s);
	}
	r = range_encoder_finish(&e, &bytes, &n);
	return r < 0 ? r : strips_writer_add(out, bytes, n);
}

int bf16_stream_encode(uint32_t rows, uint32_t cols, const struct bf16_rows *base,
	const struct bf16_rows *tuned, uint8_t **ret, uint64_t *ret_n)
{
	_cleanup_(strips_writer_done) struct strips_writer out = {0};
	int r = strips_writer_begin(&out, rows, cols);

	for (uint32_t i = 0; r == 0 && i < out.cut.n_strips; i++) {
		struct strip strip = strips_get(&out.cut, i);

		r = encode_strip(&strip, cols, base, tuned, &out);
	}
	if (r < 0)
		return r;
	strips_writer_finish(&out, ret, ret_n);
	return 0;
}

int bf16_stream_open(const uint8_t *bytes, uint64_t n, uint32_t rows, uint32_t cols,
	struct strips *ret, struct reason *reason)
{
	return strips_open(bytes, n, rows, cols, ret, reason);
}

int bf16_stream_decode_strip(const struct strips *strips, uint32_t index,
	const struct bf16_rows *base, bf16_row_fn *take, void *user, struct reason *reason)
{
	_cleanup_(strip_statep) struct strip_state *s = strip_state_new(strips->cols);
	struct strip strip = strips_get(strips, index);
	struct range_decoder d;

	if (!s)
		return reason_set(reason, -ENOMEM, "out of memory");
	range_decoder_begin(&d, strip.bytes, strip.n_bytes);
	for (uint32_t row = 0; row < strip.n_rows && !range_decoder_overrun(&d); row++) {
		base->get(base->user, strip.first_row + row, s->base);
		decode_row(&d, s);
		take(user, strip.first_row + row, s->tuned);
	}
	if (range_decoder_finish(&d) < 0)
		return reason_set(reason, -EBADMSG,
			"strip %" PRIu32 " of coded words does not end with its %zu bytes", index,
			strip.n_bytes);
	return 0;
}

int bf16_stream_decode(const struct strips *s, const struct bf16_rows *base, bf16_row_fn *take,
	void *user, struct reason *reason)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < s->n_strips; i++)
		r = bf16_stream_decode_strip(s, i, base, take, user, reason);
	return r;
}
