/*
 * Methods that lose all or nothing: "zero" leaves every projection as the base has it, "dense"
 * stores those that changed as they are, in bf16, "lossless" the same, entropy coded against the
 * base's words. Numbers of the fine-tune that are wider than bf16 are rounded, as an import does.
 */
#include "compress/methods.h"
#include "compress/verbatim.h"

static int check(const struct method_options *o, struct reason *reason)
{
	if (o->ratio != 0)
		return reason_set(reason, -EINVAL, "has a size of its own, there is no ratio");
	if (o->bits != 0)
		return reason_set(reason, -EINVAL, "has a size of its own, there are no bits");
	return 0;
}

static int leave_out(void *state, struct method_group *group, struct reason *reason)
{
	(void)state, (void)group, (void)reason;
	return 0;
}

static int store_group(struct method_group *group, bool coded, struct reason *reason)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < group->n_matrices; i++) {
		struct method_matrix *m = &group->matrices[i];
		struct part part;

		r = verbatim_part(group->pair, m, coded, &part, reason);
		if (r == 0)
			r = method_matrix_add(m, &part);
	}
	return r;
}

static int store_plain(void *state, struct method_group *group, struct reason *reason)
{
	(void)state;
	return store_group(group, false, reason);
}

static int store_coded(void *state, struct method_group *group, struct reason *reason)
{
	(void)state;
	return store_group(group, true, reason);
}

const struct method method_zero = {
	.name = "zero",
	.summary = "no projection, only what is always exact",
	.any_change = true,
	.check = check,
	.quantise = leave_out,
};

const struct method method_dense = {
	.name = "dense",
	.summary = "the fine-tune's bf16 words",
	.exact = true,
	.any_change = true,
	.check = check,
	.quantise = store_plain,
};

const struct method method_lossless = {
	.name = "lossless",
	.summary = "the same, entropy coded against the base's; compared bit for bit",
	.exact = true,
	.any_change = true,
	.against_served = true, /* coded rows are told from what the reader has */
	.check = check,
	.quantise = store_coded,
};
