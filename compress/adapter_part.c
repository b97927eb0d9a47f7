#include "compress/adapter_part.h"

#include "kernels/convert.h"

static bool all_half(const float *values, size_t n)
{
	size_t i = 0;

	while (i < n && f32_to_bits(f16_to_f32(f16_from_f32(values[i]))) == f32_to_bits(values[i]))
		i++;
	return i == n;
}

static int make_part(
	const struct part_place *place, const struct adapter_factors *f, struct part *ret)
{
	_cleanup_(freep) float *sigma = malloc(f->n * sizeof(*sigma));
	const struct plain_factors plain = {.n = f->n, .v = f->a, .u = f->b, .sigma = sigma};
	bool half =
		all_half(f->a, (size_t)f->n * f->cols) && all_half(f->b, (size_t)f->n * f->rows);
	int r;

	if (!sigma)
		return -ENOMEM;
	for (uint32_t i = 0; i < f->n; i++)
		sigma[i] = f->sigma;
	r = part_factors_plain(place, &plain, half ? 16 : 32, ret);
	if (r < 0)
		return r;
	ret->quality.energy = 1;
	return 0;
}

int adapter_part(const struct adapter *a, const struct part_place *place, struct part *ret,
	struct reason *reason)
{
	_cleanup_(adapter_factors_done) struct adapter_factors factors = {0};
	int r;

	*ret = (struct part){0};
	r = adapter_read_factors(a, place->role, place->layer, &factors, reason);
	if (r < 0 || factors.n == 0)
		return r;
	return make_part(place, &factors, ret);
}
