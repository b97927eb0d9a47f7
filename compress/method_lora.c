/*
 * "lora": the factors of an adapter (arXiv 2106.09685) as they are. A projection that the adapter
 * replaces as a whole is stored as the fine-tune's bf16 words.
 */
#include "compress/adapter_part.h"
#include "compress/methods.h"
#include "compress/verbatim.h"

struct lora {
	uint32_t n_half, n_float, n_replaced;
};

static int check(const struct method_options *o, struct reason *reason)
{
	if (o->ratio != 0 || o->bits != 0)
		return reason_set(reason, -EINVAL,
			"is as large as the adapter, expected neither ratio nor bits");
	return 0;
}

static int prepare(const struct method_model *model, void **ret_state, struct reason *reason)
{
	struct lora *l;

	if (!checkpoint_adapter(model->pair->tuned))
		return reason_set(reason, -EINVAL, "method lora is for adapters only");
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	*ret_state = l;
	return 0;
}

static int store_matrix(struct lora *l, const struct method_group *g, struct method_matrix *m,
	struct reason *reason)
{
	const struct part_place place = method_matrix_place(m, 0);
	struct part part;
	int r;

	r = adapter_part(checkpoint_adapter(g->pair->tuned), &place, &part, reason);
	if (r < 0)
		return r;
	if (!part.payload) {
		r = verbatim_part(g->pair, m, false, &part, reason);
		l->n_replaced++;
	} else if (part.record.bits == 16) {
		l->n_half++;
	} else {
		l->n_float++;
	}
	return r < 0 ? r : method_matrix_add(m, &part);
}

static int quantise(void *state, struct method_group *group, struct reason *reason)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < group->n_matrices; i++)
		r = store_matrix(state, group, &group->matrices[i], reason);
	return r;
}

static size_t report(const void *state, struct method_figure *ret)
{
	const struct lora *l = state;

	ret[0] = (struct method_figure){.name = "fp16_factors", .value = l->n_half};
	ret[1] = (struct method_figure){.name = "f32_factors", .value = l->n_float};
	ret[2] = (struct method_figure){.name = "replaced", .value = l->n_replaced};
	return 3;
}

const struct method method_lora = {
	.name = "lora",
	.summary = "what --adapter takes: the adapter's factors, exactly",
	.takes = METHOD_TAKES_ADAPTERS,
	.check = check,
	.prepare = prepare,
	.quantise = quantise,
	.report = report,
	.done = free,
};
