#include "compress/ladder.h"

#include "compress/ldlq.h"
#include "compress/metric_root.h"
#include "compress/trial_parts.h"
#include "compress/whitened.h"
#include "kernels/blas.h"

#include <math.h>
#include <string.h>

#define STRIPE 256u /* rows of one piece */
/* Three sweeps lower what the math fine-tune of ../shared is estimated to lose by 0.2 %. */
#define SWEEPS 1u
#define SKETCHES 2u
#define FIRST_SPACING 4.0 /* of lambdas around the first guess */

/* Components: a finer grid keeps fewer of them. */
static const struct coarseness {
	double grid, least;
} coarsenesses[] = {{1, .6}, {1.5, .45}};

/* One coding on its way to an entry. */
struct rung {
	double lambda;
	struct whitened *factors; /* NULL: direct codes */
	struct part part;
	double loss; /* quadratic form */
	int error;
};

struct work {
	const struct ladder_settings *settings;
	double lambdas[LADDER_MAX_RUNGS];
	struct rung rungs[LADDER_MAX_ENTRIES];
	size_t n_rungs;
	size_t n_left;  /* of them, to be coded: the first ones */
	float *turned;  /* delta in the coordinates of compress/metric_root.h */
	double nothing; /* its squares: the loss of no coding */
};

void ladder_done(struct ladder *l)
{
	for (size_t i = 0; i < l->n_parts; i++)
		part_done(&l->parts[i]);
	*l = (struct ladder){0};
}

static void work_done(struct work *w)
{
	for (size_t i = 0; i < w->n_rungs; i++) {
		whitened_free(w->rungs[i].factors);
		part_done(&w->rungs[i].part);
	}
	free(w->turned);
}

static size_t n_numbers(const struct work *w)
{
	return (size_t)w->settings->place.rows * w->settings->place.cols;
}

/* The KL is half of the quadratic form, and lambda is of a byte. */
static double form_lambda(double lambda)
{
	return 2 * lambda / 8;
}

static int turn(struct work *w)
{
	const struct ladder_settings *s = w->settings;
	int r;

	w->turned = malloc((n_numbers(w) + 1) * sizeof(*w->turned));
	if (!w->turned)
		return -ENOMEM;
	r = metric_root_turn(s->pool, s->g, s->h, s->delta, w->turned);
	for (size_t i = 0; r == 0 && i < n_numbers(w); i++)
		w->nothing += (double)w->turned[i] * (double)w->turned[i];
	return r;
}

/* By reverse water-filling a number of energy e takes log2(1 + e / water) / 2 bits, about. */
static double bits_at(const struct work *w, double water)
{
	double sum = 0;
	size_t stride = n_numbers(w) / 65536 + 1, n = 0;

	for (size_t i = 0; i < n_numbers(w); i += stride, n++)
		sum += log2(1 + (double)w->turned[i] * (double)w->turned[i] / water) / 2;
	return sum / (double)n;
}

/* Where a number takes the wanted bits; then lambda is 2 ln 2 times the water, a bit. */
static double first_lambda(const struct work *w)
{
	double mean = w->nothing / (double)n_numbers(w), low = mean * 1e-12, high = mean * 1e12;

	for (int i = 0; i < 60; i++) {
		double middle = sqrt(low * high);

		*(bits_at(w, middle) > w->settings->bits ? &low : &high) = middle;
	}
	return 2 * M_LN2 * low * 8 / 2;
}

static void set_lambdas(struct work *w)
{
	const struct ladder_settings *s = w->settings;
	double top;

	if (s->lambdas) {
		memcpy(w->lambdas, s->lambdas, s->n_rungs * sizeof(*s->lambdas));
		return;
	}
	top = first_lambda(w) * pow(FIRST_SPACING, (s->n_rungs - 1) / 2.);
	for (uint32_t i = 0; i < s->n_rungs; i++)
		w->lambdas[i] = top / pow(FIRST_SPACING, i);
}

