#include "store/strips.h"

#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <string.h>

#define ENTRY sizeof(uint32_t)

struct strips strips_of(uint32_t rows, uint32_t cols)
{
	struct strips s = {.rows = rows, .cols = cols};

	if (rows == 0 || cols == 0)
		return s;
	s.n_rows = cols < STRIP_NUMBERS ? STRIP_NUMBERS / cols : 1;
	s.n_strips = (uint32_t)div_up(rows, s.n_rows);
	return s;
}

static uint32_t table_get(const uint8_t *table, uint32_t index)
{
	uint32_t n;

	memcpy(&n, table + index * ENTRY, ENTRY);
	return le32toh(n);
}

int strips_open(const uint8_t *bytes, uint64_t n, uint32_t rows, uint32_t cols, struct strips *ret,
	struct reason *reason)
{
	struct strips s = strips_of(rows, cols);
	uint64_t expected = s.n_strips * (uint64_t)ENTRY;

	if (n < expected)
		return reason_set(reason, -EBADMSG,
			"%" PRIu64 " coded bytes, the table of %" PRIu32 " strips needs %" PRIu64,
			n, s.n_strips, expected);
	for (uint32_t i = 0; i < s.n_strips; i++)
		expected += table_get(bytes, i);
	if (n != expected)
		return reason_set(reason, -EBADMSG,
			"%" PRIu64 " coded bytes, the table of %" PRIu32 " strips says %" PRIu64, n,
			s.n_strips, expected);
	s.bytes = bytes;
	*ret = s;
	return 0;
}

struct strip strips_get(const struct strips *s, uint32_t index)
{
	struct strip strip = {.first_row = index * s->n_rows};

	assert(index < s->n_strips);
	strip.n_rows = (uint32_t)min_u64(s->n_rows, s->rows - strip.first_row);
	if (!s->bytes)
		return strip;
	strip.bytes = s->bytes + s->n_strips * ENTRY;
	for (uint32_t i = 0; i < index; i++)
		strip.bytes += table_get(s->bytes, i);
	strip.n_bytes = table_get(s->bytes, index);
	return strip;
}

int strips_writer_begin(struct strips_writer *w, uint32_t rows, uint32_t cols)
{
	*w = (struct strips_writer){.cut = strips_of(rows, cols)};
	w->n = w->cut.n_strips * (uint64_t)ENTRY;
	if (w->n == 0)
		return 0;
	w->bytes = malloc(w->n);
	return w->bytes ? 0 : -ENOMEM;
}

int strips_writer_add(struct strips_writer *w, const uint8_t *bytes, size_t n)
{
	uint32_t entry = htole32((uint32_t)n);
	uint8_t *grown;

	assert(w->n_added < w->cut.n_strips && n <= STRIP_MAX_BYTES);
	grown = realloc(w->bytes, w->n + n);
	if (!grown)
		return -ENOMEM;
	w->bytes = grown;
	memcpy(w->bytes + w->n_added++ * ENTRY, &entry, ENTRY);
	memcpy(w->bytes + w->n, bytes, n);
	w->n += n;
	return 0;
}

void strips_writer_finish(struct strips_writer *w, uint8_t **ret, uint64_t *ret_n)
{
	assert(w->n_added == w->cut.n_strips);
	*ret_n = w->n;
	*ret = take_ptr(w->bytes);
}

void strips_writer_done(struct strips_writer *w)
{
	free(w->bytes);
	w->bytes = NULL;
}
