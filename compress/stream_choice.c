#include "compress/auto_stream.h"
#include "compress/ladder.h"
#include "compress/methods.h"
#include "compress/outer.h"
#include "compress/stream_entry.h"
#include "store/base.h"

#include <math.h>
#include <string.h>

#define OUTER_RUNGS 9
#define OUTER_SPACING 4.0

static size_t projection_of(const struct tensor_record *record)
{
	size_t p = 0;

	while (p < DENSE_N_PROJECTIONS && (uint32_t)dense_projections[p] != record->role)
		p++;
	return p;
}

/* Entries of a tensor are its parts in their order, after nothing. */
static int make_menu(struct stream_tensor *t, double nothing, const struct work_part *parts,
	size_t n_parts, size_t projection)
{
	size_t n = 1;

	t->menu.entries = calloc(n_parts + 1, sizeof(*t->menu.entries));
	t->parts = calloc(n_parts + 1, sizeof(*t->parts));
	if (!t->menu.entries || !t->parts)
		return -ENOMEM;
	t->menu.entries[0] = (struct menu_entry){{0, nothing}, LADDER_NOTHING};
	for (size_t i = 0; i < n_parts; i++) {
		const struct work_part *part = &parts[i];

		if (projection_of(&part->record) != projection)
			continue;
		t->parts[n - 1] = *part;
		t->menu.entries[n] = (struct menu_entry){
			.point = {(double)(part->record.bytes + sizeof(part->record)),
				(double)part->quality.loss},
			.tag = (uint32_t)n - 1,
		};
		n++;
	}
	t->menu.n = menu_hull(t->menu.entries, n);
	return 0;
}

int stream_take_block(struct auto_stream *s, struct reason *reason)
{
	uint32_t layer = s->config->n_layers - 1 - s->n_done;
	_cleanup_(freep) struct work_part *parts = NULL;
	struct stream_sums sums;
	size_t n;
	int r = work_file_entry(s->work, s->n_done, &sums, &parts, &n, reason);

	for (size_t p = 0; r == 0 && p < DENSE_N_PROJECTIONS; p++) {
		if (sums.numbers[p] == 0)
			continue;
		s->n_weights += (double)sums.numbers[p];
		r = make_menu(stream_tensor(s, layer, p), sums.nothing[p], parts, n, p);
	}
	if (r < 0)
		return r;
	s->n_done++;
	if (s->model->scratch->blocks_done)
		*s->model->scratch->blocks_done = s->n_done;
	return 0;
}

/* Numbers of all projections, also of those that did not change. */
static double all_weights(const struct auto_stream *s)
{
	double sum = 0;

	for (uint32_t layer = 0; layer < s->config->n_layers; layer++)
		for (size_t p = 0; p < DENSE_N_PROJECTIONS; p++) {
			uint32_t rows, cols;

			if (model_config_shape(
				    s->config, dense_projections[p], layer, &rows, &cols))
				sum += (double)rows * cols;
		}
	return sum;
}

double stream_bits(const struct auto_stream *s)
{
	const struct method_options *o = s->model->options;

	if (o->max_kl > 0)
		return 0;
	if (o->file_ratio > 0)
		return 8 * s->model->room / all_weights(s);
	return 16 / method_ratio(&method_auto, o);
}

/* What the blocks that are done may take or lose. */
static struct menu_goal goal_so_far(const struct auto_stream *s)
{
	const struct method_options *o = s->model->options;

	if (o->max_kl > 0)
		return (struct menu_goal){.loss = o->max_kl * s->n_done / s->config->n_layers};
	return (struct menu_goal){.bytes = stream_bits(s) * s->n_weights / 8};
}

/* Those that have entries. */
static size_t list_menus(const struct auto_stream *s, struct menu *ret, size_t *ret_tensors)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_tensors; i++) {
		if (!s->tensors[i].menu.entries)
			continue;
		ret[n] = s->tensors[i].menu;
		ret_tensors[n++] = i;
	}
	return n;
}

int stream_lambda(const struct auto_stream *s, double *ret)
{
	_cleanup_(freep) struct menu *menus = calloc(s->n_tensors + 1, sizeof(*menus));
	_cleanup_(freep) size_t *tensors = calloc(s->n_tensors + 1, sizeof(*tensors));
	_cleanup_(freep) size_t *picks = calloc(s->n_tensors + 1, sizeof(*picks));
	struct menu_goal goal = goal_so_far(s);
	struct menu_choice choice = {.picks = picks};
	struct reason reason = {0};
	size_t n;
	int r;

	if (!menus || !tensors || !picks)
		return -ENOMEM;
	*ret = 0;
	n = list_menus(s, menus, tensors);
	if (n == 0)
		return 0;
	r = menu_choose(menus, n, &goal, &choice, &reason);
	/* Even the finest lose too much: finer ones are to come. */
	if (r == -ERANGE)
		r = menu_choose(menus, n, &(struct menu_goal){.bytes = INFINITY}, &choice, &reason);
	*ret = r == 0 ? choice.lambda : 0;
	return r;
}

