#include "compress/projection.h"

#include "compress/gptq.h"
#include "compress/moments.h"
#include "kernels/blas.h"
#include "kernels/pack.h"
#include "store/delta.h"

#include <math.h>
#include <string.h>

#define VECTORS_PER_TASK 32u
#define ELEMENTS_PER_TASK QMAT_GROUP
#define ROWS_PER_TASK 256u

/* A projection between V and its installation. */
struct member {
	struct projection *p;
	double *values; /* n_ranks x (rows or cols): dequantised V, scaled by sigma */
	struct gptq *ranks;
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
	free(p->weights);
	free(p->delta);
	svd_free(p->svd);
	qvectors_free(p->u);
	qvectors_free(p->v);
	free(p->sigma);
	*p = (struct projection){0};
}

static double norm_of(const float *x, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)x[i] * (double)x[i];
	return sqrt(sum);
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

int projection_decompose(struct projection *p, double ratio, struct reason *reason)
{
	size_t n = (size_t)p->rows * p->cols;
	double base_norm = norm_of(p->weights, n);
	int r;

	if (!p->delta)
		return 0;
	r = svd_new(p->delta, p->rows, p->cols, &p->svd, reason);
	if (r < 0)
		return r;
	bands_plan(p->rows, p->cols, ratio, &p->plan);
	p->quality.delta_norm = (float)(norm_of(p->delta, n) / base_norm);
	p->quality.energy = (float)svd_energy(p->svd, p->plan.n_ranks);
	svd_truncate(p->svd, p->plan.n_ranks);
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

/* The second moments of what U multiplies, z = Sigma Vhat x:  G = (Sigma Vhat) H (Sigma Vhat)^T. */
static int prepare_u(struct member *m, const double *hessian)
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
	blas_gemm_f64(&first, m->values, hessian, product);
	blas_gemm_f64(&second, product, m->values, moments);
	blas_mirror_upper(moments, n_ranks);
	return gptq_new(moments, (uint32_t)n_ranks, GPTQ_DAMPING, &m->ranks, NULL);
}

static void prepare_member(void *arg, size_t piece, size_t worker)
{
	struct job *job = arg;

	(void)worker;
	job->members[piece].error = prepare_u(&job->members[piece], job->hessian);
}

static void quantise_u(void *arg, size_t piece, size_t worker)
{
	struct job *job = arg;
	struct task *t = &job->tasks[piece];
	struct projection *p = t->member->p;

	(void)worker;
	t->error = gptq_across(t->member->ranks, p->svd->u, t->first, t->last, p->u);
}

/* Rows [first, last): change = U^T (Sigma V); the weights gain it, the delta loses it. */
static int install_rows(const struct member *m, uint32_t first, uint32_t last)
{
	struct projection *p = m->p;
	size_t n_rows = last - first, n_ranks = p->plan.n_ranks;
	_cleanup_(freep) double *u = malloc((p->rows + n_ranks * n_rows) * sizeof(*u));
	_cleanup_(freep) double *change = malloc(n_rows * p->cols * sizeof(*change));
	struct blas_gemm gemm = {
		.m = n_rows, .n = p->cols, .k = n_ranks, .transpose_a = true, .alpha = 1};
	size_t at = (size_t)first * p->cols;

	if (!u || !change)
		return -ENOMEM;
	for (uint32_t i = 0; i < n_ranks; i++) {
		double *vector = u + n_ranks * n_rows;

		qvectors_values(p->u, i, vector);
		memcpy(u + i * n_rows, vector + first, n_rows * sizeof(*u));
	}
	blas_gemm_f64(&gemm, u, m->values, change);
	for (size_t i = 0; i < n_rows * p->cols; i++) {
		p->weights[at + i] = (float)((double)p->weights[at + i] + change[i]);
		p->delta[at + i] = (float)((double)p->delta[at + i] - change[i]);
	}
	return 0;
}

