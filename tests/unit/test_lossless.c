/*
 * Folder, lossless delta, folder: whatever numbers a fine-tune holds, merging gives the bytes of
 * its tensors back; what is no number is refused by name. (The codec itself takes every bit
 * pattern: test_bf16_stream.)
 */
#include "common/file.h"
#include "common/random.h"
#include "compress/compress.h"
#include "compress/delta_file.h"
#include "compress/merge.h"
#include "foreign/safetensors.h"
#include "store/base.h"
#include "tests/compute.h"
#include "tests/golden_file.h"
#include "tests/scratch.h"
#include "tests/tiny_pair.h"
#include "tests/worded_pair.h"

#include <fcntl.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "llama-gqa"

/* Zeros, denormals, the smallest that is none, one and its neighbours. */
static const uint16_t hostile[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x807f, 0x0080, 0x8080,
	0x3f80, 0x3f7f, 0x3f81, 0xbf80};
/* Infinities, NaNs quiet and not. */
static const uint16_t no_numbers[] = {0x7f80, 0xff80, 0x7f81, 0xff81, 0x7fc0, 0x7fa5, 0xffff};

static void put_hostile(uint16_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		words[i] = hostile[i % array_len(hostile)];
}

/* Any below 2. */
static void put_random(uint16_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		words[i] = (uint16_t)(random_at(5, i) & 0xbfff);
}

static void put_equal(uint16_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		words[i] = 0x3c01;
}

/* Nothing but signs of zeros differ from what was there. */
static void put_signs(uint16_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		words[i] = i % 3 ? words[i] : 0x8000;
}

static void put_largest(uint16_t *words, size_t n)
{
	words[n / 2] = 0x5f80;
	words[n / 3] = 0xdf80;
}

static const struct change {
	const char *tensor;
	void (*put)(uint16_t *words, size_t n);
} changes[] = {
	{"model.layers.0.self_attn.q_proj.weight", put_hostile},
	{"model.layers.0.self_attn.o_proj.weight", put_largest},
	{"model.layers.0.mlp.up_proj.weight", put_random},
	{"model.layers.1.self_attn.v_proj.weight", put_equal},
	{"model.layers.1.mlp.down_proj.weight", put_signs},
	{"model.embed_tokens.weight", put_hostile},
};

static const struct compress_settings settings = {
	.method = "lossless",
	.calibration_tokens = 128,
	.window = 32,
	.n_threads = 2,
	.measure = COMPRESS_MEASURE_NEVER,
};

/* A tensor of a folder as it stands; malloc'ed. */
static uint16_t *read_words(const struct safetensors *s, const char *name, size_t *ret_n)
{
	const struct safetensors_tensor *t = safetensors_find(s, name);
	struct reason reason = {0};
	uint16_t *words;

	assert_non_null(t);
	words = malloc(t->bytes + 1);
	assert_non_null(words);
	if (safetensors_read(s, t, 0, words, t->bytes, &reason) < 0)
		fail_msg("%s: %s", name, reason.text);
	*ret_n = t->bytes / sizeof(*words);
	return words;
}

static void copy_file(const char *from_folder, const char *to_folder, const char *name)
{
	_cleanup_(freep) char *from = scratch_path(from_folder, name);
	_cleanup_(freep) char *bytes = NULL;
	struct reason reason = {0};
	size_t n;

	if (file_load(from, 1 << 24, &bytes, &n, &reason) < 0)
		fail_msg("%s", reason.text);
	free(scratch_write(to_folder, name, bytes, n));
}

/* The tiny model in `folder`, with other words in it. */
static void make_hostile(const char *folder)
{
	_cleanup_(freep) char *path = scratch_path(folder, "model.safetensors");
	struct reason reason = {0};
	struct safetensors *s;
	char source[128];
	int fd;

	tiny_folder(MODEL, source);
	copy_file(source, folder, "config.json");
	copy_file(source, folder, "model.safetensors");
	assert_int_equal(safetensors_open(path, &s, &reason), 0);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	for (const struct change *c = changes; c < changes + array_len(changes); c++) {
		const struct safetensors_tensor *t = safetensors_find(s, c->tensor);
		size_t n;
		_cleanup_(freep) uint16_t *words = read_words(s, c->tensor, &n);

		c->put(words, n);
		assert_int_equal(file_write_at(fd, words, t->bytes, t->offset), 0);
	}
	close(fd);
	safetensors_free(s);
}

