#include "store/code_cost.h"

#include "store/code_model.h"

#include <assert.h>
#include <math.h>

#define LOG2_STEPS 4096 /* probabilities told apart */
#define MEAN_SHIFT 6    /* how far the means of a row and of a column look back, in codes */
#define ALL_SHIFT 12    /* and that of the matrix */
#define UNKNOWN UINT32_MAX

struct code_cost {
	struct code_shape shape;
	struct code_limits limits;
	struct code_contexts contexts;
	uint32_t mean;             /* of all */
	uint32_t *rows, *columns;  /* means, or UNKNOWN; owned */
	float bits_of[LOG2_STEPS]; /* bits of what has probability (i + 1/2) / LOG2_STEPS */
};

struct code_cost *code_cost_free(struct code_cost *cost)
{
	if (!cost)
		return NULL;
	free(cost->rows);
	free(cost->columns);
	free(cost);
	return NULL;
}

static uint32_t *means_new(uint32_t n)
{
	uint32_t *means = malloc((n ? n : 1) * sizeof(*means));

	for (uint32_t i = 0; means && i < n; i++)
		means[i] = UNKNOWN;
	return means;
}

int code_cost_new(const struct code_shape *shape, struct code_cost **ret)
{
	_cleanup_(code_costp) struct code_cost *cost = NULL;

	if (!code_shape_valid(shape))
		return -EINVAL;
	cost = calloc(1, sizeof(*cost));
	if (!cost)
		return -ENOMEM;
	cost->shape = *shape;
	cost->limits = code_limits_of(shape->bits, shape->centre);
	cost->mean = CODE_MEAN_FIRST;
	cost->rows = means_new(shape->rows);
	cost->columns = means_new(shape->cols);
	if (!cost->rows || !cost->columns)
		return -ENOMEM;
	for (uint32_t i = 0; i < LOG2_STEPS; i++)
		cost->bits_of[i] = -log2f(((float)i + 0.5f) / LOG2_STEPS);
	code_contexts_begin(&cost->contexts);
	*ret = take_ptr(cost);
	return 0;
}

static uint32_t level_at(const struct code_cost *cost, uint32_t row, uint32_t col)
{
	uint64_t r = cost->rows[row], c = cost->columns[col], all = cost->mean;

	r = (r == UNKNOWN ? all : r) + CODE_MEAN_FLOOR;
	c = (c == UNKNOWN ? all : c) + CODE_MEAN_FLOOR;
	return code_level(r * c / (all + CODE_MEAN_FLOOR));
}

static float bit_cost(const struct code_cost *cost, const struct range_bit *b, bool bit)
{
	uint32_t one = range_bit_one(b), zero = CODE_ONE - one;

	return cost->bits_of[(bit ? one : zero) / (CODE_ONE / LOG2_STEPS)];
}

float code_cost_bits(const struct code_cost *cost, uint32_t row, uint32_t col, int value)
{
	uint32_t magnitude = (uint32_t)abs(value), level = level_at(cost, row, col);
	uint32_t limit = value < 0 ? cost->limits.below : cost->limits.above;
	float bits = bit_cost(cost, &cost->contexts.nonzero[level], magnitude != 0);

	if (magnitude == 0)
		return bits;
	if (magnitude > limit)
		return INFINITY;
	bits += cost->limits.below && cost->limits.above;
	for (uint32_t m = 1; m < limit && m <= magnitude; m++)
		bits += bit_cost(cost, &cost->contexts.more[level][code_slot(m)], magnitude > m);
	return bits;
}

static void mean_choose(uint32_t *mean, uint32_t all, uint32_t magnitude)
{
	*mean = code_mean_learn(*mean == UNKNOWN ? all : *mean, magnitude, MEAN_SHIFT);
}

void code_cost_choose(struct code_cost *cost, uint32_t row, uint32_t col, int value)
{
	uint32_t magnitude = (uint32_t)abs(value), level = level_at(cost, row, col);
	uint32_t limit = value < 0 ? cost->limits.below : cost->limits.above;

	assert(magnitude <= limit);
	range_bit_learn(&cost->contexts.nonzero[level], magnitude != 0);
	for (uint32_t m = 1; m < limit && m <= magnitude; m++)
		range_bit_learn(&cost->contexts.more[level][code_slot(m)], magnitude > m);
	mean_choose(&cost->rows[row], cost->mean, magnitude);
	mean_choose(&cost->columns[col], cost->mean, magnitude);
	cost->mean = code_mean_learn(cost->mean, magnitude, ALL_SHIFT);
}
