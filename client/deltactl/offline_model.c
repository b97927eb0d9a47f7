#include "client/deltactl/offline_model.h"

static int open_all(const char *base, const char *delta, uint32_t n_threads,
	struct offline_model *m, struct reason *reason)
{
	int r = kernels_select(&m->kernels, getenv("DELTAD_ISA"), reason);

	if (r < 0)
		return r;
	r = base_open(base, &m->base, NULL, reason);
	if (r < 0)
		return r;
	if (delta) {
		r = delta_open(delta, m->base, &m->delta, NULL, reason);
		if (r < 0)
			return r;
	}
	r = pool_new(n_threads, &m->pool, reason);
	if (r < 0)
		return r;
	r = model_new(m->base, &m->kernels, &m->model, reason);
	if (r < 0)
		return r;
	r = variant_new(m->model, m->delta, &m->variant, reason);
	return r < 0 ? reason_prefix(reason, r, "%s", delta ? delta : base) : 0;
}

int offline_model_open(const char *base, const char *delta, uint32_t n_threads,
	struct offline_model *ret, struct reason *reason)
{
	int r;

	*ret = (struct offline_model){0};
	r = open_all(base, delta, n_threads, ret, reason);
	if (r < 0)
		offline_model_done(ret);
	return r;
}

void offline_model_done(struct offline_model *m)
{
	variant_free(m->variant);
	model_free(m->model);
	pool_free(m->pool);
	delta_free(m->delta);
	base_free(m->base);
	*m = (struct offline_model){0};
}
