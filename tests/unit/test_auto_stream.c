/* Method auto one block at a time: like the whole way, within its memory, and taken up again. */
#include "compress/auto_memory.h"
#include "compress/compress.h"
#include "compress/methods.h"
#include "tests/compute.h"
#include "tests/golden_file.h"
#include "tests/model_folder.h"
#include "tests/normal.h"
#include "tests/scratch.h"
#include "tests/tiny_pair.h"
#include "tests/told_bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define N_THREADS 2u
#define TINY "llama-gqa"

struct call {
	const struct tiny_pair *pair;
	struct method_options options;
	uint64_t memory; /* 0: so little that it is made by blocks */
	uint32_t n_threads;
	const struct compress_work *work;
	enum compress_measure measure;
};

static uint64_t little_memory(const struct tiny_pair *pair, uint32_t n_threads)
{
	return auto_stream_memory(checkpoint_config(pair->tuned), n_threads);
}

static int compressed(const struct call *c, struct compress_report *ret, struct reason *reason)
{
	uint32_t n_threads = c->n_threads ? c->n_threads : N_THREADS;
	const struct compress_settings settings = {
		.method = "auto",
		.options = c->options,
		.calibration_tokens = 1024,
		.window = 64,
		.n_threads = n_threads,
		.memory = c->memory ? c->memory : little_memory(c->pair, n_threads),
		.work = c->work,
		.measure = c->measure,
	};
	int fd = memfd_create("made", MFD_CLOEXEC);
	int r;

	assert_true(fd >= 0);
	r = compress_delta(c->pair->base, c->pair->tuned, &settings, fd, NULL, ret, reason);
	close(fd);
	return r;
}

static struct compress_report made(const struct call *c)
{
	struct compress_report report;
	struct reason reason = {0};

	if (compressed(c, &report, &reason) < 0)
		fail_msg("%s", reason.text);
	return report;
}

static bool is_by_blocks(const struct compress_report *r)
{
	const struct method_figure *f = told_figure(r, METHOD_FIGURE_MADE);

	return f && strcmp(f->word, METHOD_MADE_BY_BLOCKS) == 0;
}

static void test_the_way_depends_on_the_limit_alone(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair(TINY);
	const struct model_config *config = checkpoint_config(f.tuned);
	struct call c = {.pair = &f, .options.bits = 2, .measure = COMPRESS_MEASURE_NEVER};
	struct compress_report r;
	struct reason reason = {0};

	(void)state;
	assert_true(auto_memory(config, 2) > auto_stream_memory(config, 2));
	c.memory = auto_memory(config, N_THREADS);
	r = made(&c);
	assert_false(is_by_blocks(&r));
	c.memory--;
	r = made(&c);
	assert_true(is_by_blocks(&r));
	c.memory = auto_stream_memory(config, N_THREADS) - 1;
	assert_int_equal(compressed(&c, &r, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "memory"));
}

static void test_the_budget_is_kept_and_the_rest_is_told(void **state)
{
	static const double bits[] = {4, 1, .5};
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair(TINY);

	(void)state;
	for (size_t i = 0; i < array_len(bits); i++) {
		const struct call c = {.pair = &f, .options.bits = bits[i]};
		struct compress_report r = made(&c);
		double allowed = (double)r.projection_original_bytes * bits[i] / 16;
		double used = (double)r.projection_bytes;

		assert_true(used <= allowed);
		assert_true(used > .75 * allowed);
		assert_true(allowed - used == told_figure(&r, "unused_bytes")->value);
	}
}

static void test_it_is_about_as_good_as_the_whole_way(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair(TINY);
	struct call blocks = {.pair = &f}, whole = {.pair = &f, .memory = UINT64_MAX};

	(void)state;
	for (double bits = 1; bits <= 4; bits *= 2) {
		struct compress_report a, b;

		blocks.options.bits = whole.options.bits = bits;
		a = made(&blocks);
		b = made(&whole);
		assert_true(is_by_blocks(&a) && !is_by_blocks(&b));
		assert_true(a.kl < 1.25 * b.kl);
	}
}

static void test_threads_do_not_matter(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("qwen3");
	struct call c = {.pair = &f, .options.bits = 1, .n_threads = 1};
	struct compress_report one = made(&c), three;

	(void)state;
	c.n_threads = 3;
	three = made(&c);
	assert_memory_equal(&one.root, &three.root, sizeof(one.root));
}

