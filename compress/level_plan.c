#include "compress/level_plan.h"

#include <string.h>

/* Components of one matrix that stay together, after those of the stretch before. */
struct stretch {
	size_t matrix;
	uint32_t end;
	double bytes, benefit;
	double density; /* benefit a byte; of one matrix, falling */
};

uint32_t level_plan_count(double bytes)
{
	double n = bytes / LEVEL_PLAN_BYTES;

	return n >= LEVEL_PLAN_MOST ? LEVEL_PLAN_MOST : n >= 1 ? (uint32_t)n : 1;
}

uint32_t level_plan_cuts(const struct level_matrix *m)
{
	uint32_t n = 0;

	for (uint32_t k = 1; k < LEVEL_PLAN_MOST; k++)
		n += m->ends[k - 1] > 0 && m->ends[k] > m->ends[k - 1];
	return n;
}

/* Falling; those of a matrix stay in their order. */
static int compare_stretches(const void *a, const void *b)
{
	const struct stretch *x = a, *y = b;

	if (x->density != y->density)
		return x->density > y->density ? -1 : 1;
	if (x->matrix != y->matrix)
		return x->matrix < y->matrix ? -1 : 1;
	return x->end < y->end ? -1 : x->end > y->end;
}

/* Puts b, which follows it, to a. */
static void join(struct stretch *a, const struct stretch *b)
{
	a->end = b->end;
	a->bytes += b->bytes;
	a->benefit += b->benefit;
	a->density = a->benefit / a->bytes;
}

static struct stretch stretch_of(const struct level_matrix *matrices, size_t matrix, uint32_t i)
{
	const struct level_component *c = &matrices[matrix].components[i];
	double bytes = (double)c->bytes, benefit = (double)c->benefit;

	return (struct stretch){matrix, i + 1, bytes, benefit, benefit / bytes};
}

/* Of one matrix: falling but for rounding, which is not to turn their order. */
static void level_densities(struct stretch *s, size_t n)
{
	for (size_t i = 1; i < n; i++)
		if (s[i].density > s[i - 1].density)
			s[i].density = s[i - 1].density;
}

/* Each to the level that its middle falls into. `matrices` have no ends yet. */
static void fill_levels(
	struct stretch *s, size_t n, uint32_t n_levels, struct level_matrix *matrices)
{
	double all = 0, before = 0;

	if (n > 0)
		qsort(s, n, sizeof(*s), compare_stretches);
	for (size_t i = 0; i < n; i++)
		all += s[i].bytes;
	for (size_t i = 0; i < n; before += s[i].bytes, i++) {
		double level = (before + s[i].bytes / 2) / all * n_levels;

		for (uint32_t k = level < n_levels ? (uint32_t)level : n_levels - 1;
			k < LEVEL_PLAN_MOST; k++)
			matrices[s[i].matrix].ends[k] = s[i].end;
	}
}

/* Joins the smallest with the smaller of its neighbours while it is too small. */
static size_t join_small(struct stretch *s, size_t n, double least)
{
	while (n > 1) {
		size_t small = 0, to;

		for (size_t i = 1; i < n; i++)
			if (s[i].bytes < s[small].bytes)
				small = i;
		if (s[small].bytes >= least)
			break;
		to = small == 0 ? 0 : small - 1;
		if (small > 0 && small + 1 < n && s[small + 1].bytes < s[small - 1].bytes)
			to = small;
		join(&s[to], &s[to + 1]);
		n--;
		for (size_t i = to + 1; i < n; i++)
			s[i] = s[i + 1];
	}
	return n;
}

/* Every component by itself, or with those before it that are worth less a byte: without them it
 * cannot be had. */
static size_t take_apart(const struct level_matrix *matrices, size_t matrix, struct stretch *ret)
{
	size_t n = 0;

	for (uint32_t i = 0; i < matrices[matrix].n; i++) {
		ret[n++] = stretch_of(matrices, matrix, i);
		for (; n > 1 && ret[n - 1].density > ret[n - 2].density; n--)
			join(&ret[n - 2], &ret[n - 1]);
	}
	level_densities(ret, n);
	return n;
}

/* What the levels have of a matrix. */
static size_t list_levels(const struct level_matrix *matrices, size_t matrix, struct stretch *ret)
{
	const uint32_t *ends = matrices[matrix].ends;
	size_t n = 0;

	for (uint32_t k = 0, i = 0; k < LEVEL_PLAN_MOST; k++)
		for (bool begins = true; i < ends[k]; i++, begins = false) {
			const struct stretch s = stretch_of(matrices, matrix, i);

			if (begins)
				ret[n++] = s;
			else
				join(&ret[n - 1], &s);
		}
	return n;
}

static void forget_levels(struct level_matrix *matrices, size_t n_matrices)
{
	for (size_t i = 0; i < n_matrices; i++)
		memset(matrices[i].ends, 0, sizeof(matrices[i].ends));
}

/* Once more, with what levels have that is too small joined. */
static void plan_again(struct level_matrix *matrices, size_t n_matrices, uint32_t n_levels,
	double least, struct stretch *room)
{
	size_t n = 0, n_joined = 0;

	for (size_t i = 0; i < n_matrices; i++) {
		size_t n_apart = list_levels(matrices, i, room + n);
		size_t n_left = join_small(room + n, n_apart, least);

		level_densities(room + n, n_left);
		n_joined += n_apart - n_left;
		n += n_left;
	}
	if (n_joined == 0)
		return;
	forget_levels(matrices, n_matrices);
	fill_levels(room, n, n_levels, matrices);
}

int level_plan(struct level_matrix *matrices, size_t n_matrices, uint32_t n_levels, double least)
{
	_cleanup_(freep) struct stretch *room = NULL;
	size_t n = 0;

	for (size_t i = 0; i < n_matrices; i++)
		n += matrices[i].n;
	room = calloc(n + 1, sizeof(*room));
	if (!room)
		return -ENOMEM;
	n = 0;
	for (size_t i = 0; i < n_matrices; i++)
		n += take_apart(matrices, i, room + n);
	forget_levels(matrices, n_matrices);
	fill_levels(room, n, n_levels, matrices);
	plan_again(matrices, n_matrices, n_levels, least, room);
	return 0;
}
