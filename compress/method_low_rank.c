/*
 * Methods "low-rank" and "low-rank-whitened": the first components of each delta in fp16, as a
 * LoRA adapter would hold them. The baseline of the quantised forms; see compress/low_rank.h.
 */
#include "compress/low_rank.h"
#include "compress/methods.h"
#include "store/base.h"

static int quantise_one(struct method_matrix *m, const double *moments, struct reason *reason)
{
	_cleanup_(low_rank_done) struct low_rank l = {0};
	uint32_t n = low_rank_most(m->rows, m->cols, m->budget);
	int r;

	if (n == 0)
		return 0;
	r = low_rank_fit(m->delta, m->rows, m->cols, n, moments, &l, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", tensor_role_name(m->role));
	return low_rank_add(&l, m, 0);
}

struct work {
	struct method_group *group;
	const double *moments;
	int errors[METHOD_MAX_GROUP];
	struct reason reasons[METHOD_MAX_GROUP];
};

static void quantise_piece(void *arg, size_t piece, size_t worker)
{
	struct work *w = arg;

	(void)worker;
	w->errors[piece] = quantise_one(&w->group->matrices[piece], w->moments, &w->reasons[piece]);
}

static int quantise_group(struct method_group *group, const double *moments, struct reason *reason)
{
	struct work w = {.group = group, .moments = moments};

	pool_run(group->pool, quantise_piece, &w, group->n_matrices);
	for (size_t i = 0; i < group->n_matrices; i++)
		if (w.errors[i] < 0) {
			*reason = w.reasons[i];
			return w.errors[i];
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