static int compress_with(struct checkpoint *base, struct checkpoint *tuned, const char *method)
{
	struct compress_settings with = settings;
	struct compress_report report;
	struct reason reason = {0};
	int fd = memfd_create("delta", MFD_CLOEXEC);

	with.method = method;
	assert_true(fd >= 0);
	if (compress_delta(base, tuned, &with, fd, NULL, &report, &reason) < 0)
		fail_msg("%s: %s", method, reason.text);
	return fd;
}

static void expect_same_tensors(const char *folder, const char *other)
{
	struct safetensors *left, *right;
	struct reason reason = {0};

	assert_int_equal(safetensors_open_folder(folder, &left, &reason), 0);
	assert_int_equal(safetensors_open_folder(other, &right, &reason), 0);
	assert_int_equal(safetensors_n_tensors(left), safetensors_n_tensors(right));
	for (size_t i = 0; i < safetensors_n_tensors(left); i++) {
		const char *name = safetensors_at(left, i)->name;
		size_t n, n_other;
		_cleanup_(freep) uint16_t *words = read_words(left, name, &n);
		_cleanup_(freep) uint16_t *others = read_words(right, name, &n_other);

		assert_int_equal(n, n_other);
		if (memcmp(words, others, n * sizeof(*words)) != 0)
			fail_msg("%s did not come back", name);
	}
	safetensors_free(left);
	safetensors_free(right);
}

static void check_round_trip(const char *method, const char *folder)
{
	char *merged = scratch_folder();
	struct checkpoint *base = tiny_open(MODEL), *tuned;
	struct merge_job job = {.base = base, .folder = merged};
	struct merge_report report;
	struct reason reason = {0};
	struct image *image;
	int fd;

	if (checkpoint_open(folder, &tuned, &reason) < 0)
		fail_msg("%s", reason.text);
	fd = compress_with(base, tuned, method);
	assert_int_equal(image_load(fd, &image, NULL, &reason), 0);
	job.delta = image;
	if (merge_folder(&job, NULL, &report, &reason) < 0)
		fail_msg("%s", reason.text);
	expect_same_tensors(folder, merged);
	image_free(image);
	close(fd);
	checkpoint_free(base);
	checkpoint_free(tuned);
	scratch_remove(merged);
	free(merged);
}

static void test_hostile_words_come_back(void **state)
{
	char *folder = scratch_folder();

	(void)state;
	make_hostile(folder);
	check_round_trip("lossless", folder);
	check_round_trip("dense", folder);
	scratch_remove(folder);
	free(folder);
}

static void test_no_numbers_are_refused(void **state)
{
	const char *name = "model.layers.1.mlp.gate_proj.weight";
	char *folder = scratch_folder();
	_cleanup_(freep) char *path = scratch_path(folder, "model.safetensors");
	struct checkpoint *base = tiny_open(MODEL), *tuned;
	struct reason reason = {0};
	struct safetensors *s;

	(void)state;
	make_hostile(folder);
	assert_int_equal(safetensors_open(path, &s, &reason), 0);
	for (size_t i = 0; i < array_len(no_numbers); i++) {
		uint64_t at = safetensors_find(s, name)->offset;
		struct compress_report report;
		int out = open(path, O_WRONLY | O_CLOEXEC), fd;

		assert_true(out >= 0);
		assert_int_equal(file_write_at(out, &no_numbers[i], 2, at), 0);
		close(out);
		assert_int_equal(checkpoint_open(folder, &tuned, &reason), 0);
		fd = memfd_create("delta", MFD_CLOEXEC);
		assert_int_equal(compress_delta(base, tuned, &settings, fd, NULL, &report, &reason),
			-EBADMSG);
		assert_non_null(strstr(reason.text, name));
		close(fd);
		checkpoint_free(tuned);
	}
	safetensors_free(s);
	checkpoint_free(base);
	scratch_remove(folder);
	free(folder);
}

static void test_a_fine_tune_comes_back(void **state)
{
	char folder[128];

	(void)state;
	check_round_trip("lossless", tiny_folder(MODEL "-ft", folder));
}

