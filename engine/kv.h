/*
 * Keys and values in pages. A page holds KV_PAGE_TOKENS positions of one sequence for all layers
 * and KV heads; pages come from one pool that is allocated at start and never grows.
 */
#pragma once

#include "common/reason.h"
#include "kernels/types.h"
#include "store/format.h"

#define KV_PAGE_TOKENS 32u

struct kv_pool;
struct kv_seq; /* the pages of one sequence and how many positions are filled */

/* What configurations and commands call them, by enum kv_type; NULL after the last. */
extern const char *const kv_type_names[];

/* Bytes of one page of this model and type. */
uint64_t kv_page_bytes(const struct model_config *config, enum kv_type type);

int kv_pool_new(const struct model_config *config, enum kv_type type, uint64_t budget_bytes,
	struct kv_pool **ret, struct reason *reason) _must_check_;
struct kv_pool *kv_pool_free(struct kv_pool *pool);
uint64_t kv_pool_free_pages(const struct kv_pool *pool);
uint64_t kv_pool_pages(const struct kv_pool *pool);
enum kv_type kv_pool_type(const struct kv_pool *pool);

/* Expected conditions. */
enum {
	KV_E_FULL = 1, /* not enough free pages now */
};

/* A sequence with room for n_positions, all its pages taken now, so that a running request can
 * never be stopped by want of memory. KV_E_FULL leaves nothing taken. */
int kv_seq_new(struct kv_pool *pool, uint32_t n_positions, struct kv_seq **ret) _must_check_;
/* Gives the pages back. */
struct kv_seq *kv_seq_free(struct kv_seq *seq);
uint32_t kv_seq_capacity(const struct kv_seq *seq);
enum kv_type kv_seq_type(const struct kv_seq *seq);

/* Where position `position` of a layer and KV head is stored: a row of head_dim numbers of the
 * pool's type. */
void *kv_seq_key(struct kv_seq *seq, uint32_t layer, uint32_t kv_head, uint32_t position);
void *kv_seq_value(struct kv_seq *seq, uint32_t layer, uint32_t kv_head, uint32_t position);

/* The pages of one layer and KV head as a kv_view wants them: entry i of each array is where
 * position i * KV_PAGE_TOKENS stands. Fills only the entries of positions first .. last. */
void kv_seq_pages(const struct kv_seq *seq, uint32_t layer, uint32_t kv_head, uint32_t first,
	uint32_t last, const void **ret_keys, const void **ret_values);
