#include "store/dropout.h"

#include "common/random.h"
#include "kernels/pack.h"

#include <string.h>

#define BITMAP_WORDS (DROPOUT_MAX_GROUP / 64)

struct stream {
	uint64_t key;
	uint64_t n_drawn;
};

/* A number below n, every one as likely: the high word of a product; what would favour some is
 * drawn again (Lemire 2019). */
static uint32_t stream_below(struct stream *s, uint32_t n)
{
	uint32_t unfair = (uint32_t)(-n) % n;
	uint64_t product;

	do {
		product = (mix64_at(s->key, s->n_drawn) >> 32) * n;
		s->n_drawn++;
	} while ((uint32_t)product < unfair);
	return (uint32_t)(product >> 32);
}

/* Adds a column; false if it was there. */
static bool bitmap_add(uint64_t *bitmap, uint32_t column)
{
	uint64_t bit = UINT64_C(1) << (column % 64);

	if (bitmap[column / 64] & bit)
		return false;
	bitmap[column / 64] |= bit;
	return true;
}

/* Floyd's sampling: as many draws as places, whatever the size of the group. */
static void draw_several(
	struct stream *s, uint32_t group_size, uint32_t n_keep, uint16_t *ret_columns)
{
	uint64_t bitmap[BITMAP_WORDS];
	uint32_t n_words = (group_size + 63) / 64;

	memset(bitmap, 0, n_words * sizeof(*bitmap));
	for (uint32_t last = group_size - n_keep; last < group_size; last++)
		if (!bitmap_add(bitmap, stream_below(s, last + 1)))
			(void)bitmap_add(bitmap, last);
	for (uint32_t w = 0; w < n_words; w++)
		for (uint64_t rest = bitmap[w]; rest; rest &= rest - 1)
			*ret_columns++ = (uint16_t)(w * 64 + (uint32_t)__builtin_ctzll(rest));
}

void dropout_draw(uint64_t seed, uint32_t row, uint32_t group, uint32_t group_size, uint32_t n_keep,
	uint16_t *ret_columns)
{
	struct stream s = {.key = mix64_at(mix64_at(seed, row), group)};

	if (n_keep == 1)
		ret_columns[0] = (uint16_t)stream_below(&s, group_size);
	else
		draw_several(&s, group_size, n_keep, ret_columns);
}

uint64_t dropout_seed(uint64_t seed, uint32_t role, uint32_t layer, uint32_t attempt)
{
	return mix64_at(mix64_at(seed, (uint64_t)layer << 32 | role), attempt);
}

static int check_shape(const struct dropout_shape *s, struct reason *reason)
{
	if (s->rows == 0 || s->cols == 0)
		return reason_set(
			reason, -EBADMSG, "dropout of %u x %u: no numbers", s->rows, s->cols);
	if (s->bits == 0 || s->bits > DROPOUT_MAX_BITS)
		return reason_set(reason, -EBADMSG, "dropout codes of %u bits, expected 1 to %u",
			s->bits, DROPOUT_MAX_BITS);
	if (s->group == 0 || s->cols % s->group != 0)
		return reason_set(reason, -EBADMSG,
			"dropout groups of %u columns do not divide a row of %u", s->group,
			s->cols);
	if (s->n_keep == 0 || s->n_keep > s->group)
		return reason_set(reason, -EBADMSG,
			"dropout keeps %u of each %u columns, expected 1 to all", s->n_keep,
			s->group);
	if (dropmat_index_bits(s->group) + s->bits > DROPOUT_ENTRY_BITS)
		return reason_set(reason, -EBADMSG,
			"dropout groups of %u columns with %u-bit codes: an entry has %u bits",
			s->group, s->bits, DROPOUT_ENTRY_BITS);
	return 0;
}

int dropout_layout(const struct dropout_shape *s, struct dropout_layout *ret, struct reason *reason)
{
	struct dropout_layout l;
	int r;

	r = check_shape(s, reason);
	if (r < 0)
		return r;
	/* At most cols entries a row, so that none of this can wrap: 2^32 x 2^32 codes would. */
	l.n_groups = s->cols / s->group;
	l.entries_of_row = l.n_groups * s->n_keep;
	l.index_bits = dropmat_index_bits(s->group);
	l.entry_bytes = dropmat_entry_bits(l.index_bits, s->bits) / 8;
	l.n_codes = (uint64_t)s->rows * l.entries_of_row;
	if (!mul_u64(l.n_codes, s->bits, &l.code_bytes) ||
		!mul_u64(l.n_codes, l.entry_bytes, &l.expanded_bytes))
		return reason_set(
			reason, -EBADMSG, "dropout of %u x %u is too large", s->rows, s->cols);
	l.code_bytes = div_up(l.code_bytes, 8);
	*ret = l;
	return 0;
}

/* Where the codes of a row come from: packed, or a byte each. */
struct code_source {
	const uint8_t *packed, *bytes; /* one of them */
	uint32_t bits;
};

static uint32_t code_at(const struct code_source *c, uint64_t i)
{
	uint64_t bit = i * c->bits;
	uint32_t shift = bit % 8;
	uint32_t mask = (1u << c->bits) - 1;
	uint32_t window;

	if (c->bytes)
		return c->bytes[i] & mask;
	window = c->packed[bit / 8];
	/* The next byte is read only if the code reaches into it: it may be past the end. */
	if (shift + c->bits > 8)
		window |= (uint32_t)c->packed[bit / 8 + 1] << 8;
	return window >> shift & mask;
}

static void expand_row(const struct dropout_shape *s, uint64_t seed, const struct code_source *c,
	uint32_t row, void *entries)
{
	uint16_t columns[DROPOUT_MAX_GROUP];
	const struct dropmat m = {.index_bits = dropmat_index_bits(s->group), .bits = s->bits};
	uint32_t n_groups = s->cols / s->group;
	uint64_t at = (uint64_t)row * n_groups * s->n_keep;

	for (uint32_t g = 0; g < n_groups; g++) {
		dropout_draw(seed, row, g, s->group, s->n_keep, columns);
		for (uint32_t i = 0; i < s->n_keep; i++, at++)
			dropmat_entry_put(&m, entries, at, columns[i], (uint8_t)code_at(c, at));
	}
}

void dropout_expand_rows(const struct dropout_shape *s, uint64_t seed, const uint8_t *packed,
	uint32_t row0, uint32_t row1, void *entries)
{
	const struct code_source c = {.packed = packed, .bits = s->bits};

	for (uint32_t row = row0; row < row1; row++)
		expand_row(s, seed, &c, row, entries);
}

void dropout_expand_bytes(const struct dropout_shape *s, uint64_t seed, const uint8_t *codes,
	uint32_t row0, uint32_t row1, void *entries)
{
	const struct code_source c = {.bytes = codes, .bits = s->bits};

	for (uint32_t row = row0; row < row1; row++)
		expand_row(s, seed, &c, row, entries);
}

void dropout_pack(const uint8_t *codes, uint64_t n_codes, uint32_t bits, uint8_t *ret)
{
	uint64_t n_bytes = div_up(n_codes * bits, 8);

	memset(ret, 0, n_bytes);
	for (uint64_t i = 0; i < n_codes; i++) {
		uint64_t bit = i * bits;
		uint32_t shifted = (uint32_t)codes[i] << (bit % 8);

		ret[bit / 8] |= (uint8_t)shifted;
		if (shifted >> 8)
			ret[bit / 8 + 1] |= (uint8_t)(shifted >> 8);
	}
}
