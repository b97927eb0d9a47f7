/*
 * KV pages: reserved whole or not at all, given back, and no two numbers in one place.
 */
#include "engine/kv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct model_config config = {
	.n_layers = 3,
	.n_kv_heads = 2,
	.head_dim = 10,
	.max_positions = 512,
};

static void test_budget(void **state)
{
	uint64_t page = kv_page_bytes(&config, KV_TYPE_BF16);
	struct reason reason = {0};
	struct kv_pool *pool;

	(void)state;
	assert_int_equal(page, 2 * 3 * 2 * KV_PAGE_TOKENS * 10 * 2);
	assert_int_equal(kv_page_bytes(&config, KV_TYPE_F32), 2 * page);
	assert_int_equal(
		kv_page_bytes(&config, KV_TYPE_INT8), 2 * 3 * 2 * KV_PAGE_TOKENS * (4 + 10));
	assert_int_equal(kv_pool_new(&config, KV_TYPE_BF16, page - 1, &pool, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "KV budget"));
	assert_int_equal(kv_pool_new(&config, KV_TYPE_BF16, 5 * page + 7, &pool, &reason), 0);
	assert_int_equal(kv_pool_pages(pool), 5);
	assert_int_equal(kv_pool_type(pool), KV_TYPE_BF16);
	assert_null(kv_pool_free(pool));
	assert_null(kv_pool_free(NULL));
	assert_null(kv_seq_free(NULL));
}

static void test_reservation(void **state)
{
	struct kv_seq *a, *b, *c;
	struct kv_pool *pool;

	(void)state;
	assert_int_equal(kv_pool_new(&config, KV_TYPE_F32, 5 * kv_page_bytes(&config, KV_TYPE_F32),
				 &pool, NULL),
		0);
	assert_int_equal(kv_seq_new(pool, 3 * KV_PAGE_TOKENS, &a), 0);
	assert_int_equal(kv_pool_free_pages(pool), 2);
	assert_int_equal(kv_seq_capacity(a), 3 * KV_PAGE_TOKENS);
	assert_int_equal(kv_seq_new(pool, 2 * KV_PAGE_TOKENS + 1, &b), KV_E_FULL);
	assert_int_equal(kv_pool_free_pages(pool), 2);
	assert_int_equal(kv_seq_new(pool, KV_PAGE_TOKENS + 1, &b), 0);
	assert_int_equal(kv_seq_new(pool, 1, &c), KV_E_FULL);
	kv_seq_free(a);
	assert_int_equal(kv_seq_new(pool, 1, &c), 0);
	kv_seq_free(c);
	kv_seq_free(b);
	assert_int_equal(kv_pool_free_pages(pool), 5);
	kv_pool_free(pool);
}

/* Every position of every layer, head and sequence gets numbers of its own, which stay. */
static void each_place(struct kv_seq *seq, uint32_t seed, bool write)
{
	for (uint32_t layer = 0; layer < config.n_layers; layer++)
		for (uint32_t head = 0; head < config.n_kv_heads; head++)
			for (uint32_t p = 0; p < kv_seq_capacity(seq); p++) {
				float *key = kv_seq_key(seq, layer, head, p);
				float *value = kv_seq_value(seq, layer, head, p);

				for (uint32_t i = 0; i < config.head_dim; i++) {
					float mark =
						(float)(((seed * 3 + layer) * 2 + head) * 1000 +
							p) +
						(float)i / 16;

					if (write) {
						key[i] = mark;
						value[i] = -mark;
					}
					assert_true(key[i] == mark && value[i] == -mark);
				}
			}
}

static void test_places(void **state)
{
	struct kv_seq *a, *b, *c;
	struct kv_pool *pool;

	(void)state;
	assert_int_equal(kv_pool_new(&config, KV_TYPE_F32, 6 * kv_page_bytes(&config, KV_TYPE_F32),
				 &pool, NULL),
		0);
	/* Pages of b are not neighbours. */
	assert_int_equal(kv_seq_new(pool, 1, &a), 0);
	assert_int_equal(kv_seq_new(pool, 1, &c), 0);
	kv_seq_free(a);
	assert_int_equal(kv_seq_new(pool, 3 * KV_PAGE_TOKENS, &b), 0);
	each_place(b, 1, true);
	each_place(c, 2, true);
	each_place(b, 1, false);
	each_place(c, 2, false);
	kv_seq_free(b);
	kv_seq_free(c);
	kv_pool_free(pool);
}

/* A row of int8 is a scale and codes; the next begins where it ends. */
static void test_int8_rows(void **state)
{
	struct kv_pool *pool;
	struct kv_seq *seq;

	(void)state;
	assert_int_equal(kv_pool_new(&config, KV_TYPE_INT8, kv_page_bytes(&config, KV_TYPE_INT8),
				 &pool, NULL),
		0);
	assert_int_equal(kv_seq_new(pool, KV_PAGE_TOKENS, &seq), 0);
	for (uint32_t p = 1; p < KV_PAGE_TOKENS; p++)
		assert_ptr_equal(kv_seq_value(seq, 2, 1, p),
			(char *)kv_seq_value(seq, 2, 1, p - 1) + 4 + config.head_dim);
	assert_ptr_equal(kv_seq_value(seq, 2, 1, KV_PAGE_TOKENS - 1),
		(char *)kv_seq_key(seq, 0, 0, 0) + kv_page_bytes(&config, KV_TYPE_INT8) - 4 -
			config.head_dim);
	kv_seq_free(seq);
	kv_pool_free(pool);
}

static void test_view(void **state)
{
	const void *keys[3] = {NULL}, *values[3] = {NULL};
	struct kv_pool *pool;
	struct kv_seq *seq;

	(void)state;
	assert_int_equal(kv_pool_new(&config, KV_TYPE_BF16,
				 3 * kv_page_bytes(&config, KV_TYPE_BF16), &pool, NULL),
		0);
	assert_int_equal(kv_seq_new(pool, 3 * KV_PAGE_TOKENS, &seq), 0);
	kv_seq_pages(seq, 2, 1, KV_PAGE_TOKENS + 3, 2 * KV_PAGE_TOKENS, keys, values);
	assert_null(keys[0]);
	for (uint32_t page = 1; page < 3; page++) {
		assert_ptr_equal(keys[page], kv_seq_key(seq, 2, 1, page * KV_PAGE_TOKENS));
		assert_ptr_equal(values[page], kv_seq_value(seq, 2, 1, page * KV_PAGE_TOKENS));
	}
	kv_seq_free(seq);
	kv_pool_free(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_budget),
		cmocka_unit_test(test_reservation),
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_int8_rows),
		cmocka_unit_test(test_view),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
