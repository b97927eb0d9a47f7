#include "compress/deltadq.h"

#include "compress/deltadq_search.h"
#include "compress/dropout_plan.h"
#include "compress/methods.h"
#include "store/base.h"

#include <math.h>

#define MAX_ALPHA 32768u
#define CLAIM_BITS 4u
#define CLAIM_ALPHA 8u /* is kept while parts get smaller */

/* Sums over the tensors that were stored; bits where they are not whole bytes. */
struct totals {
	double weights;          /* numbers of the matrices */
	double survivors;        /* codes */
	double code_bits;        /* of all codes, as they are */
	double claimed_bits;     /* code_bits less log2 of the parts, as the paper counts */
	double file_bytes;       /* payloads and records */
	double memory_bytes;     /* payloads, and what they are expanded into beside them */
	double entropy_bits;     /* of the codes alone: places come from a seed */
	double mask_bits;        /* what random places cost at least where they are stored */
	double sparse_row_bytes; /* the paper's layout: parts as compressed sparse rows */
};

struct deltadq {
	struct deltadq_options options;
	double coherence; /* of compress/dropout_codes.h */
	struct totals totals;
};

bool deltadq_options_said(const struct deltadq_options *o)
{
	return o->claimed_ratio != 0 || o->alpha || o->code_bits || o->parts || o->group ||
	       o->search != DELTADQ_SEARCH_CLOSED_FORM || o->min_max ||
	       o->rescale != DELTADQ_RESCALE_MODEL || o->seeds || o->seed;
}

int deltadq_claim(double ratio, struct deltadq_options *o, struct reason *reason)
{
	double alpha = ratio * CLAIM_BITS / 16;
	uint32_t parts = 1;

	while (alpha > CLAIM_ALPHA && parts < 1u << (CLAIM_BITS - 1)) {
		/* Parts of 2 bits, then of 1, count as half. */
		parts = parts == 1 ? 4 : 8;
		alpha /= 2;
	}
	if (!(alpha >= 2 && alpha <= MAX_ALPHA) || alpha != floor(alpha))
		return reason_set(reason, -EINVAL,
			"claimed ratio is %g: alpha would be %g, expected a whole number from 2 on",
			ratio, alpha);
	o->alpha = (uint32_t)alpha;
	o->code_bits = CLAIM_BITS;
	o->parts = parts;
	return 0;
}

static int check_explicit(const struct deltadq_options *o, struct reason *reason)
{
	uint32_t parts = o->parts ? o->parts : 1;

	if (o->alpha < 2 || o->alpha > MAX_ALPHA)
		return reason_set(
			reason, -EINVAL, "alpha is %u, expected 2 to %u", o->alpha, MAX_ALPHA);
	if (o->code_bits < 1 || o->code_bits > DROPOUT_MAX_BITS)
		return reason_set(reason, -EINVAL, "code bits are %u, expected 1 to %u",
			o->code_bits, DROPOUT_MAX_BITS);
	if ((parts & (parts - 1)) != 0 || parts >= 1u << o->code_bits)
		return reason_set(reason, -EINVAL,
			"parts are %u, expected a power of two below 2^%u", parts, o->code_bits);
	if (o->group && o->group % o->alpha != 0)
		return reason_set(reason, -EINVAL, "alpha %u does not divide groups of %u columns",
			o->alpha, o->group);
	return 0;
}

/* What follows from the options: alpha 0 where bytes decide. */
static int resolve(
	const struct method_options *all, struct deltadq_options *ret, struct reason *reason)
{
	struct deltadq_options o = all->deltadq;
	int r;

	if (o.claimed_ratio != 0 && (o.alpha || o.code_bits || o.parts))
		return reason_set(reason, -EINVAL,
			"the claimed ratio and alpha, code bits or parts are both given");
	if (o.claimed_ratio != 0) {
		r = deltadq_claim(o.claimed_ratio, &o, reason);
		if (r < 0)
			return r;
	}
	if (o.alpha && (all->ratio != 0 || all->bits != 0))
		return reason_set(reason, -EINVAL,
			"alpha decides the size: ratio and bits cannot be asked for as well");
	if (o.alpha || o.code_bits || o.parts)
		r = check_explicit(&o, reason);
	else if (o.group || o.search == DELTADQ_SEARCH_FIRST_LAYER)
		r = reason_set(reason, -EINVAL,
			"a group, or the search in the first layer, needs alpha or a claimed "
			"ratio");
	else
		r = 0;
	if (r < 0)
		return r;
	if (o.group && o.search == DELTADQ_SEARCH_FIRST_LAYER)
		return reason_set(
			reason, -EINVAL, "the group is given, so that there is nothing to search");
	if (o.seeds == 0)
		o.seeds = DELTADQ_DEFAULT_SEEDS;
	if (o.parts == 0)
		o.parts = 1;
	*ret = o;
	return 0;
}

static int check(const struct method_options *options, struct reason *reason)
{
	struct deltadq_options resolved;
	int r;

	r = method_check_ratio(options, reason);
	return r < 0 ? r : resolve(options, &resolved, reason);
}

