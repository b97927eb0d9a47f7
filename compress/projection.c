#include "compress/projection.h"

#include "compress/gptq.h"
#include "compress/product.h"
#include "compress/refit.h"
#include "kernels/blas.h"
#include "kernels/pack.h"
#include "store/delta.h"

#include <math.h>
#include <string.h>

#define VECTORS_PER_TASK 32u
#define ELEMENTS_PER_TASK QMAT_GROUP

/* A projection between V and U. */
struct member {
	struct projection *p;
	double *values; /* n_ranks x (rows or cols): dequantised V, scaled by sigma */
	struct gptq *ranks;
	struct refit refit; /* where U is solved again */
	int error;
};

struct task {
	struct member *member;
	uint32_t first, last;
	int error;
};

struct job {
	const double *hessian;
	const struct gptq *inputs;
	struct member *members;
	size_t n_members;
	struct task *tasks;
	size_t n_tasks;
};

void projection_done(struct projection *p)
{
	svd_free(p->svd);
	qvectors_free(p->u);
	qvectors_free(p->v);
	free(p->sigma);
	*p = (struct projection){0};
}

static int make_vectors(struct projection *p)
{
	_cleanup_(freep) uint8_t *bits = malloc(p->plan.n_ranks + 1);
	uint32_t rank = 0;
	int r;

	p->sigma = malloc((p->plan.n_ranks + 1) * sizeof(*p->sigma));
	if (!bits || !p->sigma)
		return -ENOMEM;
	for (uint32_t b = 0; b < p->plan.n_bands; b++)
		for (uint32_t i = 0; i < p->plan.bands[b].n_ranks; i++, rank++) {
			bits[rank] = (uint8_t)p->plan.bands[b].bits;
			p->sigma[rank] = (float)p->svd->sigma[rank];
		}
	r = qvectors_new(p->plan.n_ranks, p->cols, bits, &p->v);
	if (r == 0)
		r = qvectors_new(p->plan.n_ranks, p->rows, bits, &p->u);
	return r;
}

bool projection_plan(struct projection *p, double ratio)
{
	bands_plan(p->rows, p->cols, ratio, &p->plan);
	return svd_route(p->rows, p->cols, p->plan.n_ranks) != SVD_EXACT;
}

/* Whitened vectors come in any size; grids want them near 1. */
static void set_size(struct svd *s)
{
	for (uint32_t i = 0; i < s->rank; i++) {
		double *v = s->v + (size_t)i * s->cols, sum = 0, size;

		for (uint32_t c = 0; c < s->cols; c++)
			sum += v[c] * v[c];
		size = sqrt(sum / s->cols);
		s->sigma[i] *= size;
		for (uint32_t c = 0; size > 0 && c < s->cols; c++)
			v[c] /= size;
	}
}

int projection_decompose(
	struct pool *pool, struct projection *p, const double *hessian, struct reason *reason)
{
	const struct svd_problem problem = {
		.matrix = p->delta,
		.rows = p->rows,
		.cols = p->cols,
		.n = p->plan.n_ranks,
		.route = svd_route(p->rows, p->cols, p->plan.n_ranks),
	};
	int r;

	if (p->whitened)
		r = svd_whitened(pool, &problem, hessian, &p->svd, reason);
	else
		r = svd_solve(pool, &problem, &p->svd, reason);
	if (r < 0)
		return r;
	p->energy = (float)svd_energy(p->svd, p->plan.n_ranks);
	if (p->whitened)
		set_size(p->svd);
	return make_vectors(p);
}

static void quantise_v(void *arg, size_t piece, size_t worker)
{
	struct job *job = arg;
	struct task *t = &job->tasks[piece];
	struct projection *p = t->member->p;

	(void)worker;
	t->error = gptq_along(job->inputs, p->svd->v, t->first, t->last, p->v);
}

