#include "compress/trial_parts.h"

#include "compress/code_costs.h"

int trial_codes_part(const struct part_place *p, const int8_t *codes, double step, struct part *ret)
{
	_cleanup_(code_matrix_freep) struct code_matrix *m = NULL;
	struct code_range range = {0};
	int r;

	code_range_add(&range, codes, (size_t)p->rows * p->cols);
	r = code_matrix_of_signed(codes, p->rows, p->cols, range, &m);
	if (r < 0)
		return r;
	m->step = (float)step;
	return part_codes(p, m, NULL, true, ret);
}

int trial_factors_part(const struct part_place *p, const struct whitened *w, struct part *ret)
{
	struct code_range range = {0};
	_cleanup_(code_matrix_freep) struct code_matrix *v = NULL;
	_cleanup_(code_matrix_freep) struct code_matrix *u = NULL;
	int r;

	code_range_add(&range, w->v, (size_t)w->n * p->cols);
	code_range_add(&range, w->u, (size_t)w->n * p->rows);
	r = code_matrix_of_signed(w->v, w->n, p->cols, range, &v);
	if (r == 0)
		r = code_matrix_of_signed(w->u, w->n, p->rows, range, &u);
	if (r < 0)
		return r;
	return part_factors(p, v, u, w->sigma, true, ret);
}
