#include "tests/kernels/sets.h"

#include "kernels/convert.h"

/* Keys or values of one sequence as floats and, cut in pages, as the kernel sees them. */
struct side {
	float *numbers; /* positions x head_dim, as stored: bf16 is already rounded */
	char *bytes;    /* all pages, each of them `odd` bytes after the one before, unaligned */
	const void **pages;
};

struct problem {
	size_t positions, head_dim, page_tokens;
	enum kv_type type;
	struct side keys, values;
	struct kv_view view;
};

static struct side side_new(const struct problem *p, float scale)
{
	const size_t n = p->positions * p->head_dim, element = kv_type_size(p->type);
	const size_t n_pages = (p->positions + p->page_tokens - 1) / p->page_tokens;
	const size_t page_bytes = p->page_tokens * p->head_dim * element;
	struct side s = {.numbers = random_new(n),
		.bytes = numbers_new(n_pages * (page_bytes + 2) + 2, 1),
		.pages = numbers_new(n_pages, sizeof(void *))};

	for (size_t i = 0; i < n_pages; i++)
		s.pages[i] = s.bytes + 2 + i * (page_bytes + 2);
	for (size_t i = 0; i < n; i++) {
		size_t position = i / p->head_dim, page = position / p->page_tokens;
		size_t slot = position % p->page_tokens * p->head_dim + i % p->head_dim;
		char *at = s.bytes + 2 + page * (page_bytes + 2) + slot * element;
		uint16_t half = bf16_from_f32(s.numbers[i] * scale);

		s.numbers[i] = p->type == KV_TYPE_BF16 ? bf16_to_f32(half) : s.numbers[i] * scale;
		memcpy(at, p->type == KV_TYPE_BF16 ? (void *)&half : (void *)&s.numbers[i],
			element);
	}
	return s;
}

static void problem_fill(struct problem *p, float key_scale)
{
	p->keys = side_new(p, key_scale);
	p->values = side_new(p, 1);
	p->view = (struct kv_view){.key_pages = p->keys.pages,
		.value_pages = p->values.pages,
		.page_tokens = (uint32_t)p->page_tokens,
		.head_dim = (uint32_t)p->head_dim,
		.type = p->type};
}

static void side_done(struct side *s)
{
	free(s->numbers);
	free(s->bytes);
	free(s->pages);
}

static void problem_done(struct problem *p)
{
	side_done(&p->keys);
	side_done(&p->values);
}

/*
 * The tolerance follows from kernels.h. A score is a sum of head_dim terms; the largest error of a
 * score moves a weight by that factor and the sum of the weights once more; then comes what the
 * weights themselves may be off by, and the sum over positions.
 */
static void check_head(const struct kernels *k, const struct problem *p, const float *q,
	size_t first, size_t last, float scale, const float *got)
{
	const size_t n = last - first + 1;
	_cleanup_(freep) double *weights = numbers_new(n, sizeof(*weights));
	double highest = -INFINITY, total = 0, score_error = 0, allowed;

	for (size_t i = 0; i < n; i++) {
		double magnitude = 0;

		for (size_t d = 0; d < p->head_dim; d++) {
			double term = (double)q[d] *
				      p->keys.numbers[(first + i) * p->head_dim + d] * scale;

			weights[i] += term;
			magnitude += fabs(term);
		}
		highest = fmax(highest, weights[i]);
		score_error = fmax(score_error, ((double)p->head_dim + 8) * ROUNDING * magnitude);
	}
	for (size_t i = 0; i < n; i++)
		total += weights[i] = exp(weights[i] - highest);
	allowed = 2 * score_error + 2e-6 + ((double)n + 8) * ROUNDING;
	for (size_t d = 0; d < p->head_dim; d++) {
		double sum = 0, magnitude = 0;

		for (size_t i = 0; i < n; i++) {
			double term = weights[i] / total *
				      p->values.numbers[(first + i) * p->head_dim + d];

			sum += term;
			magnitude += fabs(term);
		}
		expect_near(k->name, got[d], sum, allowed * magnitude + 1e-12,
			"head_dim %zu positions %zu to %zu", p->head_dim, first, last);
	}
}