/* values = diag(sigma) Vhat. */
static int scaled_v(struct member *m)
{
	const struct projection *p = m->p;

	m->values = malloc(((size_t)p->plan.n_ranks * p->cols + 1) * sizeof(*m->values));
	if (!m->values)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->plan.n_ranks; i++) {
		double *row = m->values + (size_t)i * p->cols;

		qvectors_values(p->v, i, row);
		for (uint32_t c = 0; c < p->cols; c++)
			row[c] *= (double)p->sigma[i];
	}
	return 0;
}

/* The best U for the codes of V takes the place of the singular vectors. */
static int solve_u(struct member *m, struct pool *pool, const double *hessian)
{
	const struct projection *p = m->p;
	const struct refit_problem problem = {
		.pool = pool,
		.target = p->delta,
		.moments = hessian,
		.w = m->values,
		.rows = p->rows,
		.cols = p->cols,
		.n = p->plan.n_ranks,
	};
	int r = refit_init(&problem, &m->refit);

	return r < 0 ? r : refit_vectors(&m->refit, p->svd->u, NULL);
}

/* And the best sigma for both. */
static int solve_sigma(struct member *m)
{
	struct projection *p = m->p;
	size_t n = p->plan.n_ranks;
	_cleanup_(freep) double *u = malloc((n * p->rows + 1) * sizeof(*u));
	_cleanup_(freep) double *factors = malloc((n + 1) * sizeof(*factors));
	int r;

	if (!u || !factors)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		qvectors_values(p->u, i, u + (size_t)i * p->rows);
	r = refit_factors(&m->refit, u, factors, NULL);
	for (uint32_t i = 0; r == 0 && i < n; i++)
		p->sigma[i] = (float)((double)p->sigma[i] * factors[i]);
	return r;
}

/* The second moments of what U multiplies, z = Sigma Vhat x:  G = (Sigma Vhat) H (Sigma Vhat)^T. */
static int prepare_u(struct member *m, struct pool *pool, const double *hessian)
{
	size_t n_ranks = m->p->plan.n_ranks, cols = m->p->cols;
	_cleanup_(freep) double *product = malloc((n_ranks * cols + 1) * sizeof(*product));
	_cleanup_(freep) double *moments = malloc((n_ranks * n_ranks + 1) * sizeof(*moments));
	struct blas_gemm first = {.m = n_ranks, .n = cols, .k = cols, .alpha = 1};
	struct blas_gemm second = {
		.m = n_ranks, .n = n_ranks, .k = cols, .transpose_b = true, .alpha = 1};
	int r;

	if (!product || !moments)
		return -ENOMEM;
	r = scaled_v(m);
	if (r < 0)
		return r;
	product_f64(pool, &first, m->values, hessian, product);
	product_f64(pool, &second, product, m->values, moments);
	blas_mirror_upper(moments, n_ranks);
	r = gptq_new(pool, moments, (uint32_t)n_ranks, &m->ranks, NULL);
	return r < 0 || !m->p->refit ? r : solve_u(m, pool, hessian);
}

static void prepare_member(void *arg, size_t piece, size_t worker)
{
	struct job *job = arg;

	(void)worker;
	job->members[piece].error = prepare_u(&job->members[piece], NULL, job->hessian);
}

static void quantise_u(void *arg, size_t piece, size_t worker)
{
	struct job *job = arg;
	struct task *t = &job->tasks[piece];
	struct projection *p = t->member->p;

	(void)worker;
	t->error = gptq_across(t->member->ranks, p->svd->u, t->first, t->last, p->u);
}

/* Runs `fn` over all members, each cut into tasks of `step` vectors or elements. */
static int run_tasks(struct pool *pool, struct job *job, pool_fn *fn,
	uint32_t (*extent)(const struct projection *p), uint32_t step)
{
	_cleanup_(freep) struct task *tasks = NULL;
	size_t n = 0;

	for (size_t i = 0; i < job->n_members; i++)
		n += div_up(extent(job->members[i].p), step);
	tasks = calloc(n + 1, sizeof(*tasks));
	if (!tasks)
		return -ENOMEM;
	job->tasks = tasks;
	job->n_tasks = 0;
	for (size_t i = 0; i < job->n_members; i++) {
		uint32_t end = extent(job->members[i].p);

		for (uint32_t first = 0; first < end; first += step)
			tasks[job->n_tasks++] = (struct task){
				.member = &job->members[i],
				.first = first,
				.last = (uint32_t)min_u64((uint64_t)first + step, end),
			};
	}
	pool_run(pool, fn, job, job->n_tasks);
	job->tasks = NULL;
	for (size_t i = 0; i < n; i++)
		if (tasks[i].error < 0)
			return tasks[i].error;
	return 0;
}

