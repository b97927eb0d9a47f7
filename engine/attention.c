#include "engine/attention.h"

#include "engine/scratch.h"
#include "engine/variant.h"
#include "kernels/attend.h"

#include <assert.h>
#include <math.h>

/* So many queries go together over a page. More would gain little: by then numbers come from the
 * caches, and their conversion is paid for by many. */
#define BLOCK_QUERIES 64

/* A row whose context is more than this share of a worker's part of the step is shared out. */
#define SPLIT_SHARE 4

/* Rows of one sequence at positions that follow one another, with every KV head. A row that stands
 * alone may be split: then its parts are computed on their own, and added after. */
struct block {
	uint32_t row, n_rows;
	bool split;
	uint32_t sums; /* of a split row: number of its first sums */
};

/* What a worker takes, with one KV head. */
struct piece {
	uint32_t block;
	uint32_t part; /* of a split row */
};

struct attention {
	const struct kernels *kernels;
	const struct model_config *config;
	struct pool *pool;
	uint64_t bytes;
	size_t n_queries;  /* of a row and KV head */
	size_t block_rows; /* most rows of a block */
	size_t max_parts;  /* of a context */
	size_t max_split;  /* rows */

	/* Per worker. */
	void *scratch;
	size_t scratch_bytes;
	const void **pages; /* keys, then values, of one sequence */
	size_t n_pages;

	/* Of split rows, [row][KV head][part]. */
	char *sums;
	size_t sums_bytes;

	/* The step at hand. */
	const struct batch_row *rows;
	struct block *blocks;
	struct piece *pieces;
	uint32_t *splits; /* blocks */
	size_t n_blocks, n_pieces, n_splits;

	/* The layer at hand. */
	uint32_t layer;
	const float *q;
	float *out;
};

static size_t parts_of(const struct batch_row *row)
{
	return row->position / ATTEND_PART + 1;
}

static bool follows(const struct batch_row *row, const struct batch_row *before)
{
	return row->seq == before->seq && row->position == before->position + 1;
}

static void add_blocks(struct attention *a, size_t n)
{
	a->n_blocks = 0;
	for (size_t i = 0; i < n; i++) {
		struct block *last = a->n_blocks ? &a->blocks[a->n_blocks - 1] : NULL;

		if (last && last->n_rows < a->block_rows && follows(&a->rows[i], &a->rows[i - 1]))
			last->n_rows++;
		else
			a->blocks[a->n_blocks++] = (struct block){.row = (uint32_t)i, .n_rows = 1};
	}
}

/* Positions that all rows see together. */
static uint64_t positions_of(const struct attention *a, size_t n)
{
	uint64_t total = 0;

	for (size_t i = 0; i < n; i++)
		total += a->rows[i].position + 1;
	return total;
}

/* Only few rows can be more than their share, so there is room for the sums of all. */
static bool is_split(const struct attention *a, const struct block *b, uint64_t positions)
{
	uint64_t share = positions * a->config->n_kv_heads / (SPLIT_SHARE * pool_threads(a->pool));

	return b->n_rows == 1 && pool_threads(a->pool) > 1 && parts_of(&a->rows[b->row]) > 1 &&
	       a->rows[b->row].position + 1 > share && a->n_splits < a->max_split;
}

void attention_begin(struct attention *a, const struct batch_row *rows, size_t n)
{
	uint64_t positions;

	a->rows = rows;
	a->n_pieces = 0;
	a->n_splits = 0;
	add_blocks(a, n);
	positions = positions_of(a, n);
	for (size_t i = 0; i < a->n_blocks; i++) {
		struct block *b = &a->blocks[i];
		size_t n_parts = 1;

		if (is_split(a, b, positions)) {
			b->split = true;
			b->sums = (uint32_t)(a->n_splits * a->config->n_kv_heads * a->max_parts);
			a->splits[a->n_splits++] = (uint32_t)i;
			n_parts = parts_of(&rows[b->row]);
		}
		for (size_t part = 0; part < n_parts; part++)
			a->pieces[a->n_pieces++] =
				(struct piece){.block = (uint32_t)i, .part = (uint32_t)part};
	}
}

static uint32_t window_of(const struct attention *a)
{
	return a->layer < a->config->first_window_layer ? 0 : a->config->sliding_window;
}

/* Where the heads of a block that share a KV head begin, in q and out. */
static size_t offset_of(const struct attention *a, const struct block *b, uint32_t kv_head)
{
	return ((size_t)b->row * a->config->n_heads + kv_head * a->n_queries) * a->config->head_dim;
}

static struct attend_call call_of(
	struct attention *a, const struct block *b, uint32_t kv_head, size_t worker)
{
	const struct model_config *c = a->config;
	const struct batch_row *first = &a->rows[b->row];
	const uint32_t last = first->position + b->n_rows - 1;
	const void **keys = a->pages + worker * 2 * a->n_pages, **values = keys + a->n_pages;
	struct attend_call call = {
		.kv = {.key_pages = keys,
			.value_pages = values,
			.page_tokens = KV_PAGE_TOKENS,
			.head_dim = c->head_dim,
			.type = kv_seq_type(first->seq)},
		.q = a->q + offset_of(a, b, kv_head),
		.stride = (size_t)c->n_heads * c->head_dim,
		.n_rows = b->n_rows,
		.n_heads = a->n_queries,
		.position = first->position,
		.window = window_of(a),
		.scale = 1 / sqrtf((float)c->head_dim),
	};