static int code_directly(const struct ladder_settings *s, struct rung *rung)
{
	size_t n = (size_t)s->place.rows * s->place.cols;
	_cleanup_(freep) float *error = malloc((n + 1) * sizeof(*error));
	_cleanup_(freep) int8_t *codes = malloc(n + 1);
	struct ldlq_problem problem = {
		.rows = s->place.rows,
		.cols = s->place.cols,
		.target = s->delta,
		.g = s->g,
		.h = s->h,
		.lambda = form_lambda(rung->lambda),
		.n_sweeps = SWEEPS,
		.n_sketches = SKETCHES,
	};
	struct ldlq result = {.error = error, .codes = codes};
	int r;

	if (!error || !codes)
		return -ENOMEM;
	problem.step = (double)(float)fmax(
		ldlq_step(s->g, s->h, problem.lambda), ldlq_least_step(s->delta, n));
	r = ldlq_run(&problem, &result);
	if (r < 0)
		return r;
	rung->loss = result.loss;
	return trial_codes_part(&s->place, codes, problem.step, &rung->part);
}

static void piece_code(void *arg, size_t piece, size_t worker)
{
	struct work *w = arg;
	struct rung *rung = &w->rungs[w->n_left - 1 - piece];

	(void)worker;
	rung->error = rung->factors
			      ? trial_factors_part(&w->settings->place, rung->factors, &rung->part)
			      : code_directly(w->settings, rung);
}

/* What components leave of the turned matrix. */
struct residual {
	const struct work *work;
	const float *u, *v; /* n x rows, n x cols, turned */
	size_t n;
	float *scratch; /* STRIPE x cols for each worker */
	double *sums;   /* one a piece */
};

static void piece_residual(void *arg, size_t piece, size_t worker)
{
	const struct residual *s = arg;
	const struct part_place *p = &s->work->settings->place;
	size_t first = piece * STRIPE, n = min_u64(STRIPE, p->rows - first), cols = p->cols;
	float *rest = s->scratch + worker * STRIPE * cols;
	const struct blas_gemm gemm = {
		.m = n,
		.n = cols,
		.k = s->n,
		.transpose_a = true,
		.alpha = -1,
		.beta = 1,
		.a_stride = p->rows,
	};
	double sum = 0;

	memcpy(rest, s->work->turned + first * cols, n * cols * sizeof(*rest));
	blas_gemm_f32(&gemm, s->u + first, s->v, rest);
	for (size_t i = 0; i < n * cols; i++)
		sum += (double)rest[i] * (double)rest[i];
	s->sums[piece] = sum;
}

/* n rows of codes as numbers, times `factors` where there are any, turned. */
static int turned_codes(const struct work *w, const struct metric *m, const int8_t *codes,
	const float *factors, size_t n, float **ret)
{
	_cleanup_(freep) float *x = malloc((n * m->n + 1) * sizeof(*x));

	*ret = malloc((n * m->n + 1) * sizeof(**ret));
	if (!x || !*ret)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < m->n; k++)
			x[i * m->n + k] = (factors ? factors[i] : 1) * (float)codes[i * m->n + k];
	metric_root_right(w->settings->pool, m, x, n, *ret);
	return 0;
}

static int weigh_factors(const struct work *w, struct rung *rung)
{
	const struct ladder_settings *s = w->settings;
	const struct whitened *f = rung->factors;
	size_t n_pieces = div_up(s->place.rows, STRIPE);
	_cleanup_(freep) float *u = NULL;
	_cleanup_(freep) float *v = NULL;
	_cleanup_(freep) double *sums = calloc(n_pieces, sizeof(*sums));
	_cleanup_(freep) float *scratch =
		malloc(pool_threads(s->pool) * STRIPE * s->place.cols * sizeof(*scratch));
	struct residual residual = {.work = w, .n = f->n, .scratch = scratch, .sums = sums};
	int r = turned_codes(w, s->g, f->u, f->sigma, f->n, &u);

	if (r == 0)
		r = turned_codes(w, s->h, f->v, NULL, f->n, &v);
	if (r < 0 || !sums || !scratch)
		return -ENOMEM;
	residual.u = u;
	residual.v = v;
	pool_run(s->pool, piece_residual, &residual, n_pieces);
	for (size_t i = 0; i < n_pieces; i++)
		rung->loss += sums[i];
	return 0;
}

