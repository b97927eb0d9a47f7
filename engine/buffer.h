/*
 * Arrays that grow: bytes of text and lists of numbers. Each doubles its room, so appending is
 * linear in all; the owner frees `items`.
 */
#pragma once

#include "common/base.h"

#include <endian.h>
#include <string.h>

struct text {
	char *items;
	size_t n, capacity;
};

struct id_list {
	uint32_t *items;
	size_t n, capacity;
};

static inline void text_done(struct text *t)
{
	free(t->items);
	*t = (struct text){0};
}

static inline void id_list_done(struct id_list *l)
{
	free(l->items);
	*l = (struct id_list){0};
}

/* Room for `more` further items of `size` bytes in an array of `n`. -ENOMEM, also on overflow. */
static inline _must_check_ int buffer_reserve(
	void **items, size_t *capacity, size_t n, size_t more, size_t size)
{
	uint64_t need, bytes;
	size_t grown = *capacity < 8 ? 8 : *capacity;
	void *moved;

	if (!add_u64(n, more, &need) || !mul_u64(need, 2 * size, &bytes) || bytes > PTRDIFF_MAX)
		return -ENOMEM;
	if (need <= *capacity)
		return 0;
	while (grown < need)
		grown *= 2;
	moved = realloc(*items, grown * size);
	if (!moved)
		return -ENOMEM;
	*items = moved;
	*capacity = grown;
	return 0;
}

/* Room for `more` further bytes. */
static inline _must_check_ int text_reserve(struct text *t, size_t more)
{
	void *items = t->items;
	int r = buffer_reserve(&items, &t->capacity, t->n, more, 1);

	t->items = items;
	return r;
}

static inline _must_check_ int text_append(struct text *t, const void *bytes, size_t n)
{
	int r = text_reserve(t, n);

	if (r < 0)
		return r;
	if (n)
		memcpy(t->items + t->n, bytes, n);
	t->n += n;
	return 0;
}

/* Little-endian. */
static inline _must_check_ int text_append_u32(struct text *t, uint32_t value)
{
	value = htole32(value);
	return text_append(t, &value, sizeof(value));
}

static inline _must_check_ int id_list_append(struct id_list *l, uint32_t id)
{
	void *items = l->items;
	int r = buffer_reserve(&items, &l->capacity, l->n, 1, sizeof(*l->items));

	if (r < 0)
		return r;
	l->items = items;
	l->items[l->n++] = id;
	return 0;
}