static void test_other_goals_are_kept(void **state)
{
	static const char *const names[] = {TINY, "llama-mha-tied"};

	(void)state;
	for (size_t i = 0; i < array_len(names); i++) {
		_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair(names[i]);
		struct call c = {.pair = &f, .options.max_kl = .02};
		struct compress_report by_kl = made(&c), by_size;

		assert_true(is_by_blocks(&by_kl));
		assert_true(told_figure(&by_kl, "estimated_kl")->value <= .02);
		assert_true(told_figure(&by_kl, "estimated_kl")->value > .01);
		assert_null(told_figure(&by_kl, "unused_bytes"));
		c.options = (struct method_options){.file_ratio = 2.5};
		by_size = made(&c);
		assert_true(told_figure(&by_size, "unused_bytes")->value >= 0);
		assert_true((double)by_size.file_bytes <= (double)by_size.original_bytes / 2.5);
		assert_true(
			(double)by_size.file_bytes > .75 * (double)by_size.original_bytes / 2.5);
	}
}

static void test_training_is_refused(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair(TINY);
	struct call c = {.pair = &f, .options = {.train_steps_given = true, .train_steps = 5}};
	struct compress_report r;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(compressed(&c, &r, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "training"));
	c.options.train_steps = 0;
	assert_int_equal(compressed(&c, &r, &reason), 0);
}

static void test_a_share_is_refused(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair(TINY);
	struct call c = {.pair = &f, .options.keep = .9};
	struct compress_report r;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(compressed(&c, &r, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "keep"));
}

static void flip_byte(int fd, off_t at)
{
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

struct work_fixture {
	struct tiny_pair pair;
	struct call call;
	struct compress_work work;
	struct compress_report whole;
	uint32_t blocks_done;
	size_t n; /* bytes of a whole file of work */
	int fd;   /* it */
};

static void open_work(struct work_fixture *f)
{
	f->pair = tiny_pair(TINY);
	f->work = (struct compress_work){
		.fd = memfd_create("work", MFD_CLOEXEC),
		.resume = true,
		.blocks_done = &f->blocks_done,
	};
	f->call = (struct call){
		.pair = &f->pair,
		.options.bits = 2,
		.work = &f->work,
		.measure = COMPRESS_MEASURE_NEVER,
	};
	f->whole = made(&f->call);
	f->fd = f->work.fd;
	f->n = (size_t)lseek(f->fd, 0, SEEK_END);
	assert_int_equal(f->blocks_done, checkpoint_config(f->pair.tuned)->n_layers);
}

static void close_work(struct work_fixture *f)
{
	close(f->fd);
	tiny_pair_done(&f->pair);
}

/* With a copy of the file, of which only the first n bytes are there; returns blocks of menus that
 * were taken. */
static double go_on(struct work_fixture *f, size_t n, off_t wrong)
{
	struct compress_report r;

	f->work.fd = scratch_copy(f->fd, n);
	if (wrong >= 0)
		flip_byte(f->work.fd, wrong);
	r = made(&f->call);
	close(f->work.fd);
	assert_memory_equal(&r.root, &f->whole.root, sizeof(r.root));
	return told_figure(&r, "resumed_menus")->value;
}

static void test_a_file_that_ends_anywhere_is_gone_on_with(void **state)
{
	struct work_fixture f;
	double most = 0, least = 100;

	(void)state;
	open_work(&f);
	for (size_t part = 0; part <= 20; part++) {
		double resumed = go_on(&f, f.n * part / 20, -1);

		most = resumed > most ? resumed : most;
		least = resumed < least ? resumed : least;
	}
	assert_true(least == 0);
	assert_true(most == checkpoint_config(f.pair.tuned)->n_layers);
	close_work(&f);
}

static void test_wrong_bytes_are_found(void **state)
{
	struct work_fixture f;

	(void)state;
	open_work(&f);
	for (size_t part = 0; part < 12; part++) {
		go_on(&f, f.n, (off_t)(f.n * part / 12));
		/* Of work that is under way: its inputs and gradients are needed again. */
		go_on(&f, f.n * 3 / 4, (off_t)(f.n * 3 / 4 * part / 12));
	}
	close_work(&f);
}

static void test_work_of_another_command_is_not_taken(void **state)
{
	struct work_fixture f;
	struct compress_report r;

	(void)state;
	open_work(&f);
	f.work.command.bytes[0] ^= 1;
	r = made(&f.call);
	assert_true(told_figure(&r, "resumed_menus")->value == 0);
	assert_true(r.began_anew);
	assert_memory_equal(&r.root, &f.whole.root, sizeof(r.root));
	r = made(&f.call);
	assert_false(r.began_anew);
	f.work.command.bytes[0] ^= 1;
	f.work.resume = false;
	r = made(&f.call);
	assert_int_equal(r.n_resumed, 0);
	assert_false(r.began_anew);
	close_work(&f);
}

/* A tiny model whose tensors are GROWTH times as large every way, the vocabulary but. */
#define GROWTH 7u

static void grow_tensor(struct folder_tensor *t, uint64_t vocab, uint64_t seed)
{
	uint64_t n = 1;

	for (uint32_t d = 0; d < t->n_dims; d++) {
		t->shape[d] *= t->shape[d] == vocab ? 1 : GROWTH;
		n *= t->shape[d];
	}
	free(t->values);
	t->values = malloc(n * sizeof(*t->values));
	assert_non_null(t->values);
	for (uint64_t i = 0; i < n; i++)
		t->values[i] = t->n_dims == 1 ? 1 : (float)(.03 * normal_next(&seed));
}

static void grow_config(json_t *config)
{
	static const char *const keys[] = {"hidden_size", "intermediate_size", "head_dim"};

	for (size_t i = 0; i < array_len(keys); i++)
		json_object_set_new(config, keys[i],
			json_integer(
				GROWTH * json_integer_value(json_object_get(config, keys[i]))));
}

/* Folder/base and folder/tuned. */
static struct tiny_pair grown_pair(const char *folder)
{
	struct tiny_pair pair;
	struct checkpoint **const opened[] = {&pair.base, &pair.tuned};
	char source[128];

	for (size_t k = 0; k < 2; k++) {
		_cleanup_(freep) char *path = scratch_path(folder, k ? "tuned" : "base");
		struct model_folder f;
		struct reason reason = {0};
		uint64_t vocab;

		model_folder_read(&f, tiny_folder(TINY, source));
		vocab = (uint64_t)json_integer_value(json_object_get(f.config, "vocab_size"));
		grow_config(f.config);
		for (size_t i = 0; i < f.n_tensors; i++) {
			struct folder_tensor *t = &f.tensors[i];
			uint64_t seed = 1000 + i;

			grow_tensor(t, vocab, i);
			for (uint64_t n = 0; k && t->n_dims == 2 && n < folder_tensor_count(t); n++)
				t->values[n] += (float)(.002 * normal_next(&seed));
		}
		model_folder_write(&f, path, 1);
		model_folder_done(&f);
		if (checkpoint_open(path, opened[k], &reason) < 0)
			fail_msg("%s", reason.text);
	}
	return pair;
}

/* A line of /proc/self/status, in bytes. */
static uint64_t status_bytes(const char *name)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long long kilobytes = 0;
	char line[256];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, name, strlen(name)) == 0)
			assert_int_equal(sscanf(line + strlen(name), ": %llu", &kilobytes), 1);
	fclose(f);
	return kilobytes << 10;
}

