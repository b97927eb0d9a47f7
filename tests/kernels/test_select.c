#include "tests/kernels/sets.h"

#ifdef __x86_64__
#include "kernels/amx/amx.h"

static bool has_tiles(void)
{
	return cpu_features_detect().amx && amx_permit() == 0;
}

/* What the compiler's own run time finds; it also asks which registers the system saves. */
static void test_features(void **unused)
{
	struct cpu_features f = cpu_features_detect();

	(void)unused;
	assert_int_equal(f.avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
	assert_int_equal(f.avx512,
		__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
			__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
			__builtin_cpu_supports("avx512vnni"));
	assert_true(f.avx512 || !f.avx512_bf16);
	assert_true(f.avx512_bf16 || !f.amx);
}
#else
static bool has_tiles(void)
{
	return false;
}

static void test_features(void **unused)
{
	struct cpu_features f = cpu_features_detect();

	(void)unused;
	assert_false(f.avx2 || f.avx512 || f.avx512_bf16 || f.amx);
}
#endif

static void expect_complete(const struct kernels *k)
{
	assert_non_null(k->matmul);
	assert_non_null(k->qmat_dot);
	assert_non_null(k->qmat_accumulate);
	assert_non_null(k->qmat_accumulate_int);
	assert_non_null(k->dropmat_dot);
	assert_non_null(k->mat_row);
	assert_non_null(k->rms_norm);
	assert_non_null(k->rope);
	assert_non_null(k->silu_mul);
	assert_non_null(k->add);
	assert_non_null(k->kv_store);
	assert_non_null(k->attend);
	assert_true(!k->panel_bytes == !k->matmul_panel && !k->panel_parts == !k->matmul_panel &&
		    !k->panel_fill == !k->matmul_panel);
}

static void check_forced(const char *name, bool usable)
{
	struct kernels k = {.name = "untouched"};
	struct reason reason = {""};
	int r = kernels_select(&k, name, &reason);

	if (usable) {
		assert_int_equal(r, 0);
		assert_string_equal(k.name, name);
		expect_complete(&k);
		return;
	}
	assert_int_equal(r, -EOPNOTSUPP);
	assert_string_equal(k.name, "untouched");
	assert_non_null(strstr(reason.text, name));
}

static void test_forced(void **unused)
{
	struct cpu_features f = cpu_features_detect();

	(void)unused;
	check_forced("ref", true);
	check_forced("avx2", f.avx2);
	check_forced("avx512", f.avx512);
	check_forced("amx", has_tiles());
	check_forced("avx", false);
	check_forced("", false);
}

static void test_best(void **unused)
{
	struct cpu_features f = cpu_features_detect();
	struct kernels k;

	(void)unused;
	assert_int_equal(kernels_select(&k, NULL, NULL), 0);
	assert_string_equal(k.name, has_tiles() ? "amx"
				    : f.avx512  ? "avx512"
				    : f.avx2    ? "avx2"
						: "ref");
	expect_complete(&k);
	assert_true(!k.declined == (has_tiles() || !f.amx));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_features),
		cmocka_unit_test(test_forced),
		cmocka_unit_test(test_best),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
