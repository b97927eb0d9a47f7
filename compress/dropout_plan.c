#include "compress/dropout_plan.h"

#include <math.h>
#include <string.h>

#define MAX_GROUPS 64u
#define PAYLOAD_ALIGNMENT 64u
#define CODER_OVERHEAD 1.02 /* over the entropy: measured on adaptive coding of such codes */
#define NEARLY_BEST 0.03

/* Sums of the rows that are looked at. */
struct sample {
	struct dropout_target target;
	float *delta; /* target's */
	struct dropout_energies energies;
	uint32_t groups[MAX_GROUPS];
	double *blocks[MAX_GROUPS]; /* rows each */
	size_t n_groups;
	float *weights; /* the diagonal of H */
	/* Of one way to quantise. */
	double *cross, *square;
	double code_bits;
};

struct candidate {
	struct dropout_plan plan;
	uint64_t memory;
};

static void sample_done(struct sample *s)
{
	for (size_t i = 0; i < s->n_groups; i++)
		free(s->blocks[i]);
	dropout_energies_done(&s->energies);
	free(s->delta);
	free(s->weights);
	free(s->cross);
	free(s->square);
}

size_t dropout_plan_groups(uint32_t cols, uint32_t alpha, uint32_t bits, uint32_t *ret, size_t max)
{
	uint32_t limit = 1u << (DROPOUT_ENTRY_BITS - bits);
	uint32_t multiple = alpha ? alpha : 1;
	size_t n = 0;

	if (cols % multiple != 0)
		return 0;
	for (uint64_t h = multiple; n < max && h <= min_u64(cols, limit);) {
		if (h > 1 && cols % h == 0)
			ret[n++] = (uint32_t)h;
		/* Doubling, then the whole row. */
		if (!alpha)
			h++;
		else
			h = h < cols && 2 * h > cols ? cols : 2 * h;
	}
	return n;
}

int dropout_plan_group(uint32_t cols, const struct dropout_request *q, uint32_t wanted,
	uint32_t *ret, struct reason *reason)
{
	uint32_t limit = (uint32_t)min_u64(cols, 1u << (DROPOUT_ENTRY_BITS - q->bits));

	if (cols % q->alpha != 0)
		return reason_set(reason, -EINVAL,
			"alpha %u does not divide rows of %u columns, nor any group of them",
			q->alpha, cols);
	for (uint32_t h = (uint32_t)min_u64(wanted, limit) / q->alpha * q->alpha; h > 0;
		h -= q->alpha)
		if (cols % h == 0) {
			*ret = h;
			return 0;
		}
	return reason_set(reason, -EINVAL,
		"no group of at most %u columns divides rows of %u and is divided by alpha %u",
		wanted, cols, q->alpha);
}

static int sample_groups(struct sample *s, const struct dropout_request *q, struct reason *reason)
{
	uint32_t cols = s->target.cols, bits = q->alpha ? q->bits : 1;
	int r;

	if (q->alpha) {
		/* Also the test whether there is any. */
		r = dropout_plan_group(cols, q, q->group ? q->group : cols, &s->groups[0], reason);
		if (r < 0)
			return r;
	}
	if (q->alpha && q->group)
		s->n_groups = 1;
	else
		s->n_groups = dropout_plan_groups(cols, q->alpha, bits, s->groups, MAX_GROUPS);
	for (size_t i = 0; i < s->n_groups; i++) {
		s->blocks[i] = malloc((s->target.rows + 1) * sizeof(double));
		r = s->blocks[i] ? dropout_blocks(&s->target, s->groups[i], s->blocks[i]) : -ENOMEM;
		if (r < 0)
			return r;
	}
	return 0;
}

