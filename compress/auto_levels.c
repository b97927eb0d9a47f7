#include "compress/auto_levels.h"

#include "compress/components.h"
#include "compress/level_plan.h"

#include <math.h>
#include <string.h>

#define SHARE .005 /* of all bytes, for the ends of levels */
/* What a further part takes in a file beside its payload and its record, gaps by their mean. */
#define BESIDE (sizeof(struct tensor_quality) + PART_ALIGNMENT / 2)
#define OF_PART 320.0 /* with contexts that learn anew, about */
#define LEAST 256.0   /* bytes that are worth a part of their own, at first */
#define LEAST_STEP 1.25

struct auto_levels {
	struct level_matrix *matrices;
	uint64_t *bytes; /* of each matrix in one part, with the record */
	size_t n;
	double added; /* bytes of parts and records */
};

struct auto_levels *auto_levels_free(struct auto_levels *l)
{
	if (!l)
		return NULL;
	for (size_t i = 0; l->matrices && i < l->n; i++)
		free(l->matrices[i].components);
	free(l->matrices);
	free(l->bytes);
	free(l);
	return NULL;
}

double auto_levels_reserve(double bytes, size_t n_matrices)
{
	uint32_t n_cuts = level_plan_count(bytes) - 1;

	return fmin(SHARE * bytes, OF_PART * (double)n_matrices * n_cuts);
}

double auto_levels_added(const struct auto_levels *l)
{
	return l->added;
}

/* The first n components have so much of all benefit; 1 where none has any. */
static double share_of(const struct components *c, uint32_t n)
{
	double some = 0, all = 0;

	for (uint32_t i = 0; i < c->n; i++) {
		double energy = components_energy(c, i);

		all += energy;
		some += i < n ? energy : 0;
	}
	return all > 0 ? some / all : 1;
}

/* The estimates of all components are scaled to what they take together. */
static int list_components(
	const struct part *p, double benefit, struct level_matrix *ret, struct reason *reason)
{
	_cleanup_(components_done) struct components c = {0};
	double bytes = 0, energy = 0;
	int r = components_of(p, &c, reason);

	if (r < 0)
		return r;
	ret->components = calloc(c.n, sizeof(*ret->components));
	if (!ret->components)
		return -ENOMEM;
	ret->n = c.n;
	for (uint32_t i = 0; i < c.n; i++) {
		bytes += components_bytes(&c, i);
		energy += components_energy(&c, i);
	}
	for (uint32_t i = 0; i < c.n; i++)
		ret->components[i] = (struct level_component){
			(float)(components_bytes(&c, i) / bytes * (double)part_file_bytes(p)),
			(float)(energy > 0 ? components_energy(&c, i) / energy * benefit : 0),
		};
	return 0;
}

static int list_matrix(struct auto_levels *l, const struct auto_levels_source *source, size_t i,
	struct reason *reason)
{
	_cleanup_(part_done) struct part p = {0};
	struct level_matrix *m = &l->matrices[i];
	double benefit;
	int r = source->read(source->user, i, &p, &benefit, reason);

	if (r < 0 || !p.payload)
		return r;
	benefit = fmax(0, benefit);
	l->bytes[i] = part_file_bytes(&p);
	if (components_in(&p))
		return list_components(&p, benefit, m, reason);
	m->components = calloc(1, sizeof(*m->components));
	if (!m->components)
		return -ENOMEM;
	m->components[0] = (struct level_component){(float)l->bytes[i], (float)benefit};
	m->n = 1;
	return 0;
}

static void parts_done(struct part *parts, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		part_done(&parts[i]);
}

/* At every level what it has of the whole; losses are of all up to there. */
static int take_apart(const struct level_matrix *m, const struct part *whole, double benefit,
	struct part *ret, uint32_t *ret_n, struct reason *reason)
{
	_cleanup_(components_done) struct components c = {0};
	uint32_t first = 0, n = 0;
	int r = components_of(whole, &c, reason);

	for (uint32_t k = 0; r == 0 && k < LEVEL_PLAN_MOST; k++) {
		if (m->ends[k] == first)
			continue;
		r = components_part(&c, first, m->ends[k] - first, (uint8_t)k, &ret[n]);
		if (r < 0)
			break;
		ret[n].quality.loss += (float)(fmax(0, benefit) * (1 - share_of(&c, m->ends[k])));
		first = m->ends[k];
		n++;
	}
	if (r < 0)
		parts_done(ret, n);
	else
		*ret_n = n;
	return r;
}

