#include "compress/verbatim.h"

#include "compress/part_values.h"
#include "kernels/convert.h"

static int verify(const struct method_matrix *m, const struct part *part, const uint16_t *base,
	const uint16_t *words, struct reason *reason)
{
	size_t n = (size_t)m->rows * m->cols;
	_cleanup_(freep) float *again = malloc((n + 1) * sizeof(*again));
	int r;

	if (!again)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		again[i] = bf16_to_f32(base[i]);
	r = part_apply(NULL, part, again, reason);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		if (f32_to_bits(again[i]) != (uint32_t)words[i] << 16)
			return reason_set(reason, -EIO,
				"row %zu does not come back as it was stored", i / m->cols);
	return 0;
}

int verbatim_part(const struct pair *pair, const struct method_matrix *m, bool coded,
	struct part *ret, struct reason *reason)
{
	_cleanup_(freep) uint16_t *base = NULL;
	_cleanup_(freep) uint16_t *words = NULL;
	_cleanup_(part_done) struct part part = {0};
	const struct part_place place = method_matrix_place(m, 0);
	struct new_rows rows = {.n = m->rows};
	int r;

	r = pair_read_words(pair, m->role, m->layer, &base, &words, reason);
	if (r < 0)
		return r;
	rows.values = words;
	if (coded) {
		rows.base = base;
		rows.base_rows = m->rows;
	}
	r = part_rows(&place, &rows, &part);
	if (r == 0)
		r = verify(m, &part, base, words, reason);
	if (r < 0)
		return r;
	part.quality.energy = 1;
	*ret = part_take(&part);
	return 0;
}
