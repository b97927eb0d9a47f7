/*
 * A page is [layer][key, value][kv_head][token], each a row of head_dim numbers. Pages lie one
 * after the other in one anonymous mapping, so memory that no sequence ever used is never resident.
 */
#include "engine/kv.h"

#include <string.h>
#include <sys/mman.h>

const char *const kv_type_names[] = {
	[KV_TYPE_F32] = "f32",
	[KV_TYPE_BF16] = "bf16",
	[KV_TYPE_INT8] = "int8",
	NULL,
};

struct kv_pool {
	enum kv_type type;
	uint64_t head_bytes;  /* of all tokens of one KV head */
	uint64_t token_bytes; /* of one row */
	uint32_t n_kv_heads;
	uint64_t page_bytes;
	uint64_t n_pages;
	uint8_t *memory;
	uint32_t *free; /* stack of page numbers */
	uint64_t n_free;
};

struct kv_seq {
	struct kv_pool *pool;
	uint32_t n_pages;
	uint32_t pages[];
};

uint64_t kv_page_bytes(const struct model_config *config, enum kv_type type)
{
	return 2ull * config->n_layers * config->n_kv_heads * KV_PAGE_TOKENS *
	       kv_row_bytes(type, config->head_dim);
}

static inline void kv_poolp(struct kv_pool **pool)
{
	kv_pool_free(*pool);
}

static int map_pages(struct kv_pool *pool, struct reason *reason)
{
	void *memory = mmap(NULL, pool->n_pages * pool->page_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return reason_set(reason, -errno, "cannot map %llu KV pages of %llu bytes",
			(unsigned long long)pool->n_pages, (unsigned long long)pool->page_bytes);
	pool->memory = memory;
	/* Fewer TLB misses in long contexts; where it is not to be had, small pages do. */
	(void)madvise(memory, pool->n_pages * pool->page_bytes, MADV_HUGEPAGE);
	return 0;
}

int kv_pool_new(const struct model_config *config, enum kv_type type, uint64_t budget_bytes,
	struct kv_pool **ret, struct reason *reason)
{
	_cleanup_(kv_poolp) struct kv_pool *pool = calloc(1, sizeof(*pool));
	int r;

	if (!pool)
		return reason_set(reason, -ENOMEM, "no memory for the KV pool");
	pool->type = type;
	pool->token_bytes = kv_row_bytes(type, config->head_dim);
	pool->head_bytes = KV_PAGE_TOKENS * pool->token_bytes;
	pool->n_kv_heads = config->n_kv_heads;
	pool->page_bytes = kv_page_bytes(config, type);
	pool->n_pages = min_u64(budget_bytes / pool->page_bytes, UINT32_MAX);
	if (pool->n_pages == 0)
		return reason_set(reason, -EINVAL,
			"a KV budget of %llu bytes is less than one page of %u positions (%llu "
			"bytes)",
			(unsigned long long)budget_bytes, KV_PAGE_TOKENS,
			(unsigned long long)pool->page_bytes);
	pool->free = calloc(pool->n_pages, sizeof(*pool->free));
	if (!pool->free)
		return reason_set(reason, -ENOMEM, "no memory for the list of KV pages");
	r = map_pages(pool, reason);
	if (r < 0)
		return r;
	/* The lowest page on top of the stack. */
	for (uint64_t i = 0; i < pool->n_pages; i++)
		pool->free[i] = (uint32_t)(pool->n_pages - 1 - i);
	pool->n_free = pool->n_pages;
	*ret = take_ptr(pool);
	return 0;
}

struct kv_pool *kv_pool_free(struct kv_pool *pool)
{
	if (!pool)
		return NULL;
	if (pool->memory)
		munmap(pool->memory, pool->n_pages * pool->page_bytes);
	free(pool->free);
	free(pool);
	return NULL;
}

uint64_t kv_pool_free_pages(const struct kv_pool *pool)
{
	return pool->n_free;
}

uint64_t kv_pool_pages(const struct kv_pool *pool)
{
	return pool->n_pages;
}

enum kv_type kv_pool_type(const struct kv_pool *pool)
{
	return pool->type;
}

int kv_seq_new(struct kv_pool *pool, uint32_t n_positions, struct kv_seq **ret)
{
	uint32_t n_pages = (uint32_t)div_up(n_positions, KV_PAGE_TOKENS);
	struct kv_seq *seq;

	if (n_pages > pool->n_free)
		return KV_E_FULL;
	seq = malloc(sizeof(*seq) + n_pages * sizeof(seq->pages[0]));
	if (!seq)
		return -ENOMEM;
	seq->pool = pool;
	seq->n_pages = n_pages;
	for (uint32_t i = 0; i < n_pages; i++)
		seq->pages[i] = pool->free[--pool->n_free];
	*ret = seq;
	return 0;
}

struct kv_seq *kv_seq_free(struct kv_seq *seq)
{
	if (!seq)
		return NULL;
	for (uint32_t i = seq->n_pages; i-- > 0;)
		seq->pool->free[seq->pool->n_free++] = seq->pages[i];
	free(seq);
	return NULL;
}

uint32_t kv_seq_capacity(const struct kv_seq *seq)
{
	return seq->n_pages * KV_PAGE_TOKENS;
}

enum kv_type kv_seq_type(const struct kv_seq *seq)
{
	return seq->pool->type;
}

/* Token 0 of a page, layer and head; `which` is 0 for keys, 1 for values. */
static uint8_t *head_of(
	const struct kv_seq *seq, uint32_t page, uint32_t layer, uint32_t which, uint32_t kv_head)
{
	const struct kv_pool *pool = seq->pool;
	uint64_t head = (2ull * layer + which) * pool->n_kv_heads + kv_head;

	return pool->memory + seq->pages[page] * pool->page_bytes + head * pool->head_bytes;
}

static void *number_at(
	struct kv_seq *seq, uint32_t layer, uint32_t which, uint32_t kv_head, uint32_t position)
{
	return head_of(seq, position / KV_PAGE_TOKENS, layer, which, kv_head) +
	       position % KV_PAGE_TOKENS * seq->pool->token_bytes;
}

void *kv_seq_key(struct kv_seq *seq, uint32_t layer, uint32_t kv_head, uint32_t position)
{
	return number_at(seq, layer, 0, kv_head, position);
}

void *kv_seq_value(struct kv_seq *seq, uint32_t layer, uint32_t kv_head, uint32_t position)
{
	return number_at(seq, layer, 1, kv_head, position);
}

void kv_seq_pages(const struct kv_seq *seq, uint32_t layer, uint32_t kv_head, uint32_t first,
	uint32_t last, const void **ret_keys, const void **ret_values)
{
	for (uint32_t page = first / KV_PAGE_TOKENS; page <= last / KV_PAGE_TOKENS; page++) {
		ret_keys[page] = head_of(seq, page, layer, 0, kv_head);
		ret_values[page] = head_of(seq, page, layer, 1, kv_head);
	}
}