	kv_seq_pages(first->seq, a->layer, kv_head,
		(uint32_t)attend_first(call.position, call.window), last, keys, values);
	return call;
}

static struct attend_sums sums_of(
	const struct attention *a, const struct block *b, uint32_t kv_head, size_t part)
{
	return attend_sums_at(a->sums + (b->sums + kv_head * a->max_parts + part) * a->sums_bytes,
		a->n_queries, a->config->head_dim);
}

static void attend_piece(void *arg, size_t index, size_t worker)
{
	struct attention *a = arg;
	const struct piece *piece = &a->pieces[index / a->config->n_kv_heads];
	const struct block *b = &a->blocks[piece->block];
	const uint32_t kv_head = (uint32_t)(index % a->config->n_kv_heads);
	struct attend_call call = call_of(a, b, kv_head, worker);
	char *scratch = (char *)a->scratch + worker * a->scratch_bytes;
	struct attend_sums sums;

	if (!b->split) {
		attend_all(a->kernels, a->out + offset_of(a, b, kv_head), &call, scratch);
		return;
	}
	sums = sums_of(a, b, kv_head, piece->part);
	a->kernels->attend(&sums, &call, piece->part, scratch);
}

/* The parts of a split row, in their order. */
static void join_piece(void *arg, size_t index, size_t worker)
{
	struct attention *a = arg;
	const struct block *b = &a->blocks[a->splits[index / a->config->n_kv_heads]];
	const uint32_t kv_head = (uint32_t)(index % a->config->n_kv_heads);
	struct attend_call call = call_of(a, b, kv_head, worker);
	struct attend_sums sums = sums_of(a, b, kv_head, 0);

	for (size_t part = 1; part < parts_of(&a->rows[b->row]); part++) {
		struct attend_sums more = sums_of(a, b, kv_head, part);

		attend_sums_add(&sums, &more, a->n_queries, a->config->head_dim);
	}
	attend_finish(a->out + offset_of(a, b, kv_head), &call, &sums);
}

void attention_run(struct attention *a, uint32_t layer, const float *q, float *out)
{
	a->layer = layer;
	a->q = q;
	a->out = out;
	pool_run(a->pool, attend_piece, a, a->n_pieces * a->config->n_kv_heads);
	if (a->n_splits > 0)
		pool_run(a->pool, join_piece, a, a->n_splits * a->config->n_kv_heads);
}

uint64_t attention_bytes(const struct attention *a)
{
	return a->bytes;
}

static void *scratch(struct attention *a, size_t n, size_t size)
{
	return scratch_new(&a->bytes, n, 1, size);
}

static bool allocate_all(struct attention *a, size_t max_rows)
{
	const size_t n_workers = pool_threads(a->pool);
	const size_t n_sums = a->max_split * a->config->n_kv_heads * a->max_parts;

	a->scratch = scratch(a, n_workers, a->scratch_bytes);
	a->pages = scratch(a, n_workers, 2 * a->n_pages * sizeof(*a->pages));
	a->sums = scratch(a, n_sums, a->sums_bytes);
	a->blocks = scratch(a, max_rows, sizeof(*a->blocks));
	a->pieces = scratch(a, max_rows + a->max_split * a->max_parts, sizeof(*a->pieces));
	a->splits = scratch(a, a->max_split, sizeof(*a->splits));
	return a->scratch && a->pages && a->sums && a->blocks && a->pieces && a->splits;
}

static inline void attentionp(struct attention **a)
{
	attention_free(*a);
}

int attention_new(
	const struct model *model, struct pool *pool, uint32_t max_rows, struct attention **ret)
{
	_cleanup_(attentionp) struct attention *a = calloc(1, sizeof(*a));
	const struct model_config *c = model_config(model);

	if (!a)
		return -ENOMEM;
	a->kernels = model->kernels;
	a->config = c;
	a->pool = pool;
	a->n_queries = c->n_heads / c->n_kv_heads;
	a->block_rows = max_u64(BLOCK_QUERIES / a->n_queries, 1);
	a->max_parts = div_up(c->max_positions, ATTEND_PART);
	a->max_split = min_u64(div_up(SPLIT_SHARE * pool_threads(pool), c->n_kv_heads), max_rows);
	a->scratch_bytes = attend_all_bytes(a->block_rows * a->n_queries, c->head_dim);
	/* Whole lines, so that workers do not write to the same one. */
	a->n_pages = align_up(div_up(c->max_positions, KV_PAGE_TOKENS), 8);
	a->sums_bytes = attend_sums_bytes(a->n_queries, c->head_dim);
	if (!allocate_all(a, max_rows))
		return -ENOMEM;
	*ret = take_ptr(a);
	return 0;
}

struct attention *attention_free(struct attention *a)
{
	if (!a)
		return NULL;
	free(a->scratch);
	free(a->pages);
	free(a->sums);
	free(a->blocks);
	free(a->pieces);
	free(a->splits);
	free(a);
	return NULL;
}
