#include "compress/auto_memory.h"

#include "compress/auto_stream.h"
#include "compress/ladder.h"

#include <math.h>

#define TRAINING_FLOATS 4 /* of a number: what is trained, its gradient and two moments */
#define METRIC_BYTES (4 + 8 + 8 + 4) /* of a number: moments, and the factors of one damping */
#define N_DAMPINGS 2
#define MOST_RANK_SHARE 3 /* of the shorter side */
#define SPARE 1.1         /* of all: what is not counted one by one */

/* Sums over the projections of one block; they are doubles because they are products. */
struct sizes {
	double numbers;         /* rows x cols */
	double largest;         /* likewise, of the largest */
	double moments;         /* n^2 of all factors: inputs and outputs */
	double largest_moments; /* likewise, of the largest */
	double components;      /* min(rows, cols) x (rows + cols) */
	double most_components; /* likewise, of the largest */
	double row;             /* numbers of a token on its way through and back */
	double outer;           /* embedding and head */
};

static void add_factor(struct sizes *s, double n)
{
	s->moments += n * n;
	s->largest_moments = fmax(s->largest_moments, n * n);
}

static struct sizes sizes_of(const struct model_config *c)
{
	uint32_t rows, cols, last = c->n_layers - 1;
	double q = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
	struct sizes s = {.row = 8.0 * c->hidden + 5 * q + 4 * kv + 5.0 * c->ffn};

	for (size_t p = 0; p < DENSE_N_PROJECTIONS; p++) {
		double n, components;

		if (!model_config_shape(c, dense_projections[p], 0, &rows, &cols))
			continue;
		n = (double)rows * cols;
		components = fmin(rows, cols) * ((double)rows + cols);
		s.numbers += n;
		s.largest = fmax(s.largest, n);
		s.components += components;
		s.most_components = fmax(s.most_components, components);
		add_factor(&s, rows);
	}
	add_factor(&s, c->hidden);
	add_factor(&s, c->hidden);
	add_factor(&s, q);
	add_factor(&s, c->ffn);
	if (model_config_shape(c, ROLE_EMBED, 0, &rows, &cols))
		s.outer += (double)rows * cols;
	if (model_config_shape(c, ROLE_HEAD, last, &rows, &cols))
		s.outer += (double)rows * cols;
	return s;
}

uint64_t auto_memory(const struct model_config *c, size_t n_threads)
{
	const struct sizes s = sizes_of(c);
	double block = 3 * 4 * s.numbers;         /* base, fine-tune, what is made */
	double bytes = (2 * 4 + 2 + 4) * s.outer; /* fine-tune, what is made, served, words */

	(void)n_threads;
	block += 2 * s.numbers;           /* the fine-tune as it is served */
	block += (4 + 1 + 4) * s.numbers; /* a trial: change, codes, latent numbers */
	block += TRAINING_FLOATS * 4 * s.numbers;
	block += 8 * s.components;
	block += N_DAMPINGS * METRIC_BYTES * s.moments;
	block += 4 * s.moments; /* of general text */
	block += (double)AUTO_TEXT_SENSED_TOKENS * c->hidden * 4;
	bytes += c->n_layers * block + BACKWARD_CHUNK * s.row * 4;
	return (uint64_t)(SPARE * bytes);
}

/* Weights of a block in use, its factors, and tokens on their way. */
static double sensing_bytes(const struct sizes *s)
{
	return 4 * s->numbers + 4 * s->moments + STREAM_CHUNK * s->row * 4;
}

/* The factors of a block that are not used up, tokens' room, and one projection in work. */
static double coding_bytes(const struct sizes *s, size_t n_threads)
{
	double rank = MOST_RANK_SHARE, held = 4 * s->moments + STREAM_CHUNK * s->row * 4;
	double metrics = (4 + 4) * s->largest_moments; /* feedback of both sides */
	double factoring = 8 * s->largest_moments;
	double components = (4 + 4 + 8) * s->largest + 6 * 8 * s->most_components / rank;
	double direct = fmin((double)n_threads, LADDER_SIDE_BY_SIDE) * (4 + 4 + 1 + 1) * s->largest;

	return held + metrics + 4 * s->largest + 2 * s->numbers +
	       fmax(factoring, fmax(components, direct));
}

/* Of the walk: matrices of a group with their changes, moments of their inputs, an error. */
static double walk_bytes(const struct sizes *s)
{
	return 2 * (4 + 4) * s->largest + 8 * s->largest_moments + 3 * 4 * s->largest;
}

uint64_t auto_stream_memory(const struct model_config *c, size_t n_threads)
{
	const struct sizes s = sizes_of(c);
	double words = 3 * 2 * s.outer; /* base and fine-tune, and what is made of them */
	double tokens = 2.0 * 4 * (double)stream_tokens(c) * c->hidden;
	double beginning = 4 * s.outer + 4 * s.numbers + STREAM_CHUNK * s.row * 4;
	double most = fmax(beginning, fmax(sensing_bytes(&s), coding_bytes(&s, n_threads)));

	return (uint64_t)(SPARE * (words + fmax(tokens + most, walk_bytes(&s))));
}
