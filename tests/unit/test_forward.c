/*
 * What the golden tests cannot show: frequencies of all kinds of rotation, and logits that are the
 * same to the last bit whatever the chunks, the company, the threads.
 */
#include "engine/forward.h"
#include "compress/delta_file.h"
#include "engine/variant.h"
#include "tests/imported_base.h"
#include "tests/model_folder.h"
#include "tests/random_delta.h"
#include "tests/scratch.h"
#include "tests/emulated/select.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define N_PROMPT 75u
#define MAX_ROWS 80u
#define N_LONG 1200u /* not all in one part of attention */

static struct base *base;
static struct delta *delta;

static int open_models(void **state)
{
	(void)state;
	base = imported_base("tests/golden/data/tiny/mistral-window");
	delta = random_delta(base, 4, 1);
	return 0;
}

static int close_models(void **state)
{
	(void)state;
	delta_free(delta);
	base_free(base);
	return 0;
}

struct rotation_case {
	struct model_config config;
	double frequencies[8];
};

/* Computed by a transcription of the formulas of Hugging Face transformers into another language.
 */
static const struct rotation_case rotations[] = {
	{{.rope_kind = ROPE_KIND_DEFAULT, .rope_theta = 10000},
		{1, 0.31622776601683794, 0.1, 0.031622776601683791, 0.01, 0.003162277660168379,
			0.001, 0.00031622776601683794}},
	{{.rope_kind = ROPE_KIND_LINEAR, .rope_theta = 10000, .rope_factor = 4},
		{0.25, 0.079056941504209485, 0.025, 0.0079056941504209478, 0.0025,
			0.00079056941504209474, 0.00025, 7.9056941504209485e-05}},
	{{.rope_kind = ROPE_KIND_LLAMA3,
		 .rope_theta = 500000,
		 .rope_factor = 8,
		 .rope_low_freq_factor = 1,
		 .rope_high_freq_factor = 4,
		 .rope_original_positions = 64},
		{1, 0.0794030091792082, 0.0047007538663579916, 0.00091158309215213856,
			0.00017677669529663688, 3.4281021959525912e-05, 6.6478698711812362e-06,
			1.2891731721515574e-06}},
	{{.rope_kind = ROPE_KIND_LLAMA3,
		 .rope_theta = 500000,
		 .rope_factor = 8,
		 .rope_low_freq_factor = 1,
		 .rope_high_freq_factor = 4,
		 .rope_original_positions = 8192},
		{1, 0.19392274474868576, 0.037606030930863933, 0.0072926647372171085,
			0.00052484616099295468, 3.4281021959525912e-05, 6.6478698711812362e-06,
			1.2891731721515574e-06}},
	{{.rope_kind = ROPE_KIND_YARN,
		 .rope_theta = 10000,
		 .rope_factor = 4,
		 .rope_beta_fast = 32,
		 .rope_beta_slow = 1,
		 .rope_attention_factor = 1.25f,
		 .rope_original_positions = 2048},
		{1, 0.31622776601683794, 0.1, 0.02569350598886808, 0.00625, 0.0013834964763236657,
			0.00025, 7.9056941504209485e-05}},
};

static void test_rotations(void **state)
{
	static const uint32_t positions[] = {0, 1, 77, 100000};

	(void)state;
	for (size_t i = 0; i < array_len(rotations); i++) {
		struct base only_config = {.config = rotations[i].config};
		struct kernels kernels;
		struct model *model;
		float scale = i + 1 == array_len(rotations) ? 1.25f : 1;

		only_config.config.head_dim = 16;
		assert_int_equal(kernels_select(&kernels, "ref", NULL), 0);
		assert_int_equal(model_new(&only_config, &kernels, &model, NULL), 0);
		for (size_t p = 0; p < array_len(positions); p++) {
			float cosines[8], sines[8];

			model_rotation(model, positions[p], cosines, sines);
			for (size_t j = 0; j < 8; j++) {
				double angle = positions[p] * rotations[i].frequencies[j];

				assert_true(fabs(cosines[j] - scale * cos(angle)) < 1e-6);
				assert_true(fabs(sines[j] - scale * sin(angle)) < 1e-6);
			}
		}
		model_free(model);
	}
}

