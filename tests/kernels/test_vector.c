#include "tests/kernels/sets.h"

#include "kernels/convert.h"

static const size_t sizes[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 384, 1031};

static void check_rms_norm_of(const struct kernels *k, size_t n, float eps)
{
	_cleanup_(freep) float *x = random_new(n + 1), *w = random_new(n + 1);
	struct guarded y = guarded_new(n), in_place = guarded_new(n);
	double squares = 0;

	k->rms_norm(guarded_at(&y), x + 1, w + 1, n, eps);
	memcpy(guarded_at(&in_place), x + 1, n * sizeof(*x));
	k->rms_norm(guarded_at(&in_place), guarded_at(&in_place), w + 1, n, eps);
	guarded_check(&y);
	guarded_check(&in_place);
	for (size_t i = 0; i < n; i++)
		squares += (double)x[1 + i] * x[1 + i];
	for (size_t i = 0; i < n; i++) {
		double exact = x[1 + i] * (double)w[1 + i] / sqrt(squares / (double)n + eps);

		expect_near(k->name, guarded_at(&y)[i], exact,
			((double)n + 8) * ROUNDING * fabs(exact), "n %zu", n);
		assert_true(same_bits(guarded_at(&y)[i], guarded_at(&in_place)[i]));
	}
	guarded_done(&y);
	guarded_done(&in_place);
}

static void check_rms_norm(const struct kernels *k)
{
	for (size_t i = 0; i < array_len(sizes); i++) {
		check_rms_norm_of(k, sizes[i], 1e-5f);
		check_rms_norm_of(k, sizes[i], 10);
	}
}

static void test_rms_norm(void **unused)
{
	(void)unused;
	for_each_set(check_rms_norm);
}

static void check_rope_of(const struct kernels *k, size_t half)
{
	_cleanup_(freep) float *x = random_new(2 * half);
	_cleanup_(freep) float *c = random_new(half + 1), *s = random_new(half + 1);
	struct guarded y = guarded_new(2 * half);
	float *got = guarded_at(&y);

	memcpy(got, x, 2 * half * sizeof(*x));
	k->rope(got, c + 1, s + 1, 2 * half);
	guarded_check(&y);
	for (size_t i = 0; i < half; i++) {
		double ac = (double)x[i] * c[1 + i], as = (double)x[i] * s[1 + i];
		double bc = (double)x[half + i] * c[1 + i], bs = (double)x[half + i] * s[1 + i];

		expect_near(k->name, got[i], ac - bs, 10 * ROUNDING * (fabs(ac) + fabs(bs)),
			"half %zu", half);
		expect_near(k->name, got[half + i], bc + as, 10 * ROUNDING * (fabs(bc) + fabs(as)),
			"half %zu", half);
	}
	guarded_done(&y);
}

static void check_rope(const struct kernels *k)
{
	for (size_t i = 0; i < array_len(sizes); i++)
		check_rope_of(k, sizes[i]);
}

static void test_rope(void **unused)
{
	(void)unused;
	for_each_set(check_rope);
}

static void check_silu_values(const struct kernels *k, const float *gate, const float *up, size_t n)
{
	struct guarded y = guarded_new(n), as_gate = guarded_new(n), as_up = guarded_new(n);

	k->silu_mul(guarded_at(&y), gate, up, n);
	memcpy(guarded_at(&as_gate), gate, n * sizeof(*gate));
	k->silu_mul(guarded_at(&as_gate), guarded_at(&as_gate), up, n);
	memcpy(guarded_at(&as_up), up, n * sizeof(*up));
	k->silu_mul(guarded_at(&as_up), gate, guarded_at(&as_up), n);
	guarded_check(&y);
	guarded_check(&as_gate);
	guarded_check(&as_up);
	for (size_t i = 0; i < n; i++) {
		double exact = gate[i] / (1 + exp(-(double)gate[i])) * up[i];

		expect_near(k->name, guarded_at(&y)[i], exact,
			1e-6 * fabs(exact) + 1e-35 * fabs(up[i]), "gate %a", gate[i]);
		assert_true(same_bits(guarded_at(&y)[i], guarded_at(&as_gate)[i]));
		assert_true(same_bits(guarded_at(&y)[i], guarded_at(&as_up)[i]));
	}
	guarded_done(&y);
	guarded_done(&as_gate);
	guarded_done(&as_up);
}

static void check_silu_mul(const struct kernels *k)
{
	enum { DENSE = 40000 };
	_cleanup_(freep) float *gate = numbers_new(DENSE, sizeof(float)), *up = random_new(DENSE);

	/* Every size, then a fine comb over the range of the exponential and far outside of it. */
	for (size_t i = 0; i < array_len(sizes); i++) {
		_cleanup_(freep) float *g = random_new(sizes[i] + 1), *u = random_new(sizes[i] + 1);

		check_silu_values(k, g + 1, u + 1, sizes[i]);
	}
	for (size_t i = 0; i < DENSE; i++)
		gate[i] = 110 * random_f32();
	gate[0] = 0;
	gate[1] = -0.0f;
	gate[2] = 1e30f;
	gate[3] = -1e30f;
	gate[4] = -88.5f;
	gate[5] = 88.5f;
	gate[6] = 1e-40f;
	check_silu_values(k, gate, up, DENSE);
}

static void test_silu_mul(void **unused)
{
	(void)unused;
	for_each_set(check_silu_mul);
}

static void check_add(const struct kernels *k)
{
	for (size_t i = 0; i < array_len(sizes); i++) {
		_cleanup_(freep) float *x = random_new(sizes[i] + 1), *a = random_new(sizes[i]);
		struct guarded y = guarded_new(sizes[i]);

		memcpy(guarded_at(&y), a, sizes[i] * sizeof(*a));
		k->add(guarded_at(&y), x + 1, sizes[i]);
		guarded_check(&y);
		for (size_t j = 0; j < sizes[i]; j++)
			assert_true(same_bits(guarded_at(&y)[j], (float)((double)a[j] + x[1 + j])));
		guarded_done(&y);
	}
}

static void test_add(void **unused)
{
	(void)unused;
	for_each_set(check_add);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rms_norm),
		cmocka_unit_test(test_rope),
		cmocka_unit_test(test_silu_mul),
		cmocka_unit_test(test_add),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
