#include "compress/code_costs.h"

#include <string.h>

#define QUESTIONS 24u     /* magnitudes above it share the odds of the last */
#define FLOOR (1.0 / 128) /* added to means, as the coder does */

struct counts {
	double no[CODE_COSTS_LEVELS][QUESTIONS];
	double yes[CODE_COSTS_LEVELS][QUESTIONS];
};

struct code_costs *code_costs_free(struct code_costs *c)
{
	if (!c)
		return NULL;
	free(c->row_levels);
	free(c->col_levels);
	free(c);
	return NULL;
}

int code_costs_new(uint32_t rows, uint32_t cols, struct code_costs **ret)
{
	_cleanup_(code_costs_freep) struct code_costs *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->rows = rows;
	c->cols = cols;
	c->row_levels = calloc((size_t)rows + 1, sizeof(*c->row_levels));
	c->col_levels = calloc((size_t)cols + 1, sizeof(*c->col_levels));
	if (!c->row_levels || !c->col_levels)
		return -ENOMEM;
	*ret = take_ptr(c);
	return 0;
}

/* Level 16 is where a magnitude of 1 is expected. */
static int find_levels(struct code_costs *costs, const int8_t *codes)
{
	_cleanup_(freep) double *columns = calloc((size_t)costs->cols + 1, sizeof(*columns));
	double all = 0;

	if (!columns)
		return -ENOMEM;
	for (uint32_t r = 0; r < costs->rows; r++) {
		const int8_t *row = codes + (size_t)r * costs->cols;
		double sum = 0;

		for (uint32_t c = 0; c < costs->cols; c++) {
			sum += abs(row[c]);
			columns[c] += abs(row[c]);
		}
		costs->row_levels[r] = (float)(16 + 2 * log2(sum / costs->cols + FLOOR));
		all += sum;
	}
	all = all / costs->rows / costs->cols + FLOOR;
	for (uint32_t c = 0; c < costs->cols; c++)
		costs->col_levels[c] = (float)(2 * log2((columns[c] / costs->rows + FLOOR) / all));
	return 0;
}

static uint32_t question_of(uint32_t magnitude)
{
	return (uint32_t)min_u64(magnitude, QUESTIONS - 1);
}

/* Question q of a magnitude: is it larger than q? */
static void costs_of_counts(struct code_costs *costs, const struct counts *counts)
{
	for (uint32_t level = 0; level < CODE_COSTS_LEVELS; level++) {
		double larger = 0; /* bits of having said yes so far */

		for (uint32_t m = 0; m < CODE_COSTS_MAGNITUDES; m++) {
			double no = counts->no[level][question_of(m)];
			double yes = counts->yes[level][question_of(m)];

			costs->bits[level][m] = (float)(larger + (m > 0) + log2((no + yes) / no));
			larger += log2((no + yes) / yes);
		}
	}
}

/* Before anything is seen: a geometric distribution, worth a few observations. */
static void counts_begin(struct counts *counts)
{
	for (int level = 0; level < CODE_COSTS_LEVELS; level++)
		for (uint32_t q = 0; q < QUESTIONS; q++) {
			double mean = exp2((level - 15.5) / 2);

			counts->no[level][q] = 4 / (1 + mean);
			counts->yes[level][q] = 4 * mean / (1 + mean);
		}
}

int code_costs_learn(struct code_costs *costs, const int8_t *codes)
{
	struct counts counts;
	int r = find_levels(costs, codes);

	if (r < 0)
		return r;
	counts_begin(&counts);
	for (uint32_t row = 0; row < costs->rows; row++)
		for (uint32_t col = 0; col < costs->cols; col++) {
			uint32_t magnitude = (uint32_t)abs(codes[(size_t)row * costs->cols + col]);
			size_t level = (size_t)(code_costs_at(costs, row, col) - costs->bits[0]) /
				       CODE_COSTS_MAGNITUDES;

			for (uint32_t q = 0; q < magnitude; q++)
				counts.yes[level][question_of(q)]++;
			counts.no[level][question_of(magnitude)]++;
		}
	costs_of_counts(costs, &counts);
	return 0;
}

double code_costs_sum(const struct code_costs *costs, const int8_t *codes)
{
	double sum = 0;

	for (uint32_t row = 0; row < costs->rows; row++)
		for (uint32_t col = 0; col < costs->cols; col++) {
			int code = codes[(size_t)row * costs->cols + col];

			sum += (double)code_costs_at(costs, row, col)[abs(code)];
		}
	return sum;
}