static int sample_init(struct sample *s, const struct dropout_target *t,
	const struct dropout_request *q, struct reason *reason)
{
	uint32_t stride = (uint32_t)div_up(t->rows, DROPOUT_PLAN_ROWS);
	uint32_t n_rows = (uint32_t)div_up(t->rows, stride);
	int r;

	s->delta = malloc((size_t)n_rows * t->cols * sizeof(*s->delta));
	s->weights = malloc(t->cols * sizeof(*s->weights));
	s->cross = malloc(n_rows * sizeof(*s->cross));
	s->square = malloc(n_rows * sizeof(*s->square));
	if (!s->delta || !s->weights || !s->cross || !s->square)
		return -ENOMEM;
	for (uint32_t row = 0; row < n_rows; row++)
		memcpy(s->delta + (size_t)row * t->cols, t->delta + (size_t)row * stride * t->cols,
			t->cols * sizeof(*s->delta));
	for (size_t c = 0; c < t->cols; c++)
		s->weights[c] = (float)t->moments[c * t->cols + c];
	s->target = (struct dropout_target){
		.pool = t->pool,
		.rows = n_rows,
		.cols = t->cols,
		.delta = s->delta,
		.moments = t->moments,
	};
	r = dropout_energies_of(&s->target, &s->energies);
	return r < 0 ? r : sample_groups(s, q, reason);
}

/* What rounding alone does: the grid of all numbers is close to that of those that survive. */
static int sample_matrix_grid(
	const struct sample *s, uint32_t bits, bool min_max, struct uniform *ret)
{
	const struct dropout_target *t = &s->target;
	size_t n = (size_t)t->rows * t->cols;
	_cleanup_(freep) float *weights = malloc(n * sizeof(*weights));
	struct uniform_sample all = {t->delta, weights, n};

	if (!weights)
		return -ENOMEM;
	for (size_t row = 0; row < t->rows; row++)
		memcpy(weights + row * t->cols, s->weights, t->cols * sizeof(*weights));
	if (min_max)
		uniform_fit_min_max(&all, bits, ret);
	else
		uniform_fit_clipped(&all, bits, ret);
	return 0;
}

static int sample_quantise(struct sample *s, uint32_t bits, const struct dropout_how *how)
{
	const struct dropout_target *t = &s->target;
	uint64_t counts[1u << UNIFORM_MAX_BITS] = {0};
	struct uniform grid;
	int r = 0;

	if (!how->row_steps)
		r = sample_matrix_grid(s, bits, how->min_max, &grid);
	for (size_t row = 0; r == 0 && row < t->rows; row++) {
		const float *delta = t->delta + row * t->cols;
		struct uniform_sample values = {delta, s->weights, t->cols};

		if (how->row_steps)
			uniform_fit_clipped(&values, bits, &grid);
		s->cross[row] = s->square[row] = 0;
		for (size_t c = 0; c < t->cols; c++) {
			uint32_t code = uniform_code(&grid, (double)delta[c]);
			double value = uniform_value(&grid, code);

			counts[code]++;
			s->cross[row] += (double)s->weights[c] * value * (double)delta[c];
			s->square[row] += (double)s->weights[c] * value * value;
		}
	}
	s->code_bits = uniform_entropy(counts) * CODER_OVERHEAD;
	return r;
}

static double way_left(const struct dropout_outlook *o, const struct dropout_how *how)
{
	double factor = how->unbiased ? 1 : dropout_factor(o, how->coherence);

	return dropout_left(o, factor, how->coherence);
}

/* What will be left, as a share of the output. */
static double sample_left(
	const struct sample *s, size_t group, uint32_t n_keep, const struct dropout_how *how)
{
	struct dropout_outlook sum = {0};
	double left = 0;

	for (size_t row = 0; row < s->target.rows; row++) {
		struct dropout_row numbers = {
			.full = s->energies.full[row],
			.diagonal = s->energies.diagonal[row],
			.blocks = s->blocks[group][row],
			.cross = s->cross[row],
			.square = s->square[row],
		};
		struct dropout_outlook o = dropout_outlook_of(&numbers, s->groups[group], n_keep);

		left += way_left(&o, how);
		sum.full += o.full;
		sum.cross += o.cross;
		sum.energy += o.energy;
	}
	if (!how->row_steps)
		left = way_left(&sum, how);
	return sum.full > 0 ? left / sum.full : 0;
}

