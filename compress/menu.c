#include "compress/menu.h"

/* From one entry of a menu to the next. */
struct step {
	size_t menu, to;
	struct rate_loss change; /* bytes more, loss less */
	double worth;            /* loss a byte */
};

/* Smaller first; of the same size the better one. */
static int compare_entries(const void *a, const void *b)
{
	const struct menu_entry *x = a, *y = b;

	if (x->point.bytes != y->point.bytes)
		return x->point.bytes < y->point.bytes ? -1 : 1;
	if (x->point.loss != y->point.loss)
		return x->point.loss < y->point.loss ? -1 : 1;
	return x->tag < y->tag ? -1 : x->tag > y->tag;
}

static double worth(const struct menu_entry *from, const struct menu_entry *to)
{
	return (from->point.loss - to->point.loss) / (to->point.bytes - from->point.bytes);
}

size_t menu_hull(struct menu_entry *entries, size_t n)
{
	size_t kept = 1;

	qsort(entries, n, sizeof(*entries), compare_entries);
	for (size_t i = 1; i < n; i++) {
		const struct menu_entry *e = &entries[i];

		if (!(e->point.loss < entries[kept - 1].point.loss))
			continue;
		while (kept > 1 && worth(&entries[kept - 1], e) >=
					   worth(&entries[kept - 2], &entries[kept - 1]))
			kept--;
		entries[kept++] = *e;
	}
	return kept;
}

static int compare_steps(const void *a, const void *b)
{
	const struct step *x = a, *y = b;

	if (x->worth != y->worth)
		return x->worth > y->worth ? -1 : 1;
	if (x->menu != y->menu)
		return x->menu < y->menu ? -1 : 1;
	return x->to < y->to ? -1 : x->to > y->to;
}

/* All of them, the most worthwhile first; those of one menu stand in their order. */
static int list_steps(const struct menu *menus, size_t n_menus, struct step **ret, size_t *ret_n)
{
	struct step *steps;
	size_t n = 0;

	for (size_t i = 0; i < n_menus; i++)
		n += menus[i].n - 1;
	steps = calloc(n + 1, sizeof(*steps));
	if (!steps)
		return -ENOMEM;
	n = 0;
	for (size_t i = 0; i < n_menus; i++)
		for (size_t to = 1; to < menus[i].n; to++) {
			const struct menu_entry *e = &menus[i].entries[to];

			steps[n++] = (struct step){
				.menu = i,
				.to = to,
				.change = {e->point.bytes - e[-1].point.bytes,
					e[-1].point.loss - e->point.loss},
				.worth = worth(e - 1, e),
			};
		}
	qsort(steps, n, sizeof(*steps), compare_steps);
	*ret = steps;
	*ret_n = n;
	return 0;
}

static bool is_reached(const struct menu_goal *goal, const struct rate_loss *sum)
{
	return goal->loss > 0 && sum->loss <= goal->loss;
}

static bool fits(const struct menu_goal *goal, const struct rate_loss *sum, const struct step *s)
{
	return goal->loss > 0 || sum->bytes + s->change.bytes <= goal->bytes;
}

static void take(struct menu_choice *c, const struct step *s)
{
	c->picks[s->menu] = s->to;
	c->sum.bytes += s->change.bytes;
	c->sum.loss -= s->change.loss;
}

/* What does not fit is passed over, and with it what follows in the same menu. */
static void take_steps(
	const struct step *steps, size_t n, const struct menu_goal *goal, struct menu_choice *c)
{
	bool passed = false;

	for (size_t i = 0; i < n && !is_reached(goal, &c->sum); i++) {
		const struct step *s = &steps[i];

		if (c->picks[s->menu] + 1 != s->to)
			continue;
		if (!fits(goal, &c->sum, s)) {
			passed = true;
			continue;
		}
		take(c, s);
		if (!passed)
			c->lambda = s->worth;
	}
}

int menu_choose(const struct menu *menus, size_t n_menus, const struct menu_goal *goal,
	struct menu_choice *ret, struct reason *reason)
{
	struct menu_choice c = {.picks = ret->picks};
	_cleanup_(freep) struct step *steps = NULL;
	size_t n;
	int r = list_steps(menus, n_menus, &steps, &n);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n_menus; i++) {
		c.picks[i] = 0;
		c.sum.bytes += menus[i].entries[0].point.bytes;
		c.sum.loss += menus[i].entries[0].point.loss;
	}
	if (goal->loss <= 0 && c.sum.bytes > goal->bytes)
		return reason_set(reason, -ERANGE,
			"the smallest codings take %.0f bytes, expected at most %.0f", c.sum.bytes,
			goal->bytes);
	take_steps(steps, n, goal, &c);
	if (goal->loss > 0 && !is_reached(goal, &c.sum))
		return reason_set(reason, -ERANGE,
			"the finest codings at hand lose %g, expected at most %g", c.sum.loss,
			goal->loss);
	*ret = c;
	return 0;
}
