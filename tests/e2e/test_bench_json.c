/*
 * deltactl bench --json: the tests that were asked for, in order, with rates that can be, and the
 * bytes of a token as they follow from the shapes of the model.
 */
#include "common/base.h"
#include "tests/program.h"
#include "tests/scratch.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* tests/golden/data/tiny/llama-gqa: 3 layers of q and o 64 x 64, k and v 32 x 64, gate and up 160 x
 * 64, down 64 x 160; a head of 320 x 64. */
#define FOLDER "tests/golden/data/tiny/llama-gqa"
#define WEIGHTS (3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 160 * 64))
#define HEAD_BYTES (2 * 320 * 64)
/* Of a delta of signs: 128 neighbours are 16 bytes, 64 take as many; down has two groups a row. */
#define SIGNS (3 * (2 * 64 + 2 * 32 + 2 * 160 + 2 * 64) * 16)
/* Keys and values of a position: 3 layers of 2 heads of 16, 2 bytes each. */
#define POSITION_BYTES (2 * 3 * 2 * 16 * 2)

struct expected {
	const char *test;
	int tokens, rows, depth;
	size_t n_deltas;
	double weight_bytes, kv_bytes;
};

static double number_of(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_number(value))
		fail_msg("%s is no number", key);
	return json_number_value(value);
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	assert_non_null(text);
	return text;
}

static void check_test(const json_t *got, const struct expected *want)
{
	double rate = number_of(got, "tokens_per_second");
	double bytes = want->weight_bytes + want->kv_bytes;

	assert_string_equal(text_of(got, "test"), want->test);
	assert_int_equal(number_of(got, "tokens"), want->tokens);
	assert_int_equal(number_of(got, "rows"), want->rows);
	assert_int_equal(number_of(got, "depth"), want->depth);
	assert_int_equal(json_array_size(json_object_get(got, "deltas")), want->n_deltas);
	assert_true(rate > 0 && isfinite(rate));
	assert_true(number_of(got, "least") <= rate && rate <= number_of(got, "most"));
	assert_true(fabs(number_of(got, "weight_bytes_per_token") - want->weight_bytes) < 0.01);
	assert_true(fabs(number_of(got, "kv_bytes_per_token") - want->kv_bytes) < 0.01);
	assert_true(fabs(number_of(got, "bytes_per_second") / (rate * bytes) - 1) < 1e-9);
	assert_true(number_of(got, "read_bytes_per_second") > 0);
	assert_true(number_of(got, "share_of_memory") > 0);
}

/* The report, after what all of them have is checked. */
static json_t *bench(const char *const *arguments)
{
	char *text = program_deltactl(arguments);
	json_t *report = json_loads(text, 0, NULL);

	assert_non_null(report);
	assert_string_equal(text_of(report, "kv"), "bf16");
	assert_int_equal(number_of(report, "threads"), 2);
	assert_int_equal(number_of(report, "repeats"), 2);
	free(text);
	return report;
}

static void check_tests(const json_t *report, const struct expected *want, size_t n)
{
	const json_t *tests = json_object_get(report, "tests");

	assert_int_equal(json_array_size(tests), n);
	for (size_t i = 0; i < n; i++)
		check_test(json_array_get(tests, i), &want[i]);
}

static void run_quietly(const char *const *arguments)
{
	free(program_deltactl(arguments));
}

static void test_all_kinds_of_tests(void **state)
{
	/* The fine-tune's head replaces the base's, which is then not read, and is as large. */
	const double all = 2 * WEIGHTS + HEAD_BYTES, with_delta = all + SIGNS;
	const struct expected want[] = {
		{"prompt", 40, 1, 0, 0, (2 * 2 * WEIGHTS + HEAD_BYTES) / 40.0, 0},
		{"prompt", 40, 1, 0, 1, (2 * (2 * WEIGHTS + SIGNS) + HEAD_BYTES) / 40.0, 0},
		{"prompt", 40, 1, 0, 1, (2 * (2 * WEIGHTS + SIGNS) + HEAD_BYTES) / 40.0, 0},
		{"decode", 3, 1, 0, 0, all, 2 * POSITION_BYTES},
		{"decode", 3, 1, 0, 1, with_delta, 2 * POSITION_BYTES},
		{"decode", 3, 1, 0, 1, with_delta, 2 * POSITION_BYTES},
		{"decode", 3, 4, 0, 0, all / 4, 2 * POSITION_BYTES},
		{"decode", 3, 4, 0, 2, (2 * WEIGHTS + 2 * (HEAD_BYTES + SIGNS)) / 4.0,
			2 * POSITION_BYTES},
		{"decode", 3, 1, 100, 0, all, 102 * POSITION_BYTES},
		{"decode", 3, 1, 100, 1, with_delta, 102 * POSITION_BYTES},
		{"decode", 3, 1, 100, 1, with_delta, 102 * POSITION_BYTES},
	};
	char *folder = scratch_folder(), *base = scratch_path(folder, "tiny.base"),
	     *delta = scratch_path(folder, "tiny.delta");
	json_t *report;

	(void)state;
	run_quietly((const char *[]){"import", FOLDER, "-o", base, "-q", NULL});
	run_quietly((const char *[]){"compress", "--base", FOLDER, "--tuned", FOLDER "-ft",
		"--method", "sign", "--measure", "never", "-o", delta, "-q", NULL});
	report = bench((const char *[]){"bench", "--base", base, "--delta", delta, "--delta", delta,
		"--prompt", "40", "--chunk", "32", "--generate", "3", "--batch", "1,4", "--depth",
		"100", "--repeats", "2", "--threads", "2", "--json", "-q", NULL});
	assert_string_equal(text_of(report, "weights"), "bf16");
	check_tests(report, want, array_len(want));
	json_decref(report);
	scratch_remove(folder);
	free(delta);
	free(base);
	free(folder);
}

/* 8 bits, the head too: rows and columns fill blocks of 16 and groups of 128; a scale of 2 bytes
 * for each. */
static void test_a_base_of_integers(void **state)
{
	const double numbers = (3 * (2 * 64 + 2 * 32 + 2 * 160 + 2 * 64) + 320) * 128.0;
	const struct expected want[] = {
		{"decode", 1, 1, 0, 0, numbers + 2 * numbers / 128, POSITION_BYTES},
	};
	char *folder = scratch_folder(), *base = scratch_path(folder, "tiny.base");
	json_t *report;

	(void)state;
	run_quietly(
		(const char *[]){"import", FOLDER, "--weights", "int8", "-o", base, "-q", NULL});
	report = bench((const char *[]){"bench", "--base", base, "--prompt", "0", "--generate", "1",
		"--repeats", "2", "--threads", "2", "--json", "-q", NULL});
	assert_string_equal(text_of(report, "weights"), "int8");
	check_tests(report, want, array_len(want));
	json_decref(report);
	scratch_remove(folder);
	free(base);
	free(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_kinds_of_tests),
		cmocka_unit_test(test_a_base_of_integers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