/* Survivors of a group that the bytes allow. */
static uint32_t survivors(
	const struct dropout_request *q, const struct dropout_plan *p, double code_bits)
{
	uint64_t scales = p->how.row_steps ? align_up((uint64_t)p->shape.rows * sizeof(uint16_t),
						     PAYLOAD_ALIGNMENT)
					   : 0;
	double bits = q->coded ? fmin(p->shape.bits, code_bits) : p->shape.bits;
	double groups = (double)p->shape.rows * (p->shape.cols / p->shape.group);

	if (q->alpha)
		return p->shape.group / q->alpha;
	if (q->bytes <= scales)
		return 0;
	return (uint32_t)fmin(p->shape.group / 2,
		floor((double)(q->bytes - scales) * 8 / fmax(bits, 1e-3) / groups));
}

/* Candidates of one way to quantise. */
static size_t add_candidates(const struct sample *s, const struct dropout_request *q,
	const struct dropout_plan *way, struct candidate *ret)
{
	size_t n = 0;

	for (size_t g = 0; g < s->n_groups; g++) {
		struct candidate c = {.plan = *way};
		struct dropout_layout layout;

		c.plan.shape.group = s->groups[g];
		c.plan.shape.n_keep = survivors(q, &c.plan, s->code_bits);
		if (c.plan.shape.n_keep == 0 || dropout_layout(&c.plan.shape, &layout, NULL) < 0)
			continue;
		c.plan.left = sample_left(s, g, c.plan.shape.n_keep, &c.plan.how);
		c.memory = layout.expanded_bytes;
		ret[n++] = c;
	}
	return n;
}

/* Both of what is left and of what is gained: where all candidates gain little, one that gains half
 * as much is not nearly as good. */
static double nearly_best(const struct candidate *candidates, size_t n)
{
	double lowest = INFINITY, nothing = 0;

	for (size_t i = 0; i < n; i++) {
		lowest = fmin(lowest, candidates[i].plan.left);
		nothing = 1 + candidates[i].plan.how.coherence;
	}
	return lowest + NEARLY_BEST * fmax(0, fmin(lowest, nothing - lowest));
}

static void choose(const struct candidate *candidates, size_t n, struct dropout_plan *ret)
{
	const struct candidate *best = NULL;
	double most = nearly_best(candidates, n);

	for (size_t i = 0; i < n; i++)
		if (candidates[i].plan.left <= most &&
			(!best || candidates[i].memory < best->memory ||
				(candidates[i].memory == best->memory &&
					candidates[i].plan.left < best->plan.left)))
			best = &candidates[i];
	*ret = best ? best->plan : (struct dropout_plan){.left = 1};
}

int dropout_plan_make(const struct dropout_target *t, const struct dropout_request *q,
	struct dropout_plan *ret, struct reason *reason)
{
	_cleanup_(sample_done) struct sample s = {0};
	_cleanup_(freep) struct candidate *candidates = NULL;
	uint32_t first = q->alpha ? q->bits : 1, last = q->alpha ? q->bits : DROPOUT_PLAN_BITS;
	uint32_t n_ways = q->alpha || q->min_max ? 1 : 2;
	size_t n = 0;
	int r;

	candidates = malloc((last - first + 1) * n_ways * MAX_GROUPS * sizeof(*candidates));
	if (!candidates)
		return -ENOMEM;
	r = sample_init(&s, t, q, reason);
	for (uint32_t bits = first; r == 0 && bits <= last; bits++)
		for (uint32_t rows = 0; r == 0 && rows < n_ways; rows++) {
			struct dropout_plan way = {
				.shape = {.rows = t->rows, .cols = t->cols, .bits = bits},
				.how = {.row_steps = rows,
					.min_max = q->min_max,
					.unbiased = q->unbiased,
					.coherence = q->coherence},
			};

			r = sample_quantise(&s, bits, &way.how);
			if (r == 0)
				n += add_candidates(&s, q, &way, candidates + n);
		}
	if (r == 0)
		choose(candidates, n, ret);
	return r;
}
