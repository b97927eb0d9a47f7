/* Greedy answers to many prompts at once against the reference's greedy tokens. */
#include "compress/decode.h"

#include "engine/score.h"
#include "tests/golden_file.h"
#include "tests/imported_base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define N_CASES 4
#define COPIES 6 /* more requests than are answered at a time */

struct fixture {
	struct base *base;
	struct kernels kernels;
	struct model *model;
	struct variant *variant;
	struct pool *pool;
	struct golden_values golden[N_CASES];
};

static void open_fixture(struct fixture *f, const char *name)
{
	struct reason reason = {0};
	char folder[128];

	f->base = imported_base(tiny_folder(name, folder));
	assert_int_equal(kernels_select(&f->kernels, NULL, &reason), 0);
	assert_int_equal(model_new(f->base, &f->kernels, &f->model, &reason), 0);
	assert_int_equal(variant_new(f->model, NULL, &f->variant, &reason), 0);
	assert_int_equal(pool_new(2, &f->pool, &reason), 0);
	for (size_t i = 0; i < N_CASES; i++)
		golden_values_read(name, i, &f->golden[i]);
}

static void close_fixture(struct fixture *f)
{
	for (size_t i = 0; i < N_CASES; i++)
		golden_values_done(&f->golden[i]);
	pool_free(f->pool);
	variant_free(f->variant);
	model_free(f->model);
	base_free(f->base);
}

static void decode(struct fixture *f, const int32_t *stops, size_t n_stops,
	struct decode_request *requests, size_t n)
{
	const struct decode_settings settings = {
		.model = f->model,
		.variant = f->variant,
		.pool = f->pool,
		.stops = stops,
		.n_stops = n_stops,
		.max_tokens = (uint32_t)f->golden[0].n_greedy,
	};
	struct reason reason = {0};

	for (size_t i = 0; i < n; i++) {
		const struct golden_values *g = &f->golden[i % N_CASES];

		requests[i] = (struct decode_request){
			.prompt = g->ids,
			.n_prompt = (uint32_t)g->n_ids,
			.ids = calloc(g->n_greedy, sizeof(uint32_t)),
		};
		assert_non_null(requests[i].ids);
	}
	assert_int_equal(decode_greedy(&settings, requests, n, &reason), 0);
}

static void test_answers_are_those_of_the_reference(void **state)
{
	struct decode_request requests[N_CASES * COPIES];
	struct fixture f;

	(void)state;
	open_fixture(&f, "llama-gqa");
	decode(&f, NULL, 0, requests, array_len(requests));
	for (size_t i = 0; i < array_len(requests); i++) {
		const struct golden_values *g = &f.golden[i % N_CASES];

		assert_int_equal(requests[i].n, g->n_greedy);
		assert_memory_equal(requests[i].ids, g->greedy, g->n_greedy * sizeof(*g->greedy));
		free(requests[i].ids);
	}
	close_fixture(&f);
}

static void test_a_stop_ends_the_answer_before_it(void **state)
{
	struct decode_request requests[N_CASES];
	struct fixture f;
	int32_t stop;
	size_t first = 0;

	(void)state;
	open_fixture(&f, "llama-gqa");
	stop = (int32_t)f.golden[1].greedy[5];
	while (f.golden[1].greedy[first] != (uint32_t)stop)
		first++;
	decode(&f, &stop, 1, requests, array_len(requests));
	assert_int_equal(requests[1].n, first);
	assert_memory_equal(requests[1].ids, f.golden[1].greedy, first * sizeof(uint32_t));
	for (size_t i = 0; i < array_len(requests); i++)
		free(requests[i].ids);
	close_fixture(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers_are_those_of_the_reference),
		cmocka_unit_test(test_a_stop_ends_the_answer_before_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