struct fixture {
	struct kernels kernels;
	struct model *model;
	struct variant *plain, *tuned;
	struct pool *pool;
	struct kv_pool *kv;
	struct kv_seq *seq, *other;
	struct forward *forward;
};

static void fixture_open(struct fixture *f, const char *set, size_t n_threads, enum kv_type type)
{
	assert_int_equal(select_or_emulate(&f->kernels, set, NULL), 0);
	assert_int_equal(pool_new(n_threads, &f->pool, NULL), 0);
	assert_int_equal(model_new(base, &f->kernels, &f->model, NULL), 0);
	assert_int_equal(variant_new(f->model, NULL, &f->plain, NULL), 0);
	assert_int_equal(variant_new(f->model, delta, &f->tuned, NULL), 0);
	assert_int_equal(forward_new(f->model, f->pool, MAX_ROWS, &f->forward, NULL), 0);
	assert_int_equal(kv_pool_new(&base->config, type, 8 * kv_page_bytes(&base->config, type),
				 &f->kv, NULL),
		0);
	assert_int_equal(kv_seq_new(f->kv, 1, &f->other), 0);
	assert_int_equal(kv_seq_new(f->kv, N_PROMPT, &f->seq), 0);
}

static void fixture_close(struct fixture *f)
{
	kv_seq_free(f->seq);
	kv_seq_free(f->other);
	kv_pool_free(f->kv);
	forward_free(f->forward);
	variant_free(f->plain);
	variant_free(f->tuned);
	model_free(f->model);
	pool_free(f->pool);
}

static uint32_t prompt_token(uint32_t position)
{
	return (position * 89 + 3) % base->config.vocab;
}

static struct batch_row row_of(struct fixture *f, uint32_t position)
{
	return (struct batch_row){
		.variant = f->tuned,
		.seq = f->seq,
		.token = prompt_token(position),
		.position = position,
		.want_logits = position + 1 == N_PROMPT,
	};
}

/* Logits after the prompt, which is pushed in chunks; with `company`, a row of the base goes before
 * each chunk. */
static void run_prompt(struct fixture *f, uint32_t chunk, bool company, float *ret)
{
	struct batch_row rows[MAX_ROWS];
	size_t n = 0;

	for (uint32_t at = 0; at < N_PROMPT; at += chunk) {
		n = 0;
		if (company)
			rows[n++] = (struct batch_row){.variant = f->plain,
				.seq = f->other,
				.token = at,
				.want_logits = true};
		for (uint32_t i = at; i < at + chunk && i < N_PROMPT; i++)
			rows[n++] = row_of(f, i);
		forward_step(f->forward, rows, n);
	}
	memcpy(ret, forward_logits(f->forward, n - 1), f->tuned->config.vocab * sizeof(*ret));
}

static void test_same_bits(void **state)
{
	static const char *const sets[] = {"ref", "avx2", "avx512", "amx"};
	static const uint32_t chunks[] = {1, 2, 7, 33, N_PROMPT};
	uint32_t vocab = base->config.vocab + 1;
	struct kernels probe;

	(void)state;
	for (size_t s = 0; s < array_len(sets); s++) {
		float expected[1024], got[1024];

		assert_true(vocab <= array_len(got));
		if (s > 0 && select_or_emulate(&probe, sets[s], NULL) == -EOPNOTSUPP)
			continue;
		for (size_t i = 0; i < 4 * array_len(chunks); i++) {
			struct fixture f;

			fixture_open(&f, sets[s], 1 + i / 10 * 2, (enum kv_type)(s % 3));
			run_prompt(&f, chunks[i % array_len(chunks)], i / 5 % 2, got);
			if (i == 0)
				memcpy(expected, got, sizeof(got));
			if (memcmp(expected, got, vocab * sizeof(*got)) != 0)
				fail_msg("%s: other logits in case %zu", sets[s], i);
			fixture_close(&f);
		}
	}
}