/* Losses stay guesses here: nothing measures the KL of a model that is never whole in memory. */
static int weigh_outer(const struct auto_stream *s)
{
	const struct outer_use use = {.ids = s->text.ids, .n = s->text.n_ids, .share = 1};

	return outer_weigh(s->model->outer, &use, 1);
}

/* Embedding and head at several lambdas, as one more menu; tags are numbers of lambdas. */
static int outer_menu(const struct auto_stream *s, const double *lambdas,
	struct menu_entry *entries, struct menu *ret, struct reason *reason)
{
	int r = weigh_outer(s);

	for (uint32_t i = 0; r == 0 && i < OUTER_RUNGS; i++) {
		entries[i].tag = i;
		r = outer_encode(s->model->outer, lambdas[i], &entries[i].point, reason);
	}
	*ret = (struct menu){entries, OUTER_RUNGS};
	if (r == 0)
		ret->n = menu_hull(entries, OUTER_RUNGS);
	return r;
}

static struct menu_goal goal_of(const struct auto_stream *s)
{
	const struct method_options *o = s->model->options;

	if (o->max_kl > 0)
		return (struct menu_goal){.loss = o->max_kl};
	return (struct menu_goal){.bytes = s->budget};
}

/* Embedding and head under the same goal. */
static int choose_with_outer(
	struct auto_stream *s, struct menu *menus, size_t n, size_t *picks, struct reason *reason)
{
	const struct menu_goal goal = goal_of(s);
	struct menu_entry entries[OUTER_RUNGS];
	double lambdas[OUTER_RUNGS], lambda;
	int r = stream_lambda(s, &lambda);

	for (int i = 0; i < OUTER_RUNGS; i++)
		lambdas[i] = (lambda > 0 ? lambda : 1e-7) * pow(OUTER_SPACING, OUTER_RUNGS / 2 - i);
	if (r == 0)
		r = outer_menu(s, lambdas, entries, &menus[n], reason);
	s->choice.picks = picks;
	if (r == 0)
		r = menu_choose(menus, n + 1, &goal, &s->choice, reason);
	if (r < 0)
		return r;
	return outer_encode(s->model->outer, lambdas[entries[picks[n]].tag], &s->outer, reason);
}

static int choose_projections(struct auto_stream *s, const struct menu *menus, size_t n,
	size_t *picks, struct reason *reason)
{
	const struct menu_goal goal = goal_of(s);
	int r;

	s->choice.picks = picks;
	r = menu_choose(menus, n, &goal, &s->choice, reason);
	if (r < 0 || !s->model->outer)
		return r;
	r = weigh_outer(s);
	return r < 0 ? r : outer_encode(s->model->outer, s->choice.lambda, &s->outer, reason);
}

int stream_choose(struct auto_stream *s, struct reason *reason)
{
	const struct method_options *o = s->model->options;
	_cleanup_(freep) struct menu *menus = calloc(s->n_tensors + 2, sizeof(*menus));
	_cleanup_(freep) size_t *tensors = calloc(s->n_tensors + 1, sizeof(*tensors));
	_cleanup_(freep) size_t *picks = calloc(s->n_tensors + 2, sizeof(*picks));
	size_t n;
	int r;

	s->picks = calloc(s->n_tensors + 1, sizeof(*s->picks));
	if (!menus || !tensors || !picks || !s->picks)
		return -ENOMEM;
	if (o->file_ratio > 0)
		s->budget = s->model->room;
	else if (!(o->max_kl > 0))
		s->budget = 2 * s->n_weights / method_ratio(&method_auto, o);
	if (stream_takes_components(s))
		s->reserve = auto_levels_reserve(s->budget, s->n_tensors);
	s->budget -= s->reserve;
	n = list_menus(s, menus, tensors);
	if (s->model->outer && (o->file_ratio > 0 || o->max_kl > 0))
		r = choose_with_outer(s, menus, n, picks, reason);
	else
		r = choose_projections(s, menus, n, picks, reason);
	for (size_t i = 0; r == 0 && i < n; i++)
		s->picks[tensors[i]] = picks[i];
	s->choice.picks = NULL;
	return r;
}