static struct dropout_request request_of(
	const struct deltadq_options *o, double coherence, uint64_t budget)
{
	const uint64_t fixed = METHOD_RECORD_BYTES;

	return (struct dropout_request){
		.alpha = o->alpha,
		.bits = o->code_bits,
		.bytes = budget > fixed ? budget - fixed : 0,
		.group = o->group,
		.min_max = o->min_max,
		.unbiased = o->rescale == DELTADQ_RESCALE_ALPHA,
		.coherence = coherence,
	};
}

/* Every projection's rows must be divisible, which is told before work begins. */
static int check_shapes(
	const struct deltadq_options *o, const struct model_config *c, struct reason *reason)
{
	static const enum tensor_role widths[] = {ROLE_Q, ROLE_O, ROLE_DOWN};
	const struct dropout_request q = request_of(o, 0, 0);

	for (size_t i = 0; i < array_len(widths); i++) {
		uint32_t rows, cols, group;
		int r;

		if (!model_config_shape(c, widths[i], 0, &rows, &cols))
			return -EINVAL;
		r = dropout_plan_group(cols, &q, o->group ? o->group : cols, &group, reason);
		if (r < 0)
			return reason_prefix(reason, r, "%s", tensor_role_name(widths[i]));
	}
	return 0;
}

static void done(void *state)
{
	free(state);
}

static int prepare(const struct method_model *model, void **ret_state, struct reason *reason)
{
	_cleanup_(freep) struct deltadq *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	/* What is missing counts once for every layer. */
	if (model->options->deltadq.rescale == DELTADQ_RESCALE_MODEL)
		d->coherence = (double)model->pair->base_config.n_layers - 1;
	r = resolve(model->options, &d->options, reason);
	if (r == 0 && d->options.alpha)
		r = check_shapes(&d->options, &model->pair->base_config, reason);
	if (r == 0 && d->options.search == DELTADQ_SEARCH_FIRST_LAYER) {
		struct deltadq_searched searched;

		r = deltadq_search(model, d->options.alpha, d->options.code_bits, d->options.seed,
			&searched, reason);
		if (r == 0)
			d->options.group = searched.group;
	}
	if (r < 0)
		return r;
	*ret_state = take_ptr(d);
	return 0;
}

/* One projection on its way. */
struct task {
	struct deltadq *method;
	struct method_matrix *matrix;
	struct dropout_target target;
	double *product;
};

static void task_done(struct task *t)
{
	free(t->product);
}

static int task_init(struct task *t, const struct method_group *g, struct reason *reason)
{
	struct method_matrix *m = t->matrix;

	for (size_t i = 0; i < (size_t)m->rows * m->cols; i++)
		if (!isfinite(m->delta[i]))
			return reason_set(reason, -EDOM, "%s has numbers that are not finite",
				tensor_role_name(m->role));
	t->target = (struct dropout_target){
		.pool = g->pool,
		.rows = m->rows,
		.cols = m->cols,
		.delta = m->delta,
		.moments = g->moments,
	};
	t->product = malloc(((size_t)m->rows * m->cols + 1) * sizeof(*t->product));
	return t->product ? dropout_product(&t->target, t->product) : -ENOMEM;
}

/* The seed that leaves least; the first of equals. */
static int best_of_seeds(
	const struct task *t, const struct dropout_plan *plan, struct dropout_codes *ret)
{
	const struct deltadq_options *o = &t->method->options;
	_cleanup_(dropout_codes_done) struct dropout_codes best = {0};
	double least = INFINITY;

	for (uint32_t i = 0; i < o->seeds; i++) {
		_cleanup_(dropout_codes_done) struct dropout_codes d = {
			.shape = plan->shape,
			.seed = dropout_seed(o->seed, t->matrix->role, t->matrix->layer, i),
		};
		double left;
		int r;

		r = dropout_codes_fit(&t->target, t->product, &plan->how, &d, &left);
		if (r < 0)
			return r;
		if (left < least || i == 0) {
			struct dropout_codes worse = best;

			least = left;
			best = d;
			d = worse;
		}
	}
	*ret = best;
	best = (struct dropout_codes){0};
	return 0;
}

static int pack(const struct task *t, const struct dropout_codes *d, bool coded, struct part *ret)
{
	const struct dropout_shape *s = &d->shape;
	const struct part_place place = {
		.role = t->matrix->role,
		.layer = t->matrix->layer,
		.rows = s->rows,
		.cols = s->cols,
	};
	const struct code_matrix codes = {
		.n_rows = s->rows,
		.n_cols = s->cols / s->group * s->n_keep,
		.bits = (uint8_t)s->bits,
		.grid = d->scales ? GRID_ROW : GRID_MATRIX,
		.codes = d->codes,
		.scales = d->scales,
		.step = d->step,
		.zero = d->zero,
	};
	const struct survivors survivors = {
		.group = s->group, .n_keep = s->n_keep, .seed = d->seed, .codes = &codes};

	return part_dropout(&place, &survivors, coded, ret);
}

