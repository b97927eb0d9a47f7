#include "tests/kernels/sets.h"

#include "kernels/attend.h"
#include "kernels/convert.h"

#include <sys/mman.h>

/* Keys or values of one sequence as floats and, cut in pages, as the kernel sees them. */
struct side {
	float *numbers; /* positions x head_dim, already rounded as they are stored */
	char *bytes;    /* all pages, each of them `odd` bytes after the one before, unaligned */
	const void **pages;
};

struct problem {
	size_t positions, head_dim, page_tokens;
	enum kv_type type;
	struct side keys, values;
	struct kv_view view;
};

/* One row: what is stored at `at`, and the numbers that it stands for, in place. */
static void row_fill(char *at, float *numbers, size_t n, float scale, enum kv_type type)
{
	const float step = scale / 127;

	if (type == KV_TYPE_INT8)
		memcpy(at, &step, sizeof(step));
	for (size_t d = 0; d < n; d++) {
		const int8_t code = (int8_t)lrintf(numbers[d] * 127);
		const uint16_t half = bf16_from_f32(numbers[d] * scale);

		switch (type) {
		case KV_TYPE_F32:
			numbers[d] *= scale;
			memcpy(at + d * sizeof(float), &numbers[d], sizeof(float));
			break;
		case KV_TYPE_BF16:
			numbers[d] = bf16_to_f32(half);
			memcpy(at + d * sizeof(half), &half, sizeof(half));
			break;
		case KV_TYPE_INT8:
			numbers[d] = (float)code * step;
			memcpy(at + sizeof(step) + d, &code, sizeof(code));
			break;
		}
	}
}

static char *row_at(const struct side *s, const struct problem *p, size_t position)
{
	const size_t row_bytes = kv_row_bytes(p->type, p->head_dim);
	const size_t page_bytes = p->page_tokens * row_bytes + 2;

	return s->bytes + 2 + position / p->page_tokens * page_bytes +
	       position % p->page_tokens * row_bytes;
}

static struct side side_new(const struct problem *p, float scale)
{
	const size_t n_pages = (p->positions + p->page_tokens - 1) / p->page_tokens;
	const size_t page_bytes = p->page_tokens * kv_row_bytes(p->type, p->head_dim) + 2;
	struct side s = {.numbers = random_new(p->positions * p->head_dim),
		.bytes = numbers_new(n_pages * page_bytes + 2, 1),
		.pages = numbers_new(n_pages, sizeof(void *))};