static int add_factors(struct work *w, const struct whitened_basis *basis, double lambda,
	const struct coarseness *c)
{
	const struct whitened_settings settings = {
		.lambda = form_lambda(lambda), .coarseness = c->grid, .least = c->least};
	struct rung *rung = &w->rungs[w->n_rungs];
	int r = whitened_quantise(basis, &settings, &rung->factors);

	if (r < 0)
		return r;
	if (rung->factors->n == 0) {
		rung->factors = whitened_free(rung->factors);
		return 0;
	}
	rung->lambda = lambda;
	w->n_rungs++;
	return weigh_factors(w, rung);
}

static int add_components(struct work *w, struct reason *reason)
{
	const struct ladder_settings *s = w->settings;
	_cleanup_(whitened_basis_freep) struct whitened_basis *basis = NULL;
	int r = whitened_basis_leading(
		s->pool, w->turned, s->g, s->h, s->max_components, &basis, reason);

	for (uint32_t i = 0; r == 0 && i < s->n_rungs; i++)
		for (size_t c = 0; r == 0 && c < array_len(coarsenesses); c++)
			r = add_factors(w, basis, w->lambdas[i], &coarsenesses[c]);
	return r;
}

static int code_all(struct work *w, struct reason *reason)
{
	const struct ladder_settings *s = w->settings;
	int r = 0;

	for (uint32_t i = 0; i < s->n_rungs; i++)
		w->rungs[w->n_rungs++].lambda = w->lambdas[i];
	if (s->max_components > 0)
		r = add_components(w, reason);
	freep(&w->turned);
	w->turned = NULL;
	if (r < 0)
		return r;
	for (w->n_left = w->n_rungs; w->n_left > 0;) {
		size_t n = min_u64(LADDER_SIDE_BY_SIDE, w->n_left);

		pool_run(s->pool, piece_code, w, n);
		w->n_left -= n;
	}
	for (size_t i = 0; r == 0 && i < w->n_rungs; i++)
		r = w->rungs[i].error;
	return r;
}

/* What is on the hull stays. */
static void choose(struct work *w, struct ladder *ret)
{
	size_t n = 0;

	ret->entries[n++] =
		(struct menu_entry){.point.loss = w->nothing / 2, .tag = LADDER_NOTHING};
	for (uint32_t i = 0; i < w->n_rungs; i++)
		ret->entries[n++] = (struct menu_entry){
			.point.bytes = (double)part_file_bytes(&w->rungs[i].part),
			/* As it is told with the part. */
			.point.loss = (double)(float)(w->rungs[i].loss / 2),
			.tag = i,
		};
	ret->n_entries = menu_hull(ret->entries, n);
	for (size_t i = 0; i < ret->n_entries; i++) {
		struct menu_entry *e = &ret->entries[i];
		struct part *part = &ret->parts[ret->n_parts];

		if (e->tag == LADDER_NOTHING)
			continue;
		*part = w->rungs[e->tag].part;
		w->rungs[e->tag].part = (struct part){0};
		part->quality.loss = (float)e->point.loss;
		e->tag = (uint32_t)ret->n_parts++;
	}
}

int ladder_make(const struct ladder_settings *settings, struct ladder *ret, struct reason *reason)
{
	_cleanup_(work_done) struct work w = {.settings = settings};
	int r = turn(&w);

	if (r == 0 && !isfinite(w.nothing))
		return reason_set(reason, -EDOM, "the change holds numbers that are not finite");
	if (r < 0)
		return r;
	set_lambdas(&w);
	r = code_all(&w, reason);
	if (r < 0)
		return r;
	*ret = (struct ladder){0};
	choose(&w, ret);
	return 0;
}
