#include "compress/qvectors.h"

#include "kernels/convert.h"
#include "kernels/types.h"

#include <math.h>

#define F16_MAX 65504.0

struct qvectors *qvectors_free(struct qvectors *q)
{
	if (!q)
		return NULL;
	free(q->bits);
	free(q->codes);
	free(q->scales);
	free(q->zeros);
	free(q);
	return NULL;
}

int qvectors_new(uint32_t n_vectors, uint32_t length, const uint8_t *bits, struct qvectors **ret)
{
	_cleanup_(qvectors_freep) struct qvectors *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->n_vectors = n_vectors;
	q->length = length;
	q->n_groups = qmat_groups(length);
	q->bits = calloc(n_vectors + 1, 1);
	q->codes = calloc((size_t)n_vectors * length + 1, 1);
	q->scales = calloc(n_vectors * q->n_groups + 1, sizeof(*q->scales));
	q->zeros = calloc(n_vectors * q->n_groups + 1, 1);
	if (!q->bits || !q->codes || !q->scales || !q->zeros)
		return -ENOMEM;
	for (uint32_t i = 0; i < n_vectors; i++)
		q->bits[i] = bits[i];
	*ret = take_ptr(q);
	return 0;
}

/* The smallest half that is at least `step`, or the largest half. */
static uint16_t f16_at_least(double step)
{
	uint16_t half = f16_from_f32((float)(step < F16_MAX ? step : F16_MAX));

	if ((double)f16_to_f32(half) < step && half < 0x7bff)
		half++;
	return half;
}

void qvectors_fit_grid(struct qvectors *q, uint32_t vector, size_t group, const double *values)
{
	size_t first = group * QMAT_GROUP;
	size_t n = min_u64(QMAT_GROUP, q->length - first);
	size_t at = vector * q->n_groups + group;
	double top = (double)((1u << q->bits[vector]) - 1);
	double low = 0, high = 0;

	for (size_t i = 0; i < n; i++) {
		low = fmin(low, values[i]);
		high = fmax(high, values[i]);
	}
	q->scales[at] = f16_at_least((high - low) / top);
	q->zeros[at] = 0;
	if (q->scales[at])
		q->zeros[at] = (uint8_t)fmin(top, rint(-low / (double)f16_to_f32(q->scales[at])));
}

double qvectors_put(struct qvectors *q, uint32_t vector, uint32_t element, double value)
{
	size_t at = vector * q->n_groups + element / QMAT_GROUP;
	double scale = (double)f16_to_f32(q->scales[at]);
	double top = (double)((1u << q->bits[vector]) - 1);
	double zero = q->zeros[at];
	double code = zero;

	if (scale > 0)
		code = fmax(0, fmin(top, rint(value / scale) + zero));
	q->codes[(size_t)vector * q->length + element] = (uint8_t)code;
	return scale * (code - zero);
}

void qvectors_values(const struct qvectors *q, uint32_t vector, double *ret)
{
	const uint8_t *codes = q->codes + (size_t)vector * q->length;
	const uint16_t *scales = q->scales + vector * q->n_groups;
	const uint8_t *zeros = q->zeros + vector * q->n_groups;

	for (uint32_t i = 0; i < q->length; i++) {
		double scale = (double)f16_to_f32(scales[i / QMAT_GROUP]);

		ret[i] = scale * ((double)codes[i] - zeros[i / QMAT_GROUP]);
	}
}
