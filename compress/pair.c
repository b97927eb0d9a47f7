#include "compress/pair.h"

#include "kernels/convert.h"
#include "store/base.h"

#include <string.h>

int pair_init(
	struct pair *p, struct checkpoint *base, struct checkpoint *tuned, struct reason *reason)
{
	const struct model_config *b = checkpoint_config(base), *t = checkpoint_config(tuned);
	int r = model_config_fits(t, b, reason);

	if (r < 0)
		return reason_prefix(reason, r, "%s is not a fine-tune of %s",
			checkpoint_folder(tuned), checkpoint_folder(base));
	*p = (struct pair){.base = base, .tuned = tuned, .base_config = *b, .tuned_config = *t};
	return 0;
}

static int read_bf16(struct checkpoint *c, enum tensor_role role, uint32_t layer, size_t n,
	uint16_t **ret, struct reason *reason)
{
	_cleanup_(freep) uint16_t *values = malloc((n + 1) * sizeof(*values));
	int r;

	if (!values)
		return -ENOMEM;
	r = checkpoint_read_bf16(c, role, layer, values, NULL, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(values);
	return 0;
}

static int read_f32(struct checkpoint *c, enum tensor_role role, uint32_t layer, size_t n,
	float **ret, struct reason *reason)
{
	_cleanup_(freep) float *values = malloc((n + 1) * sizeof(*values));
	int r;

	if (!values)
		return -ENOMEM;
	r = checkpoint_read_f32(c, role, layer, values, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(values);
	return 0;
}

int pair_read_matrix(const struct pair *p, enum tensor_role role, uint32_t layer,
	struct pair_matrix *ret, struct reason *reason)
{
	_cleanup_(freep) uint16_t *narrow = NULL;
	_cleanup_(freep) float *base = NULL;
	_cleanup_(freep) float *delta = NULL;
	struct tensor_record shape = {.role = role, .layer = layer};
	bool changed, all_zero = true;
	size_t n;
	int r;

	if (!model_config_shape(&p->base_config, role, layer, &shape.rows, &shape.cols))
		return reason_set(
			reason, -EINVAL, "no %s in layer %u", tensor_role_name(role), layer);
	n = (size_t)shape.rows * shape.cols;
	r = read_bf16(p->base, role, layer, n, &narrow, reason);
	if (r == 0)
		r = read_f32(p->tuned, role, layer, n, &delta, reason);
	if (r < 0)
		return r;
	base = malloc((n + 1) * sizeof(*base));
	if (!base)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		base[i] = bf16_to_f32(narrow[i]);
	changed = memcmp(base, delta, n * sizeof(*base)) != 0;
	r = weights_served(p->weights, &shape, narrow, base, reason);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		delta[i] -= base[i];
		all_zero &= delta[i] == 0;
	}
	*ret = (struct pair_matrix){.rows = shape.rows,
		.cols = shape.cols,
		.base = take_ptr(base),
		.all_zero = all_zero};
	if (changed)
		ret->delta = take_ptr(delta);
	return 0;
}

/* Words of the base to those of what is served in their place, as a reader rounds them. */
static int serve_words(const struct pair *p, const struct tensor_record *shape, uint16_t *words,
	struct reason *reason)
{
	size_t n = (size_t)shape->rows * shape->cols;
	_cleanup_(freep) float *values = malloc((n + 1) * sizeof(*values));
	int r;

	if (!values)
		return -ENOMEM;
	r = weights_served(p->weights, shape, words, values, reason);
	for (size_t i = 0; r == 0 && i < n; i++)
		words[i] = bf16_from_f32(values[i]);
	return r;
}

int pair_read_words(const struct pair *p, enum tensor_role role, uint32_t layer,
	uint16_t **ret_base, uint16_t **ret_tuned, struct reason *reason)
{
	_cleanup_(freep) uint16_t *base = NULL;
	struct tensor_record shape = {.role = role, .layer = layer};
	size_t n;
	int r;

	if (!model_config_shape(&p->base_config, role, layer, &shape.rows, &shape.cols))
		return reason_set(
			reason, -EINVAL, "no %s in layer %u", tensor_role_name(role), layer);
	n = (size_t)shape.rows * shape.cols;
	r = read_bf16(p->base, role, layer, n, &base, reason);
	if (r == 0 && p->weights != WEIGHTS_BF16)
		r = serve_words(p, &shape, base, reason);
	if (r == 0)
		r = read_bf16(p->tuned, role, layer, n, ret_tuned, reason);
	if (r < 0)
		return r;
	*ret_base = take_ptr(base);
	return 0;
}

int pair_read_vector(const struct pair *p, enum tensor_role role, uint32_t layer, float **ret,
	bool *ret_changed, struct reason *reason)
{
	_cleanup_(freep) float *base = NULL;
	_cleanup_(freep) float *tuned = NULL;
	uint32_t rows, cols;
	int r;

	if (!model_config_shape(&p->base_config, role, layer, &rows, &cols)) {
		*ret = NULL;
		*ret_changed = false;
		return 0;
	}
	r = read_f32(p->base, role, layer, rows, &base, reason);
	if (r == 0)
		r = read_f32(p->tuned, role, layer, rows, &tuned, reason);
	if (r < 0)
		return r;
	*ret_changed = memcmp(base, tuned, rows * sizeof(*base)) != 0;
	*ret = take_ptr(tuned);
	return 0;
}

void pair_rows_done(struct pair_rows *r)
{
	free(r->values);
	free(r->base);
	free(r->changed);
	*r = (struct pair_rows){0};
}

static void find_changed(struct pair_rows *r)
{
	for (uint32_t row = 0; row < r->rows; row++) {
		size_t at = (size_t)row * r->cols;

		if (row >= r->base_rows ||
			memcmp(r->base + at, r->values + at, r->cols * sizeof(*r->base)) != 0)
			r->changed[r->n_changed++] = row;
	}
}

int pair_read_rows(
	const struct pair *p, enum tensor_role role, struct pair_rows *ret, struct reason *reason)
{
	_cleanup_(pair_rows_done) struct pair_rows rows = {0};
	uint32_t layer = role == ROLE_HEAD ? p->base_config.n_layers - 1 : 0;
	uint32_t cols;
	int r;

	if (!model_config_shape(&p->base_config, role, layer, &rows.base_rows, &cols) ||
		!model_config_shape(&p->tuned_config, role, layer, &rows.rows, &rows.cols))
		return reason_set(reason, -EINVAL, "no %s in the model", tensor_role_name(role));
	r = read_bf16(p->base, role, layer, (size_t)rows.base_rows * cols, &rows.base, reason);
	if (r == 0)
		r = read_bf16(
			p->tuned, role, layer, (size_t)rows.rows * rows.cols, &rows.values, reason);
	if (r < 0)
		return r;
	rows.changed = malloc(((size_t)rows.rows + 1) * sizeof(*rows.changed));
	if (!rows.changed)
		return -ENOMEM;
	find_changed(&rows);
	*ret = rows;
	rows = (struct pair_rows){0};
	return 0;
}

int pair_rows_serve(
	const struct pair *p, enum tensor_role role, struct pair_rows *rows, struct reason *reason)
{
	const struct tensor_record shape = {
		.role = role, .rows = rows->base_rows, .cols = rows->cols};
	uint32_t next = 0;
	int r = serve_words(p, &shape, rows->base, reason);

	for (uint32_t row = 0; r == 0 && row < rows->base_rows; row++) {
		size_t at = (size_t)row * rows->cols;

		if (next < rows->n_changed && rows->changed[next] == row)
			next++;
		else
			memcpy(rows->values + at, rows->base + at,
				rows->cols * sizeof(*rows->values));
	}
	return r;
}

void pair_rows_take_all(struct pair_rows *rows)
{
	rows->n_changed = rows->rows;
	for (uint32_t row = 0; row < rows->rows; row++)
		rows->changed[row] = row;
}
