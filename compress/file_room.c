#include "compress/file_room.h"

#include "common/digest.h"
#include "compress/dense_model.h"
#include "compress/embedding.h"
#include "compress/exact.h"
#include "compress/level_plan.h"
#include "store/base.h"

#include <inttypes.h>

#define MOST_POINTS 16u /* of the curve: levels, and what a method leaves */
/* Those of embedding and head are the projections', too. */
#define MOST_LEVELS (EMBEDDING_MAX_PARTS > LEVEL_PLAN_MOST ? EMBEDDING_MAX_PARTS : LEVEL_PLAN_MOST)

static uint64_t vector_bytes(const struct model_config *c, uint64_t *ret_n)
{
	uint64_t sum = 0;
	uint32_t rows, cols;

	for (uint32_t layer = 0; layer < c->n_layers; layer++)
		for (uint32_t role = 0; role < N_ROLES; role++) {
			if (!model_config_shape(c, (enum tensor_role)role, layer, &rows, &cols) ||
				cols != 1)
				continue;
			sum += rows * sizeof(float);
			++*ret_n;
		}
	return sum;
}

static uint64_t pages(uint64_t n_bytes)
{
	return align_up(n_bytes, FORMAT_PAGE);
}

/* Where more may be added, which is counted by itself: where the last page ends nobody knows. */
static uint64_t pages_beside(uint64_t n_bytes)
{
	return n_bytes + FORMAT_PAGE - 1;
}

int file_room(const struct file_room *f, double *ret, struct reason *reason)
{
	const struct model_config *c = f->config;
	double whole = (double)model_16bit_bytes(c) / f->ratio;
	uint64_t n = (uint64_t)c->n_layers * DENSE_N_PROJECTIONS + 2 * EMBEDDING_MAX_PARTS;
	uint64_t taken = vector_bytes(c, &n) + f->outer_bytes;

	taken += FORMAT_PAGE + pages((uint64_t)(whole / FORMAT_CHUNK + 2) * sizeof(struct digest));
	taken += pages(sizeof(*c)) + pages_beside(n * sizeof(struct tensor_record));
	taken += pages(f->n_tokenizer) + pages(f->n_chat) + pages(f->n_selftest);
	taken += pages_beside(sizeof(struct certificate) + n * sizeof(struct tensor_quality) +
			      MOST_POINTS * sizeof(struct rate_point) +
			      sizeof(struct certificate_tasks));
	/* Gaps between payloads, ends of levels, the end. */
	taken += n * (PART_ALIGNMENT / 2) + MOST_LEVELS * (uint64_t)FORMAT_PAGE;
	if (whole <= (double)taken)
		return reason_set(reason, -ERANGE,
			"a file of %.0f bytes, of which all but tensors takes up to %" PRIu64,
			whole, taken);
	*ret = whole - (double)taken;
	return 0;
}