static uint8_t first_level(const struct level_matrix *m)
{
	uint8_t k = 0;

	while (m->ends[k] == 0)
		k++;
	return k;
}

/* The parts of a matrix; none where nothing is stored. */
static int make_parts(const struct auto_levels *l, const struct auto_levels_source *source,
	size_t i, struct part *ret, uint32_t *ret_n, struct reason *reason)
{
	const struct level_matrix *m = &l->matrices[i];
	_cleanup_(part_done) struct part p = {0};
	double benefit;
	int r = source->read(source->user, i, &p, &benefit, reason);

	*ret_n = 0;
	if (r < 0 || !p.payload)
		return r;
	if (level_plan_cuts(m) > 0)
		return take_apart(m, &p, benefit, ret, ret_n, reason);
	p.record.level = first_level(m);
	ret[0] = part_take(&p);
	*ret_n = 1;
	return 0;
}

static uint32_t count_cuts(const struct auto_levels *l)
{
	uint32_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		n += level_plan_cuts(&l->matrices[i]);
	return n;
}

/* What the parts really take; matrices that are whole take what they took. */
static int count_added(
	struct auto_levels *l, const struct auto_levels_source *source, struct reason *reason)
{
	l->added = 0;
	for (size_t i = 0; i < l->n; i++) {
		struct part parts[LEVEL_PLAN_MOST];
		uint32_t n;
		int r;

		if (level_plan_cuts(&l->matrices[i]) == 0)
			continue;
		r = make_parts(l, source, i, parts, &n, reason);
		if (r < 0)
			return r;
		l->added -= (double)l->bytes[i];
		for (uint32_t k = 0; k < n; k++)
			l->added += (double)part_file_bytes(&parts[k]);
		parts_done(parts, n);
	}
	return 0;
}

/* Fewer and fewer cuts, until there is room for what they cost; none costs nothing. */
static int find_cuts(struct auto_levels *l, const struct auto_levels_source *source, double spare,
	struct reason *reason)
{
	double whole = 0;

	for (size_t i = 0; i < l->n; i++)
		whole += (double)l->bytes[i];
	for (double least = LEAST;; least *= LEAST_STEP) {
		int r = level_plan(l->matrices, l->n, level_plan_count(whole), least);
		uint32_t n_cuts = count_cuts(l);

		if (r < 0)
			return r;
		l->added = 0;
		if (n_cuts == 0)
			return 0;
		if ((double)n_cuts * (BESIDE + sizeof(struct tensor_record)) > spare)
			continue;
		r = count_added(l, source, reason);
		if (r < 0 || l->added + (double)n_cuts * BESIDE <= spare)
			return r;
	}
}

int auto_levels_new(const struct auto_levels_source *source, double spare, struct auto_levels **ret,
	struct reason *reason)
{
	_cleanup_(auto_levelsp) struct auto_levels *l = calloc(1, sizeof(*l));
	int r = 0;

	if (!l)
		return -ENOMEM;
	l->n = source->n;
	l->matrices = calloc(l->n + 1, sizeof(*l->matrices));
	l->bytes = calloc(l->n + 1, sizeof(*l->bytes));
	if (!l->matrices || !l->bytes)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < l->n; i++)
		r = list_matrix(l, source, i, reason);
	if (r == 0)
		r = find_cuts(l, source, spare, reason);
	if (r < 0)
		return r;
	for (size_t i = 0; i < l->n; i++) {
		free(l->matrices[i].components);
		l->matrices[i].components = NULL;
	}
	*ret = take_ptr(l);
	return 0;
}

int auto_levels_give(const struct auto_levels *l, const struct auto_levels_source *source, size_t i,
	struct method_matrix *m, struct reason *reason)
{
	struct part parts[LEVEL_PLAN_MOST];
	uint32_t n = 0;
	int r = make_parts(l, source, i, parts, &n, reason);

	for (uint32_t k = 0; k < n; k++) {
		if (r == 0)
			r = method_matrix_add(m, &parts[k]);
		else
			part_done(&parts[k]);
	}
	return r;
}