/* Contexts of several parts, which several threads share at the end, in blocks of rows before. */
static void check_long(enum kv_type type, uint32_t window)
{
	static const uint32_t chunks[] = {1, 37, 80};
	float expected[1024], got[1024];
	uint32_t old_window = base->config.sliding_window;

	base->config.sliding_window = window;
	for (size_t i = 0; i < 2 * array_len(chunks); i++) {
		const uint32_t chunk = chunks[i % array_len(chunks)];
		struct batch_row rows[MAX_ROWS];
		struct kv_seq *seq;
		struct kv_pool *kv;
		struct fixture f;

		fixture_open(&f, NULL, i < array_len(chunks) ? 1 : 3, type);
		assert_int_equal(kv_pool_new(&base->config, type,
					 40 * kv_page_bytes(&base->config, type), &kv, NULL),
			0);
		assert_int_equal(kv_seq_new(kv, N_LONG, &seq), 0);
		for (uint32_t at = 0, n; at < N_LONG; at += n) {
			/* The last one alone. */
			n = (uint32_t)min_u64(chunk, at + 1 < N_LONG ? N_LONG - 1 - at : 1);
			for (uint32_t r = 0; r < n; r++) {
				rows[r] = row_of(&f, at + r);
				rows[r].seq = seq;
				rows[r].want_logits = at + 1 == N_LONG;
			}
			forward_step(f.forward, rows, n);
		}
		memcpy(got, forward_logits(f.forward, 0), f.tuned->config.vocab * sizeof(*got));
		if (i == 0)
			memcpy(expected, got, sizeof(got));
		assert_memory_equal(expected, got, f.tuned->config.vocab * sizeof(*got));
		kv_seq_free(seq);
		kv_pool_free(kv);
		fixture_close(&f);
	}
	base->config.sliding_window = old_window;
}

static void test_long(void **state)
{
	uint32_t old_positions = base->config.max_positions;

	(void)state;
	base->config.max_positions = N_LONG;
	check_long(KV_TYPE_BF16, 0);
	check_long(KV_TYPE_INT8, 700);
	base->config.max_positions = old_positions;
}

/* Rounding keys and values moves logits a little, and not more. */
static void check_rounded(enum kv_type type, float most)
{
	float exact[1024], rounded[1024], largest = 0, worst = 0;
	struct fixture f;

	fixture_open(&f, NULL, 1, KV_TYPE_F32);
	run_prompt(&f, N_PROMPT, false, exact);
	fixture_close(&f);
	fixture_open(&f, NULL, 1, type);
	run_prompt(&f, N_PROMPT, false, rounded);
	for (uint32_t i = 0; i < f.tuned->config.vocab; i++) {
		largest = fmaxf(largest, fabsf(exact[i]));
		worst = fmaxf(worst, fabsf(exact[i] - rounded[i]));
	}
	fixture_close(&f);
	assert_true(worst > 0);
	assert_true(worst < most * largest);
}

static void test_rounded_kv(void **state)
{
	(void)state;
	check_rounded(KV_TYPE_BF16, 0.02f);
	check_rounded(KV_TYPE_INT8, 0.04f);
}

/* A base with an own head whose layers all have far fewer rows than it has columns. */
static struct base *thin_base(void)
{
	static const struct {
		const char *name;
		size_t dimension;
	} narrowed[] = {{"self_attn.q_proj", 0}, {"self_attn.k_proj", 0}, {"self_attn.v_proj", 0},
		{"self_attn.o_proj", 1}, {"mlp.gate_proj", 0}, {"mlp.up_proj", 0},
		{"mlp.down_proj", 1}};
	char *parent = scratch_folder(), *folder = scratch_path(parent, "thin");
	struct model_folder f;
	struct base *ret;

	model_folder_read(&f, "tests/golden/data/tiny/llama-gqa");
	json_object_set_new(f.config, "num_attention_heads", json_integer(1));
	json_object_set_new(f.config, "num_key_value_heads", json_integer(1));
	json_object_set_new(f.config, "intermediate_size", json_integer(16));
	for (size_t t = 0; t < f.n_tensors; t++)
		for (size_t i = 0; i < array_len(narrowed); i++)
			if (strstr(f.tensors[t].name, narrowed[i].name))
				f.tensors[t].shape[narrowed[i].dimension] = 16;
	model_folder_write(&f, folder, 1);
	model_folder_done(&f);
	ret = imported_base(folder);
	scratch_remove(parent);
	free(folder);
	free(parent);
	return ret;
}