static void install(void *arg, size_t piece, size_t worker)
{
	struct job *job = arg;
	struct task *t = &job->tasks[piece];

	(void)worker;
	t->error = install_rows(t->member, t->first, t->last);
}

/* Runs `fn` over all members, each cut into tasks of `step` vectors, elements or rows. */
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
	if (r == 0)
		r = run_tasks(pool, job, install, n_rows_of, ROWS_PER_TASK);
	return r;
}

static int measure(struct pool *pool, struct projection *p, const double *hessian, double *ret_norm,
	double *ret_energy)
{
	*ret_norm = norm_of(p->delta, (size_t)p->rows * p->cols);
	return moments_energy(pool, hessian, p->delta, p->rows, p->cols, ret_energy);
}

/* Both errors of each member, from the delta before and after. */
static int quantise_and_measure(struct pool *pool, struct job *job)
{
	_cleanup_(freep) double *norms = calloc(2 * job->n_members + 1, sizeof(*norms));
	double *energies = norms + job->n_members;
	int r = 0;

	if (!norms)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < job->n_members; i++)
		r = measure(pool, job->members[i].p, job->hessian, &norms[i], &energies[i]);
	if (r == 0)
		r = quantise_members(pool, job);
	for (size_t i = 0; r == 0 && i < job->n_members; i++) {
		struct projection *p = job->members[i].p;
		double norm, energy;

		r = measure(pool, p, job->hessian, &norm, &energy);
		if (r < 0)
			break;
		p->quality.weight_error = (float)(norm / norms[i]);
		p->quality.activation_error =
			energies[i] > 0 ? (float)sqrt(energy / energies[i]) : 0;
	}
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
	r = gptq_new(hessian, states[0].p->cols, GPTQ_DAMPING, &inputs, reason);
	if (r < 0)
		return r;
	job.inputs = inputs;
	r = quantise_and_measure(pool, &job);
	for (size_t i = 0; i < job.n_members; i++) {
		free(states[i].values);
		gptq_free(states[i].ranks);
	}
	return r;
}

/* Ranks [first, first + n) of one factor. */
static void pack_vectors(const struct qvectors *q, uint32_t first, uint32_t n, uint8_t *codes,
	uint16_t *scales, uint8_t *zeros)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t vector = first + i;
		uint32_t bits = q->bits[vector];
		const uint8_t *zero = q->zeros + vector * q->n_groups;

		qmat_row_pack(codes + i * q->n_groups * qmat_group_bytes(bits),
			q->codes + (size_t)vector * q->length, zero, q->length, bits);
		memcpy(scales + i * q->n_groups, q->scales + vector * q->n_groups,
			q->n_groups * sizeof(*scales));
		memcpy(zeros + i * q->n_groups, zero, q->n_groups);
	}
}

int projection_payload(const struct projection *p, uint8_t **ret)
{
	struct mixed_svd_band bands[BANDS_KINDS] = {0};
	_cleanup_(freep) uint8_t *payload = calloc(1, p->plan.bytes);
	uint32_t first = 0;

	if (!payload)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->plan.n_bands; i++)
		bands[i] = (struct mixed_svd_band){
			.bits = p->plan.bands[i].bits, .n_ranks = p->plan.bands[i].n_ranks};
	mixed_svd_layout(bands, p->plan.n_bands, p->rows, p->cols);
	memcpy(payload, bands, p->plan.n_bands * sizeof(*bands));
	for (uint32_t i = 0; i < p->plan.n_bands; i++) {
		const struct mixed_svd_band *b = &bands[i];

		memcpy(payload + b->sigma, p->sigma + first, b->n_ranks * sizeof(float));
		pack_vectors(p->v, first, b->n_ranks, payload + b->v_codes,
			(uint16_t *)(void *)(payload + b->v_scales), payload + b->v_zeros);
		pack_vectors(p->u, first, b->n_ranks, payload + b->u_codes,
			(uint16_t *)(void *)(payload + b->u_scales), payload + b->u_zeros);
		first += b->n_ranks;
	}
	*ret = take_ptr(payload);
	return 0;
}
