#include "compress/merge_tensor.h"

#include "compress/part_values.h"
#include "kernels/convert.h"
#include "store/codec.h"

static int merge_vector(const struct payload *p, uint16_t *ret, struct reason *reason)
{
	const float *values = NULL;
	int r = codec_vector_f32(p, &values, reason);

	for (uint32_t i = 0; r == 0 && i < p->record->rows; i++)
		ret[i] = bf16_from_f32(values[i]);
	return r;
}

/* What serves and all parts of a matrix, the lowest level first; rounded once, at the end. */
static int merge_matrix(
	const struct merge_tensor *m, size_t first, uint16_t *ret, struct reason *reason)
{
	const struct tensor_record *records = m->delta->records;
	struct tensor_record shape = {.role = m->role, .layer = m->layer};
	_cleanup_(freep) float *weights = NULL;
	size_t n;
	int r;

	(void)model_config_shape(&m->delta->config, m->role, m->layer, &shape.rows, &shape.cols);
	n = (size_t)shape.rows * shape.cols;
	weights = malloc((n + 1) * sizeof(*weights));
	if (!weights)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = weights_served(m->weights, &shape, ret, weights, reason);
	for (size_t i = first; r == 0 && i < m->delta->n_records; i++)
		if (records[i].layer == m->layer && records[i].role == (uint32_t)m->role)
			r = part_values_apply(NULL, &records[i],
				m->delta->image->bytes + records[i].offset, weights, reason);
	for (size_t i = 0; r == 0 && i < n; i++)
		ret[i] = bf16_from_f32(weights[i]);
	return r;
}

/* Index of the tensor's first record, or n_records. */
static size_t find_record(const struct merge_tensor *m)
{
	size_t i = 0;

	while (i < m->delta->n_records && (m->delta->records[i].layer != m->layer ||
						  m->delta->records[i].role != (uint32_t)m->role))
		i++;
	return i;
}

static int change_vector(
	const struct merge_tensor *m, size_t record, uint16_t *ret, struct reason *reason)
{
	const struct payload payload = {
		.record = &m->delta->records[record],
		.bytes = m->delta->image->bytes + m->delta->records[record].offset,
	};

	return merge_vector(&payload, ret, reason);
}

int merge_tensor(
	const struct merge_tensor *m, uint16_t *ret, bool *ret_changed, struct reason *reason)
{
	size_t first = find_record(m);
	int r;

	r = checkpoint_read_bf16(m->base, m->role, m->layer, ret, NULL, reason);
	if (r < 0)
		return r;
	*ret_changed = first < m->delta->n_records;
	if (!tensor_role_is_vector(m->role))
		r = merge_matrix(m, first, ret, reason);
	else if (*ret_changed)
		r = change_vector(m, first, ret, reason);
	if (r < 0)
		return reason_prefix(reason, r, "layer %u %s", m->layer, tensor_role_name(m->role));
	return 0;
}