/* Nothing but factors of full rank for the head. */
static struct delta *head_delta(const struct base *thin)
{
	const struct model_config *c = &thin->config;
	const struct part_place place = {
		.role = ROLE_HEAD, .layer = c->n_layers - 1, .rows = c->vocab, .cols = c->hidden};
	const struct delta_file_parts parts = {
		.config = c, .base = base_served_digest(thin), .tuned = base_served_digest(thin)};
	size_t n = c->hidden * (size_t)(c->vocab + c->hidden + 1);
	float *numbers = malloc(n * sizeof(*numbers));
	const struct plain_factors factors = {c->hidden, numbers,
		numbers + (size_t)c->hidden * c->hidden, numbers + n - c->hidden};
	int fd = memfd_create("head", MFD_CLOEXEC);
	struct format_header header;
	struct reason reason = {0};
	struct image *image = NULL;
	struct delta *ret = NULL;
	struct delta_file *file;
	uint32_t seed = 1;
	struct part part;

	assert_non_null(numbers);
	for (size_t i = 0; i < n; i++)
		numbers[i] = random_float(&seed);
	assert_int_equal(delta_file_new(&file), 0);
	assert_int_equal(part_factors_plain(&place, &factors, 32, &part), 0);
	assert_int_equal(delta_file_add(file, &part), 0);
	assert_int_equal(delta_file_write(file, &parts, fd, &header, NULL), 0);
	if (image_load(fd, &image, NULL, &reason) < 0 || delta_bind(image, thin, &ret, &reason) < 0)
		fail_msg("%s", reason.text);
	delta_file_free(file);
	close(fd);
	free(numbers);
	return ret;
}

/* Rows do not meet in scratch that is too small for the head. */
static void test_head_of_full_rank(void **state)
{
	static float together[8][320], alone[320];
	struct base *old_base = base;
	struct delta *old_delta = delta;
	struct batch_row rows[8];
	struct fixture f;

	(void)state;
	base = thin_base();
	delta = head_delta(base);
	assert_int_equal(base->config.vocab, array_len(alone));
	fixture_open(&f, NULL, 1, KV_TYPE_F32);
	for (uint32_t i = 0; i < array_len(rows); i++) {
		rows[i] = row_of(&f, i);
		rows[i].want_logits = true;
	}
	forward_step(f.forward, rows, array_len(rows));
	for (size_t i = 0; i < array_len(rows); i++)
		memcpy(together[i], forward_logits(f.forward, i), sizeof(alone));
	for (size_t i = 0; i < array_len(rows); i++) {
		forward_step(f.forward, &rows[i], 1);
		memcpy(alone, forward_logits(f.forward, 0), sizeof(alone));
		assert_memory_equal(alone, together[i], sizeof(alone));
	}
	fixture_close(&f);
	delta_free(delta);
	base_free(base);
	base = old_base;
	delta = old_delta;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 0
#else
#define COUNTS_ALLOCATIONS 1

/* The C library's own, under the names that it offers for this. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);

static size_t n_allocations;

void *malloc(size_t n)
{
	__atomic_fetch_add(&n_allocations, 1, __ATOMIC_RELAXED);
	return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	__atomic_fetch_add(&n_allocations, 1, __ATOMIC_RELAXED);
	return __libc_calloc(n, size);
}
#endif

static void test_no_allocation(void **state)
{
	(void)state;
#if COUNTS_ALLOCATIONS
	struct fixture f;
	float logits[1024];
	size_t before = n_allocations;

	fixture_open(&f, NULL, 2, KV_TYPE_F32);
	assert_true(n_allocations > before);
	before = n_allocations;
	run_prompt(&f, 16, true, logits);
	assert_int_equal(n_allocations, before);
	fixture_close(&f);
#else
	skip();
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rotations),
		cmocka_unit_test(test_same_bits),
		cmocka_unit_test(test_long),
		cmocka_unit_test(test_rounded_kv),
		cmocka_unit_test(test_head_of_full_rank),
		cmocka_unit_test(test_no_allocation),
	};

	return cmocka_run_group_tests(tests, open_models, close_models);
}