	for (size_t i = 0; i < n_pages; i++)
		s.pages[i] = s.bytes + 2 + i * page_bytes;
	for (size_t i = 0; i < p->positions; i++)
		row_fill(
			row_at(&s, p, i), s.numbers + i * p->head_dim, p->head_dim, scale, p->type);
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

/* What a kernel set makes of a call, all of it by one. */
static void attend_whole(const struct kernels *k, const struct attend_call *call, float *out)
{
	const size_t n = call->n_rows * call->n_heads;
	_cleanup_(freep) void *scratch =
		aligned_alloc(64, attend_all_bytes(n, call->kv.head_dim) + 64);

	assert_non_null(scratch);
	attend_all(k, out, call, scratch);
}

/* The parts in descending order, each with memory of its own; then added in ascending order. */
static void attend_by_parts(const struct kernels *k, const struct attend_call *call, float *out)
{
	const size_t n = call->n_rows * call->n_heads, head_dim = call->kv.head_dim;
	const size_t bytes = attend_sums_bytes(n, head_dim);
	const size_t n_parts = (call->position + call->n_rows - 1) / ATTEND_PART + 1;
	_cleanup_(freep) void *scratch = aligned_alloc(64, attend_scratch_bytes(n, head_dim) + 64);
	_cleanup_(freep) char *memory = numbers_new(n_parts * bytes, 1);
	struct attend_sums sums = attend_sums_at(memory, n, head_dim), part;

	assert_non_null(scratch);
	for (size_t i = n_parts; i-- > 0;) {
		part = attend_sums_at(memory + i * bytes, n, head_dim);
		k->attend(&part, call, i, scratch);
	}
	for (size_t i = 1; i < n_parts; i++) {
		part = attend_sums_at(memory + i * bytes, n, head_dim);
		attend_sums_add(&sums, &part, n, head_dim);
	}
	attend_finish(out, call, &sums);
}

static void expect_same(const float *a, const float *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		assert_true(same_bits(a[i], b[i]));
}

/* Each head of each row against the double precision, and against the same head by itself. */
static void check_each(const struct kernels *k, const struct problem *p,
	const struct attend_call *call, const float *out)
{
	for (size_t i = 0; i < call->n_rows * call->n_heads; i++) {
		const size_t row = i / call->n_heads, position = call->position + row;
		const size_t at = row * call->stride + i % call->n_heads * p->head_dim;
		struct guarded alone = guarded_new(p->head_dim);
		struct attend_call one = *call;

		check_head(k, p, call->q + at, attend_first(position, call->window), position,
			call->scale, out + at);
		one.q += at;
		one.n_rows = 1;
		one.n_heads = 1;
		one.position = position;
		attend_whole(k, &one, guarded_at(&alone));
		guarded_check(&alone);
		expect_same(guarded_at(&alone), out + at, p->head_dim);
		guarded_done(&alone);
	}
}

/* The last n_rows positions of the problem. */
static void check_call(const struct kernels *k, const struct problem *p, size_t n_rows,
	size_t n_heads, size_t window)
{
	const size_t stride = n_heads * p->head_dim + 3, numbers = n_rows * stride;
	_cleanup_(freep) float *q = random_new(numbers + 1);
	struct guarded out = guarded_new(numbers), parts = guarded_new(numbers);
	const struct attend_call call = {.kv = p->view,
		.q = q + 1,
		.stride = stride,
		.n_rows = n_rows,
		.n_heads = n_heads,
		.position = p->positions - n_rows,
		.window = window,
		.scale = 1 / sqrtf((float)p->head_dim)};

	attend_whole(k, &call, guarded_at(&out));
	guarded_check(&out);
	check_each(k, p, &call, guarded_at(&out));
	attend_by_parts(k, &call, guarded_at(&parts));
	guarded_check(&parts);
	expect_same(guarded_at(&parts), guarded_at(&out), numbers);
	for (size_t row = 0; row < n_rows; row++)
		for (size_t i = n_heads * p->head_dim; i < stride; i++)
			assert_true(is_untouched(guarded_at(&out) + row * stride + i));
	guarded_done(&out);
	guarded_done(&parts);
}

static const enum kv_type types[] = {KV_TYPE_F32, KV_TYPE_BF16, KV_TYPE_INT8};

static void check_heads(const struct kernels *k)
{
	static const size_t head_dims[] = {1, 8, 15, 16, 17, 64, 80, 128, 144};
	static const size_t page_sizes[] = {1, 7, 32};
	static const size_t contexts[] = {1, 2, 15, 17, 33, 100};
	static const size_t heads[] = {0, 1, 3, 6, 8};

	for (size_t i = 0; i < array_len(head_dims) * array_len(types); i++) {
		for (size_t j = 0; j < array_len(contexts); j++) {
			struct problem p = {.positions = contexts[j],
				.head_dim = head_dims[i / array_len(types)],
				.page_tokens = page_sizes[j % array_len(page_sizes)],
				.type = types[i % array_len(types)]};

			problem_fill(&p, 3);
			for (size_t h = 0; h < array_len(heads); h++)
				check_call(k, &p, 1, heads[h], j % 2 ? 0 : 13);
			problem_done(&p);
		}
	}
}

static void test_heads(void **unused)
{
	(void)unused;
	for_each_set(check_heads);
}

/* Rows together, at the ends of groups, pages and parts, with windows and without. */
static void check_rows(const struct kernels *k)
{
	static const struct {
		size_t positions, n_rows, n_heads, window;
	} shapes[] = {{7, 7, 1, 0}, {40, 9, 4, 0}, {64, 32, 2, 5}, {97, 3, 3, 40}, {515, 8, 2, 0},
		{540, 33, 1, 9}, {1030, 7, 8, 600}, {1024, 2, 1, 512}, {1025, 1, 5, 1},
		{70, 35, 1, 0}, {545, 41, 1, 0}, {33, 33, 1, 1}, {600, 64, 2, 70}};

	for (size_t i = 0; i < array_len(shapes) * array_len(types); i++) {
		const size_t shape = i / array_len(types);
		struct problem p = {.positions = shapes[shape].positions,
			.head_dim = shape % 2 ? 20 : 32,
			.page_tokens = shape % 3 ? 32 : 7,
			.type = types[i % array_len(types)]};

		problem_fill(&p, 3);
		check_call(
			k, &p, shapes[shape].n_rows, shapes[shape].n_heads, shapes[shape].window);
		problem_done(&p);
	}
}

static void test_rows(void **unused)
{
	(void)unused;
	for_each_set(check_rows);
}

/* What a row does not see may be anything. */
static void check_unseen(const struct kernels *k)
{
	enum { ROWS = 20, HEADS = 2, QUERIES = ROWS * HEADS };
	struct problem p = {
		.positions = 530, .head_dim = 16, .page_tokens = 32, .type = KV_TYPE_F32};
	_cleanup_(freep) float *q = random_new(QUERIES * p.head_dim);
	struct guarded out = guarded_new(QUERIES * p.head_dim);
	struct attend_call call;
	const float nothing = NAN, endless = INFINITY;

	problem_fill(&p, 1);
	call = (struct attend_call){.kv = p.view,
		.q = q,
		.stride = HEADS * p.head_dim,
		.n_rows = ROWS,
		.n_heads = HEADS,
		.position = 510,
		.window = 100,
		.scale = 1};
	for (size_t i = 0; i < p.positions; i++) {
		if (i < 415 || i > 520) {
			memcpy(row_at(&p.keys, &p, i), &nothing, sizeof(nothing));
			memcpy(row_at(&p.values, &p, i), &endless, sizeof(endless));
		}
	}
	attend_whole(k, &call, guarded_at(&out));
	for (size_t i = 0; i < QUERIES; i++) {
		const size_t row = i / HEADS;
		const bool clean = row >= 4 && row <= 10;

		if (clean)
			check_head(k, &p, q + i * p.head_dim, 411 + row, 510 + row, 1,
				guarded_at(&out) + i * p.head_dim);
		else
			assert_false(isfinite(guarded_at(&out)[i * p.head_dim]));
	}
	guarded_done(&out);
	problem_done(&p);
}

static void test_unseen(void **unused)
{
	(void)unused;
	for_each_set(check_unseen);
}

/* A copy of the only page of a side at the end of a mapping, behind which nothing can be read. */
static char *move_to_end(struct side *s, size_t bytes, size_t room)
{
	char *memory =
		mmap(NULL, room + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(memory != MAP_FAILED);
	assert_true(bytes <= room);
	assert_int_equal(mprotect(memory + room, 4096, PROT_NONE), 0);
	s->pages[0] = memcpy(memory + room - bytes, s->pages[0], bytes);
	return memory;
}

static void check_page_end(const struct kernels *k)
{
	static const size_t positions[] = {1, 5, 32, 41};
	const size_t room = 16384;

	for (size_t i = 0; i < array_len(positions) * array_len(types); i++) {
		struct problem p = {.positions = positions[i / array_len(types)],
			.head_dim = 20,
			.page_tokens = positions[i / array_len(types)],
			.type = types[i % array_len(types)]};
		const size_t bytes = p.positions * kv_row_bytes(p.type, p.head_dim);
		char *keys, *values;

		problem_fill(&p, 3);
		keys = move_to_end(&p.keys, bytes, room);
		values = move_to_end(&p.values, bytes, room);
		check_call(k, &p, 1, 1, 0);
		check_call(k, &p, 1, 12, 0);
		munmap(keys, room + 4096);
		munmap(values, room + 4096);
		problem_done(&p);
	}
}

static void test_page_end(void **unused)
{
	(void)unused;
	for_each_set(check_page_end);
}

/* Scores far apart: most weights vanish, none may overflow. */
static void check_extremes(const struct kernels *k)
{
	static const float scales[] = {0, 1e-30f, 100, 1e4f};

	for (size_t i = 0; i < array_len(scales); i++) {
		struct problem p = {
			.positions = 2100, .head_dim = 64, .page_tokens = 32, .type = KV_TYPE_F32};

		problem_fill(&p, scales[i]);
		check_call(k, &p, 1, 2, 0);
		problem_done(&p);
	}
}

static void test_extremes(void **unused)
{
	(void)unused;
	for_each_set(check_extremes);
}

/* What a score that is no number makes of a row is no number either: its position is not passed
 * over, nor is its part. */
static void check_broken(const struct kernels *k)
{
	static const float keys[] = {NAN, INFINITY, 3e38f};
	static const size_t positions[] = {1, 40, 1030};

	for (size_t i = 0; i < array_len(keys) * array_len(positions); i++) {
		struct problem p = {.positions = positions[i / array_len(keys)],
			.head_dim = 16,
			.page_tokens = 32,
			.type = KV_TYPE_F32};
		float q[16], out[16];
		struct attend_call call;

		problem_fill(&p, 1);
		call = (struct attend_call){.kv = p.view,
			.q = q,
			.stride = p.head_dim,
			.n_rows = 1,
			.n_heads = 1,
			.position = p.positions - 1,
			.scale = 1};
		for (size_t d = 0; d < p.head_dim; d++) {
			q[d] = 1;
			memcpy(row_at(&p.keys, &p, p.positions / 3) + d * sizeof(float),
				&keys[i % array_len(keys)], sizeof(float));
		}
		attend_whole(k, &call, out);
		for (size_t d = 0; d < p.head_dim; d++)
			if (isfinite(out[d]))
				fail_msg("%s: a key of %g gives %g", k->name,
					(double)keys[i % array_len(keys)], (double)out[d]);
		problem_done(&p);
	}
}

static void test_broken(void **unused)
{
	(void)unused;
	for_each_set(check_broken);
}

/* By the words of act_round(). */
static void check_int8_row(const struct kernels *k, size_t n, float scale)
{
	_cleanup_(freep) float *x = random_new(n);
	_cleanup_(freep) char *row = numbers_new(kv_row_bytes(KV_TYPE_INT8, n) + 8, 1);
	float largest = 0, got;

	for (size_t i = 0; i < n; i++) {
		x[i] *= scale;
		largest = fmaxf(largest, fabsf(x[i]));
	}
	memset(row + kv_row_bytes(KV_TYPE_INT8, n), 0x5a, 8);
	k->kv_store(row, x, n, KV_TYPE_INT8);
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(row[kv_row_bytes(KV_TYPE_INT8, n) + i], 0x5a);
	memcpy(&got, row, sizeof(got));
	assert_true(same_bits(got, largest < 0x1p-100f ? 0 : largest / 127));
	for (size_t i = 0; i < n; i++) {
		const int code = (int8_t)row[sizeof(got) + i];

		assert_int_equal(code, largest < 0x1p-100f ? 0 : lrintf(x[i] * (127 / largest)));
		assert_true(fabsf(x[i] - (float)code * got) <= 0.5001f * got + 0x1p-100f);
	}
}

static void check_int8_store(const struct kernels *k)
{
	static const size_t sizes[] = {1, 7, 8, 9, 16, 17, 64, 128, 200};
	static const float scales[] = {1, 0, 1e-31f, 1e30f};
	static const float bad[] = {NAN, INFINITY, -INFINITY};

	for (size_t i = 0; i < array_len(sizes) * array_len(scales); i++)
		check_int8_row(k, sizes[i / array_len(scales)], scales[i % array_len(scales)]);
	for (size_t i = 0; i < array_len(bad); i++) {
		float x[20] = {1, 2, 3, [17] = bad[i]}, scale;
		char row[sizeof(scale) + array_len(x)];

		k->kv_store(row, x, array_len(x), KV_TYPE_INT8);
		memcpy(&scale, row, sizeof(scale));
		assert_false(isfinite(scale));
	}
}

static void test_int8_store(void **unused)
{
	(void)unused;
	for_each_set(check_int8_store);
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
		cmocka_unit_test(test_heads),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_unseen),
		cmocka_unit_test(test_page_end),
		cmocka_unit_test(test_extremes),
		cmocka_unit_test(test_broken),
		cmocka_unit_test(test_int8_store),
		cmocka_unit_test(test_kv_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
