/*
 * Methods "low-rank" and "low-rank-whitened": the first components of each delta in fp16, as a
 * LoRA adapter would hold them. The baseline of the quantised forms; see compress/low_rank.h.
 */
#include "compress/low_rank.h"
#include "compress/methods.h"
#include "compress/svd.h"
#include "store/base.h"

struct job {
	struct method_group *group;
	const double *moments;
	uint32_t n[METHOD_MAX_GROUP]; /* components */
	bool alone[METHOD_MAX_GROUP]; /* large: all threads on one */
	int errors[METHOD_MAX_GROUP];
	struct reason reasons[METHOD_MAX_GROUP];
};

static int quantise_one(struct job *j, size_t i, struct pool *pool)
{
	struct method_matrix *m = &j->group->matrices[i];
	const struct low_rank_problem problem = {
		.pool = pool,
		.matrix = m->delta,
		.rows = m->rows,
		.cols = m->cols,
		.n = j->n[i],
		.moments = j->moments,
	};
	_cleanup_(low_rank_done) struct low_rank l = {0};
	int r;

	if (problem.n == 0)
		return 0;
	r = low_rank_fit(&problem, &l, &j->reasons[i]);
	return r < 0 ? r : low_rank_add(&l, m, 0);
}

/* Small ones side by side. */
static void quantise_piece(void *arg, size_t piece, size_t worker)
{
	struct job *j = arg;

	(void)worker;
	if (!j->alone[piece])
		j->errors[piece] = quantise_one(j, piece, NULL);
}

static int quantise_group(struct method_group *group, const double *moments, struct reason *reason)
{
	struct job j = {.group = group, .moments = moments};

	for (size_t i = 0; i < group->n_matrices; i++) {
		const struct method_matrix *m = &group->matrices[i];

		j.n[i] = low_rank_most(m->rows, m->cols, m->budget);
		j.alone[i] = svd_route(m->rows, m->cols, j.n[i]) != SVD_EXACT;
	}
	pool_run(group->pool, quantise_piece, &j, group->n_matrices);
	for (size_t i = 0; i < group->n_matrices; i++) {
		if (j.alone[i])
			j.errors[i] = quantise_one(&j, i, group->pool);
		if (j.errors[i] < 0)
			return reason_set(reason, j.errors[i], "%s: %s",
				tensor_role_name(group->matrices[i].role), j.reasons[i].text);
	}
	return 0;
}

static int quantise_plain(void *state, struct method_group *group, struct reason *reason)
{
	(void)state;
	return quantise_group(group, NULL, reason);
}

static int quantise_whitened(void *state, struct method_group *group, struct reason *reason)
{
	(void)state;
	return quantise_group(group, group->moments, reason);
}

const struct method method_low_rank = {
	.name = "low-rank",
	.summary = "the first singular triplets in fp16",
	.default_ratio = 16,
	.check = method_check_ratio,
	.quantise = quantise_plain,
};

const struct method method_low_rank_whitened = {
	.name = "low-rank-whitened",
	.summary = "the same, least in the error of the outputs instead of the weights",
	.needs = METHOD_NEEDS_CALIBRATION,
	.default_ratio = 16,
	.check = method_check_ratio,
	.quantise = quantise_whitened,
};