static void check_queries(const struct kernels *k, const struct problem *p, size_t n_queries,
	size_t first, size_t last)
{
	const size_t n = last - first + 1, numbers = n_queries * p->head_dim;
	const float scale = 1 / sqrtf((float)p->head_dim);
	_cleanup_(freep) float *q = random_new(numbers + 1);
	struct guarded out = guarded_new(numbers), alone = guarded_new(p->head_dim);
	struct guarded scores = guarded_new(n_queries * n), one_score = guarded_new(n);

	k->attend(guarded_at(&out), q + 1, n_queries, &p->view, first, last, scale,
		guarded_at(&scores));
	guarded_check(&out);
	guarded_check(&scores);
	for (size_t h = 0; h < n_queries; h++) {
		const float *query = q + 1 + h * p->head_dim;
		const float *got = guarded_at(&out) + h * p->head_dim;

		check_head(k, p, query, first, last, scale, got);
		k->attend(guarded_at(&alone), query, 1, &p->view, first, last, scale,
			guarded_at(&one_score));
		guarded_check(&one_score);
		for (size_t d = 0; d < p->head_dim; d++)
			assert_true(same_bits(guarded_at(&alone)[d], got[d]));
	}
	guarded_done(&out);
	guarded_done(&alone);
	guarded_done(&scores);
	guarded_done(&one_score);
}

static void check_positions(const struct kernels *k, struct problem *p)
{
	static const size_t ranges[][2] = {
		{0, 0}, {0, 1}, {0, 14}, {0, 15}, {0, 16}, {5, 36}, {31, 64}, {3, 99}, {99, 99}};

	problem_fill(p, 3);
	for (size_t i = 0; i < array_len(ranges); i++) {
		check_queries(k, p, 0, ranges[i][0], ranges[i][1]);
		check_queries(k, p, 1, ranges[i][0], ranges[i][1]);
		check_queries(k, p, 3, ranges[i][0], ranges[i][1]);
		check_queries(k, p, 6, ranges[i][0], ranges[i][1]);
		check_queries(k, p, 8, ranges[i][0], ranges[i][1]);
	}
	problem_done(p);
}

static void check_attend(const struct kernels *k)
{
	static const size_t head_dims[] = {1, 8, 15, 16, 17, 64, 80, 128, 144};
	static const size_t page_sizes[] = {1, 7, 32};

	for (size_t i = 0; i < array_len(head_dims); i++) {
		for (size_t j = 0; j < array_len(page_sizes); j++) {
			struct problem p = {.positions = 100,
				.head_dim = head_dims[i],
				.page_tokens = page_sizes[j],
				.type = j % 2 ? KV_TYPE_BF16 : KV_TYPE_F32};

			check_positions(k, &p);
			p.type = j % 2 ? KV_TYPE_F32 : KV_TYPE_BF16;
			check_positions(k, &p);
		}
	}
}

static void test_attend(void **unused)
{
	(void)unused;
	for_each_set(check_attend);
}

/* Scores far apart: most weights vanish, none may overflow. */
static void check_attend_extremes(const struct kernels *k)
{
	static const float scales[] = {0, 1e-30f, 100, 1e4f};

	for (size_t i = 0; i < array_len(scales); i++) {
		struct problem p = {
			.positions = 2100, .head_dim = 64, .page_tokens = 32, .type = KV_TYPE_F32};

		problem_fill(&p, scales[i]);
		check_queries(k, &p, 2, 0, 2099);
		problem_done(&p);
	}
}

static void test_attend_extremes(void **unused)
{
	(void)unused;
	for_each_set(check_attend_extremes);
}

static void check_kv_store(const struct kernels *k)
{
	static const uint32_t special[] = {0, 0x80000000, 0x7f800000, 0xff800000, 0x7f800001,
		0xffffffff, 0x7fc00000, 0x7f7fffff, 0x00000001, 0x00008000, 0x3f808000, 0x3f818000,
		0x3f808001, 0x3f817fff};
	static const size_t sizes[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 4099};

	for (size_t i = 0; i < array_len(sizes); i++) {
		const size_t n = sizes[i];
		_cleanup_(freep) float *x = numbers_new(n, sizeof(*x));
		struct guarded wide = guarded_new(n), narrow = guarded_new((n + 1) / 2);
		uint16_t *halves = (uint16_t *)(void *)guarded_at(&narrow);
		uint16_t after = n % 2 ? halves[n] : 0;

		for (size_t j = 0; j < n; j++)
			x[j] = f32_from_bits(j < array_len(special) ? special[j] : random_u32());
		k->kv_store(guarded_at(&wide), x, n, KV_TYPE_F32);
		k->kv_store(halves, x, n, KV_TYPE_BF16);
		guarded_check(&wide);
		guarded_check(&narrow);
		assert_memory_equal(guarded_at(&wide), x, n * sizeof(*x));
		for (size_t j = 0; j < n; j++)
			assert_int_equal(halves[j], bf16_from_f32(x[j]));
		assert_int_equal(n % 2 ? halves[n] : 0, after);
		guarded_done(&wide);
		guarded_done(&narrow);
	}
}

static void test_kv_store(void **unused)
{
	(void)unused;
	for_each_set(check_kv_store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_attend),
		cmocka_unit_test(test_attend_extremes),
		cmocka_unit_test(test_kv_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