static void forget_peak(void)
{
	FILE *f = fopen("/proc/self/clear_refs", "we");

	assert_non_null(f);
	assert_true(fputs("5", f) >= 0);
	assert_int_equal(fclose(f), 0);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

/* What it takes in truth, against what was planned: not more, and not so little that a model is
 * refused that would fit. */
static void check_memory(void)
{
	_cleanup_(freep) char *folder = scratch_folder();
	_cleanup_(tiny_pair_done) struct tiny_pair f = grown_pair(folder);
	struct call c = {.pair = &f, .options.bits = 1, .measure = COMPRESS_MEASURE_NEVER};
	uint64_t planned = little_memory(&f, N_THREADS), before, taken;
	struct compress_report r;

	before = status_bytes("VmRSS");
	forget_peak();
	r = made(&c);
	taken = status_bytes("VmHWM") - before;
	assert_true(is_by_blocks(&r));
	print_message("planned %.1f MB, taken %.1f MB; at once %.1f MB\n", (double)planned / 1e6,
		(double)taken / 1e6,
		(double)auto_memory(checkpoint_config(f.tuned), N_THREADS) / 1e6);
	assert_true(taken <= planned);
	assert_true(taken > planned / 3);
	scratch_remove(folder);
}

static void test_the_memory_that_is_planned_is_enough(void **unused)
{
	(void)unused;
	if (SANITIZED) {
		print_message("skipped: a sanitizer takes memory of its own\n");
		skip();
	}
	check_memory();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_memory_that_is_planned_is_enough),
		cmocka_unit_test(test_the_way_depends_on_the_limit_alone),
		cmocka_unit_test(test_the_budget_is_kept_and_the_rest_is_told),
		cmocka_unit_test(test_it_is_about_as_good_as_the_whole_way),
		cmocka_unit_test(test_threads_do_not_matter),
		cmocka_unit_test(test_other_goals_are_kept),
		cmocka_unit_test(test_training_is_refused),
		cmocka_unit_test(test_a_share_is_refused),
		cmocka_unit_test(test_a_file_that_ends_anywhere_is_gone_on_with),
		cmocka_unit_test(test_wrong_bytes_are_found),
		cmocka_unit_test(test_work_of_another_command_is_not_taken),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