/* All rows of a matrix as a stream, told from the base's. */
static void add_coded_rows(
	struct delta_file *f, struct worded_pair *p, enum tensor_role role, uint32_t layer)
{
	struct part_place place = {.role = role, .layer = layer};
	uint32_t base_rows, cols;
	_cleanup_(freep) uint16_t *base = NULL;
	_cleanup_(freep) uint16_t *values = NULL;
	struct new_rows rows;
	struct reason reason = {0};
	struct part part;

	assert_true(model_config_shape(checkpoint_config(p->base), role, layer, &base_rows, &cols));
	assert_true(model_config_shape(
		checkpoint_config(p->tuned), role, layer, &place.rows, &place.cols));
	assert_true(place.rows > base_rows);
	base = malloc((size_t)base_rows * cols * sizeof(*base));
	values = malloc((size_t)place.rows * cols * sizeof(*values));
	assert_int_equal(checkpoint_read_bf16(p->base, role, layer, base, NULL, &reason), 0);
	assert_int_equal(checkpoint_read_bf16(p->tuned, role, layer, values, NULL, &reason), 0);
	rows = (struct new_rows){
		.n = place.rows, .values = values, .base = base, .base_rows = base_rows};
	assert_int_equal(part_rows(&place, &rows, &part), 0);
	assert_int_equal(delta_file_add(f, &part), 0);
}

static struct image *coded_outer_image(struct worded_pair *p)
{
	struct digest base, tuned = digest_of("tuned", 5);
	const struct delta_file_parts parts = {
		.config = checkpoint_config(p->tuned),
		.base = &base,
		.tuned = &tuned,
	};
	struct reason reason = {0};
	struct format_header header;
	struct delta_file *f;
	struct image *image;
	int fd = memfd_create("delta", MFD_CLOEXEC);

	assert_int_equal(checkpoint_digest(p->base, NULL, &base, &reason), 0);
	assert_int_equal(delta_file_new(&f), 0);
	add_coded_rows(f, p, ROLE_EMBED, 0);
	add_coded_rows(f, p, ROLE_HEAD, parts.config->n_layers - 1);
	if (delta_file_write(f, &parts, fd, &header, &reason) < 0 ||
		image_load(fd, &image, NULL, &reason) < 0)
		fail_msg("%s", reason.text);
	delta_file_free(f);
	close(fd);
	return image;
}

static void expect_same_tensor(const char *folder, const char *other, const char *name)
{
	struct safetensors *left, *right;
	struct reason reason = {0};
	size_t n, n_other;
	uint16_t *words, *others;

	assert_int_equal(safetensors_open_folder(folder, &left, &reason), 0);
	assert_int_equal(safetensors_open_folder(other, &right, &reason), 0);
	words = read_words(left, name, &n);
	others = read_words(right, name, &n_other);
	assert_int_equal(n, n_other);
	assert_memory_equal(words, others, n * sizeof(*words));
	free(words);
	free(others);
	safetensors_free(left);
	safetensors_free(right);
}

/* Rows that the base does not have are told from zeros, whatever the memory held before. */
static void test_coded_tokens_come_back(void **state)
{
	struct worded_pair *p = worded_pair_new(true);
	struct image *image = coded_outer_image(p);
	char *merged = scratch_folder();
	const struct merge_job job = {.base = p->base, .delta = image, .folder = merged};
	struct merge_report report;
	struct reason reason = {0};

	(void)state;
	mallopt(M_PERTURB, 0xa5);
	if (merge_folder(&job, NULL, &report, &reason) < 0)
		fail_msg("%s", reason.text);
	mallopt(M_PERTURB, 0);
	expect_same_tensor(checkpoint_folder(p->tuned), merged, "model.embed_tokens.weight");
	expect_same_tensor(checkpoint_folder(p->tuned), merged, "lm_head.weight");
	image_free(image);
	worded_pair_free(p);
	scratch_remove(merged);
	free(merged);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hostile_words_come_back),
		cmocka_unit_test(test_no_numbers_are_refused),
		cmocka_unit_test(test_a_fine_tune_comes_back),
		cmocka_unit_test(test_coded_tokens_come_back),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
