#include "compress/bands.h"

#include "kernels/types.h"
#include "store/part.h"

#include <math.h>

/* The published numbers of ranks at 8 and at 3 bits. */
#define FULL_8 2
#define FULL_3 32

static const uint32_t kind_bits[BANDS_KINDS] = {8, 3, 2};

enum {
	KIND_8,
	KIND_3,
	KIND_2,
};

struct search {
	uint32_t rows, cols;
	uint64_t limit;
	uint32_t most_ranks;
	uint32_t n[BANDS_KINDS];
};

uint64_t bands_bytes(uint32_t rows, uint32_t cols, const uint32_t n_ranks[static BANDS_KINDS])
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < BANDS_KINDS; i++) {
		const struct tensor_record record = {
			.codec = CODEC_FACTORS,
			.n = n_ranks[i],
			.rows = rows,
			.cols = cols,
			.bits = (uint8_t)kind_bits[i],
			.grid = GRID_GROUP,
		};

		if (n_ranks[i] > 0)
			sum += part_layout(&record).end + sizeof(record);
	}
	return sum;
}

static bool fits(const struct search *s)
{
	return bands_bytes(s->rows, s->cols, s->n) <= s->limit;
}

/* The largest number of ranks in a band, up to `most`, that fits; the band `from` gives them. */
static void widen(struct search *s, uint32_t kind, uint32_t most, uint32_t *from)
{
	uint32_t low = 0, high = most, own = s->n[kind], source = from ? *from : 0;

	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;

		s->n[kind] = own + middle;
		if (from)
			*from = source - middle;
		if (fits(s))
			low = middle;
		else
			high = middle - 1;
	}
	s->n[kind] = own + low;
	if (from)
		*from = source - low;
}

/* How many ranks of 2 bits the budget holds, headers and padding apart. */
static double ranks_held(const struct search *s)
{
	size_t groups = qmat_groups(s->rows) + qmat_groups(s->cols);
	size_t group_bytes = qmat_group_bytes(2) + sizeof(uint16_t) + sizeof(uint8_t);

	return (double)s->limit / (double)(groups * group_bytes + sizeof(float));
}

static void place_first_bands(struct search *s)
{
	double share = fmin(1, ranks_held(s) / BANDS_FULL_RANKS);

	s->n[KIND_8] = (uint32_t)min_u64((uint64_t)(FULL_8 * share + 0.5), s->most_ranks);
	s->n[KIND_3] = (uint32_t)min_u64((uint64_t)(FULL_3 * share * share + 0.5), s->most_ranks);
	if (s->n[KIND_8] + s->n[KIND_3] > s->most_ranks)
		s->n[KIND_3] = s->most_ranks - s->n[KIND_8];
	while (s->n[KIND_3] > 0 && !fits(s))
		s->n[KIND_3]--;
	while (s->n[KIND_8] > 0 && !fits(s))
		s->n[KIND_8]--;
}

void bands_plan(uint32_t rows, uint32_t cols, double ratio, struct band_plan *ret)
{
	double limit = 2.0 * rows * cols / ratio;
	struct search s = {
		.rows = rows,
		.cols = cols,
		.limit = limit < 0x1p62 ? (uint64_t)limit : UINT64_C(1) << 62,
		.most_ranks = rows < cols ? rows : cols,
	};

	place_first_bands(&s);
	widen(&s, KIND_2, s.most_ranks - s.n[KIND_8] - s.n[KIND_3], NULL);
	if (s.n[KIND_8] + s.n[KIND_3] + s.n[KIND_2] == s.most_ranks) {
		widen(&s, KIND_3, s.n[KIND_2], &s.n[KIND_2]);
		if (s.n[KIND_2] == 0)
			widen(&s, KIND_8, s.n[KIND_3], &s.n[KIND_3]);
	}
	*ret = (struct band_plan){.limit_bytes = s.limit};
	for (uint32_t i = 0; i < BANDS_KINDS; i++) {
		if (s.n[i] > 0)
			ret->bands[ret->n_bands++] =
				(struct band){.bits = kind_bits[i], .n_ranks = s.n[i]};
		ret->n_ranks += s.n[i];
	}
	ret->bytes = bands_bytes(rows, cols, s.n);
}