static uint32_t n_ranks_of(const struct projection *p)
{
	return p->plan.n_ranks;
}

static uint32_t n_rows_of(const struct projection *p)
{
	return p->rows;
}

static int prepare_members(struct pool *pool, struct job *job)
{
	if (job->n_members == 1)
		return prepare_u(&job->members[0], pool, job->hessian);
	pool_run(pool, prepare_member, job, job->n_members);
	for (size_t i = 0; i < job->n_members; i++)
		if (job->members[i].error < 0)
			return job->members[i].error;
	return 0;
}

static int quantise_members(struct pool *pool, struct job *job)
{
	int r;

	r = run_tasks(pool, job, quantise_v, n_ranks_of, VECTORS_PER_TASK);
	if (r == 0)
		r = prepare_members(pool, job);
	if (r == 0)
		r = run_tasks(pool, job, quantise_u, n_rows_of, ELEMENTS_PER_TASK);
	for (size_t i = 0; r == 0 && i < job->n_members; i++)
		if (job->members[i].p->refit)
			r = solve_sigma(&job->members[i]);
	return r;
}

int projections_quantise(struct pool *pool, struct projection *const *members, size_t n_members,
	const double *hessian, struct reason *reason)
{
	_cleanup_(freep) struct member *states = calloc(n_members + 1, sizeof(*states));
	_cleanup_(gptq_freep) struct gptq *inputs = NULL;
	struct job job = {.hessian = hessian, .members = states};
	int r;

	if (!states)
		return -ENOMEM;
	for (size_t i = 0; i < n_members; i++)
		if (members[i]->plan.n_bands > 0)
			states[job.n_members++].p = members[i];
	if (job.n_members == 0)
		return 0;
	r = gptq_new(pool, hessian, states[0].p->cols, &inputs, reason);
	if (r < 0)
		return r;
	job.inputs = inputs;
	r = quantise_members(pool, &job);
	for (size_t i = 0; i < job.n_members; i++) {
		free(states[i].values);
		gptq_free(states[i].ranks);
		refit_done(&states[i].refit);
	}
	return r;
}

/* Ranks [first, first + n) of one factor, all of the same width. */
static int band_of(const struct qvectors *q, uint32_t first, uint32_t n, struct code_matrix **ret)
{
	int r = code_matrix_new(n, q->length, q->bits[first], GRID_GROUP, ret);

	if (r < 0)
		return r;
	memcpy((*ret)->codes, q->codes + (size_t)first * q->length, (size_t)n * q->length);
	memcpy((*ret)->scales, q->scales + first * q->n_groups,
		n * q->n_groups * sizeof(*q->scales));
	memcpy((*ret)->zeros, q->zeros + first * q->n_groups, n * q->n_groups);
	return 0;
}

int projection_part(
	const struct projection *p, uint32_t band, const struct part_place *place, struct part *ret)
{
	_cleanup_(code_matrix_freep) struct code_matrix *v = NULL;
	_cleanup_(code_matrix_freep) struct code_matrix *u = NULL;
	uint32_t first = 0, n = p->plan.bands[band].n_ranks;
	int r;

	for (uint32_t i = 0; i < band; i++)
		first += p->plan.bands[i].n_ranks;
	r = band_of(p->v, first, n, &v);
	if (r == 0)
		r = band_of(p->u, first, n, &u);
	if (r == 0)
		r = part_factors(place, v, u, p->sigma + first, false, ret);
	return r;
}