/* Entropy-coded where that is smaller. */
static int pack_smaller(const struct task *t, const struct dropout_codes *d, struct part *ret)
{
	_cleanup_(part_done) struct part plain = {0};
	_cleanup_(part_done) struct part coded = {0};
	struct part *smaller;
	int r;

	r = pack(t, d, false, &plain);
	if (r == 0)
		r = pack(t, d, true, &coded);
	if (r < 0)
		return r;
	smaller = coded.record.bytes < plain.record.bytes ? &coded : &plain;
	*ret = part_take(smaller);
	return 0;
}

static double log2_choose(double n, double k)
{
	return (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2);
}

static void count(struct totals *sum, const struct deltadq_options *o,
	const struct dropout_codes *d, const struct part *part)
{
	const struct dropout_shape *s = &d->shape;
	struct dropout_layout l;
	double n, part_bits;

	if (dropout_layout(s, &l, NULL) < 0)
		return;
	n = (double)l.n_codes;
	part_bits = s->bits - log2(o->parts);
	sum->weights += (double)s->rows * s->cols;
	sum->survivors += n;
	sum->code_bits += n * s->bits;
	sum->claimed_bits += n * part_bits;
	sum->file_bytes += (double)part_file_bytes(part);
	sum->memory_bytes += (double)part->record.bytes + (double)l.expanded_bytes;
	sum->entropy_bits += n * dropout_codes_entropy(d);
	sum->mask_bits += (double)s->rows * l.n_groups * log2_choose(s->group, s->n_keep);
	sum->sparse_row_bytes += n * (16 + part_bits) / 8 + 4.0 * o->parts * (s->rows + 1.0);
}

/* 0, with nothing added, where the bytes hold no survivor, or none helps. */
static int add_part(struct task *t, const struct dropout_plan *plan, bool *ret_fits)
{
	_cleanup_(dropout_codes_done) struct dropout_codes d = {0};
	_cleanup_(part_done) struct part part = {0};
	int r;

	*ret_fits = true;
	if (plan->shape.n_keep == 0)
		return 0;
	r = best_of_seeds(t, plan, &d);
	if (r < 0 || d.step == 0)
		return r;
	r = pack_smaller(t, &d, &part);
	if (r < 0)
		return r;
	/* Where alpha is given, it decides the size. */
	*ret_fits = t->method->options.alpha || part_file_bytes(&part) <= t->matrix->budget;
	if (!*ret_fits)
		return 0;
	count(&t->method->totals, &t->method->options, &d, &part);
	return method_matrix_add(t->matrix, &part);
}

static int quantise_matrix(struct task *t, const struct method_group *g, struct reason *reason)
{
	struct dropout_request request;
	struct dropout_plan plan;
	bool fits = false;
	int r;

	request = request_of(&t->method->options, t->method->coherence, t->matrix->budget);
	r = task_init(t, g, reason);
	/* What coded codes will take is foretold; where that was too little, plain ones are sure.
	 */
	for (int coded = 1; r == 0 && !fits && coded >= 0; coded--) {
		request.coded = coded;
		r = dropout_plan_make(&t->target, &request, &plan, reason);
		if (r == 0)
			r = add_part(t, &plan, &fits);
	}
	return r;
}

static int quantise(void *state, struct method_group *group, struct reason *reason)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < group->n_matrices; i++) {
		_cleanup_(task_done) struct task task = {
			.method = state, .matrix = &group->matrices[i]};

		r = quantise_matrix(&task, group, reason);
	}
	return r;
}

static void *sums(void *state, size_t *ret_bytes)
{
	struct deltadq *d = state;

	*ret_bytes = sizeof(d->totals);
	return &d->totals;
}

static size_t report(const void *state, struct method_figure *ret)
{
	const struct totals *t = &((const struct deltadq *)state)->totals;
	const double whole = 16 * t->weights;
	const struct method_figure figures[] = {
		{.name = "claimed_ratio", .value = whole / t->claimed_bits},
		{.name = "file_bytes", .value = t->file_bytes, .bytes = true},
		{.name = "memory_bytes", .value = t->memory_bytes, .bytes = true},
		{.name = "entropy_bytes", .value = t->entropy_bits / 8, .bytes = true},
		{.name = "entropy_stored_places",
			.value = (t->entropy_bits + t->mask_bits) / 8,
			.bytes = true},
		{.name = "sparse_row_bytes", .value = t->sparse_row_bytes, .bytes = true},
		{.name = "alpha", .value = t->weights / t->survivors},
		{.name = "code_bits", .value = t->code_bits / t->survivors},
	};

	_Static_assert(array_len(figures) <= METHOD_MAX_FIGURES, "the report has room");
	if (t->survivors == 0)
		return 0;
	for (size_t i = 0; i < array_len(figures); i++)
		ret[i] = figures[i];
	return array_len(figures);
}

const struct method method_deltadq = {
	.name = "deltadq",
	.summary = "codes at random places (arXiv 2410.08666), places from a seed",
	.needs = METHOD_NEEDS_CALIBRATION,
	.takes = METHOD_TAKES_DELTADQ,
	.default_ratio = 16,
	.check = check,
	.prepare = prepare,
	.quantise = quantise,
	.sums = sums,
	.report = report,
	.done = done,
};
