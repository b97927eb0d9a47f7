/*
 * Base and delta merged into a folder: every number against the delta's own definition in double.
 */
#include "compress/compress.h"
#include "compress/merge.h"
#include "kernels/convert.h"
#include "kernels/pack.h"
#include "store/delta.h"
#include "tests/dense_delta.h"
#include "tests/model_folder.h"
#include "tests/scratch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define BASE "tests/golden/data/tiny/llama-gqa"
#define TUNED BASE "-ft"

struct fixture {
	char *scratch, *base_folder, *tuned_folder, *merged_folder;
	struct checkpoint *base, *tuned, *merged;
	struct image *image;
	struct delta *delta;
	struct merge_report report;
};

static void expect_ok(int r, const struct reason *reason)
{
	if (r < 0)
		fail_msg("%d: %s", r, reason->text);
}

static void compress_pair(struct fixture *f)
{
	const struct compress_settings settings = {
		.method = "delta-come",
		.options.ratio = 4,
		.calibration_tokens = 512,
		.window = 64,
		.n_threads = 1,
	};
	struct compress_report report;
	struct reason reason = {0};
	int fd = memfd_create("delta", MFD_CLOEXEC);

	expect_ok(
		compress_delta(f->base, f->tuned, &settings, fd, NULL, &report, &reason), &reason);
	expect_ok(image_load(fd, &f->image, NULL, &reason), &reason);
	close(fd);
}

static int merge(struct fixture *f, struct checkpoint *base, struct reason *reason)
{
	struct merge_job job = {
		.base = base,
		.delta = f->image,
		.folder = f->merged_folder,
	};

	return merge_folder(&job, NULL, &f->report, reason);
}

static void open_all(struct fixture *f)
{
	struct reason reason = {0};

	expect_ok(checkpoint_open(f->base_folder, &f->base, &reason), &reason);
	expect_ok(checkpoint_open(f->tuned_folder, &f->tuned, &reason), &reason);
	compress_pair(f);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->scratch = scratch_folder();
	f->base_folder = scratch_path(f->scratch, "base");
	f->tuned_folder = scratch_path(f->scratch, "tuned");
	f->merged_folder = scratch_path(f->scratch, "merged");
	*state = f;
	return mkdir(f->merged_folder, 0700);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	if (f->delta)
		delta_free(f->delta);
	else
		image_free(f->image);
	checkpoint_free(f->base);
	checkpoint_free(f->tuned);
	checkpoint_free(f->merged);
	scratch_remove(f->scratch);
	free(f->scratch);
	free(f->base_folder);
	free(f->tuned_folder);
	free(f->merged_folder);
	free(f);
	return 0;
}

static void write_models(struct fixture *f, bool fuse, size_t n_shards)
{
	const char *const sources[] = {BASE, TUNED};
	const char *const folders[] = {f->base_folder, f->tuned_folder};

	for (size_t i = 0; i < 2; i++) {
		struct model_folder model = {0};

		model_folder_read(&model, sources[i]);
		if (fuse)
			model_folder_fuse(&model);
		if (i == 1) {
			json_object_set_new(model.config, "eos_token_id", json_pack("[i,i]", 5, 2));
			json_object_set_new(model.config, "bos_token_id", json_null());
		}
		model_folder_write(&model, folders[i], n_shards);
		model_folder_done(&model);
	}
}

static const struct linear_delta *projection_delta(
	const struct delta *d, enum tensor_role role, uint32_t layer)
{
	const struct delta_layer *l = &d->layers[layer];

	switch ((int)role) {
	case ROLE_Q:
		return &l->q;
	case ROLE_K:
		return &l->k;
	case ROLE_V:
		return &l->v;
	case ROLE_O:
		return &l->o;
	case ROLE_GATE:
		return &l->gate;
	case ROLE_UP:
		return &l->up;
	case ROLE_DOWN:
		return &l->down;
	}
	return NULL;
}

static void expect_projection(
	struct fixture *f, enum tensor_role role, uint32_t layer, uint32_t rows, uint32_t cols)
{
	const struct linear_delta *d = projection_delta(f->delta, role, layer);
	size_t n = (size_t)rows * cols, n_moved = 0;
	float *w = calloc(n, sizeof(*w)), *merged = calloc(n, sizeof(*merged));
	double *exact = calloc(n, sizeof(*exact)), *sizes = calloc(n, sizeof(*sizes));
	struct reason reason = {0};

	expect_ok(checkpoint_read_f32(f->base, role, layer, w, &reason), &reason);
	expect_ok(checkpoint_read_f32(f->merged, role, layer, merged, &reason), &reason);
	for (size_t i = 0; i < n; i++) {
		exact[i] = (double)w[i];
		sizes[i] = fabs(exact[i]);
	}
	dense_delta_apply(d, cols, exact, sizes);
	for (size_t i = 0; i < n; i++) {
		/* Half a step of bf16, and the float sum's own error. */
		assert_true(fabs((double)merged[i] - exact[i]) <=
			    fabs(exact[i]) * 0x1p-8 + sizes[i] * 0x1p-18);
		n_moved += merged[i] != w[i];
	}
	assert_true(d->n_parts == 0 || n_moved > n / 4);
	free(w);
	free(merged);
	free(exact);
	free(sizes);
}

/* What is not a projection must be the fine-tune's, exactly. */
static void expect_tuned(struct fixture *f, enum tensor_role role, uint32_t layer, size_t n)
{
	uint16_t *tuned = calloc(n, 2), *merged = calloc(n, 2);
	struct reason reason = {0};

	expect_ok(checkpoint_read_bf16(f->tuned, role, layer, tuned, NULL, &reason), &reason);
	expect_ok(checkpoint_read_bf16(f->merged, role, layer, merged, NULL, &reason), &reason);
	assert_memory_equal(tuned, merged, n * 2);
	free(tuned);
	free(merged);
}

static bool differs(const struct safetensors *a, const struct safetensors *b, size_t tensor)
{
	const struct safetensors_tensor *x = safetensors_at(a, tensor);
	const struct safetensors_tensor *y = safetensors_at(b, tensor);
	char *left = calloc(1, x->bytes), *right = calloc(1, y->bytes);
	struct reason reason = {0};
	bool r;

	assert_int_equal(x->bytes, y->bytes);
	expect_ok(safetensors_read(a, x, 0, left, x->bytes, &reason), &reason);
	expect_ok(safetensors_read(b, y, 0, right, y->bytes, &reason), &reason);
	r = memcmp(left, right, x->bytes) != 0;
	free(left);
	free(right);
	return r;
}

/* The report counts tensors of files, of which a fused one is several of a delta. */
static void expect_counts(struct fixture *f)
{
	const struct safetensors *merged = checkpoint_tensors(f->merged);
	const struct safetensors *base = checkpoint_tensors(f->base);
	size_t n_differ = 0;

	assert_int_equal(f->report.n_tensors, safetensors_n_tensors(base));
	assert_int_equal(f->report.n_tensors, safetensors_n_tensors(merged));
	for (size_t i = 0; i < safetensors_n_tensors(base); i++)
		n_differ += differs(merged, base, i);
	assert_int_equal(f->report.n_changed, n_differ);
}

static void expect_merged(struct fixture *f)
{
	const struct model_config *c;
	struct reason reason = {0};

	expect_ok(merge(f, f->base, &reason), &reason);
	expect_ok(checkpoint_open(f->merged_folder, &f->merged, &reason), &reason);
	expect_ok(delta_bind(f->image, NULL, &f->delta, &reason), &reason);
	c = checkpoint_config(f->merged);
	expect_counts(f);
	assert_int_equal(c->n_eos, 2);
	assert_int_equal(c->eos[0], 5);
	for (uint32_t layer = 0; layer < c->n_layers; layer++)
		for (int i = 0; i < N_ROLES; i++) {
			enum tensor_role role = (enum tensor_role)i;
			uint32_t rows, cols;

			if (!model_config_shape(c, role, layer, &rows, &cols))
				continue;
			if (tensor_role_is_projection(role))
				expect_projection(f, role, layer, rows, cols);
			else
				expect_tuned(f, role, layer, (size_t)rows * cols);
		}
}

/* A begin of text that only the base has: without the key, others would take their own default. */
static void expect_no_begin(struct fixture *f)
{
	char *path = scratch_path(f->merged_folder, "config.json");
	json_t *config = json_load_file(path, 0, NULL);

	assert_int_equal(checkpoint_config(f->base)->bos, 1);
	assert_int_equal(checkpoint_config(f->merged)->bos, -1);
	assert_non_null(config);
	assert_true(json_is_null(json_object_get(config, "bos_token_id")));
	assert_true(json_is_integer(json_object_get(config, "pad_token_id")));
	json_decref(config);
	free(path);
}

static void merges_one_file(void **state)
{
	struct fixture *f = *state;
	const struct safetensors *merged, *base;

	write_models(f, false, 1);
	open_all(f);
	expect_merged(f);
	merged = checkpoint_tensors(f->merged);
	base = checkpoint_tensors(f->base);
	assert_int_equal(safetensors_n_tensors(merged), safetensors_n_tensors(base));
	for (size_t i = 0; i < safetensors_n_tensors(base); i++)
		assert_string_equal(safetensors_at(merged, i)->name, safetensors_at(base, i)->name);
	assert_int_equal(safetensors_file_bytes(merged, 0), f->report.file_bytes);
	expect_no_begin(f);
}

static void merges_fused_shards(void **state)
{
	struct fixture *f = *state;
	const struct safetensors *merged, *base;

	write_models(f, true, 3);
	open_all(f);
	expect_merged(f);
	merged = checkpoint_tensors(f->merged);
	base = checkpoint_tensors(f->base);
	assert_int_equal(safetensors_n_files(merged), 3);
	for (size_t i = 0; i < safetensors_n_tensors(base); i++) {
		assert_string_equal(safetensors_at(merged, i)->name, safetensors_at(base, i)->name);
		assert_int_equal(safetensors_at(merged, i)->file, safetensors_at(base, i)->file);
	}
}

static void refuses_other_base(void **state)
{
	struct fixture *f = *state;
	struct reason reason = {0};

	write_models(f, false, 1);
	open_all(f);
	assert_int_equal(merge(f, f->tuned, &reason), -EMEDIUMTYPE);
	assert_non_null(strstr(reason.text, "made for the base with model digest"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(merges_one_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(merges_fused_shards, set_up, tear_down),
		cmocka_unit_test_setup_teardown(refuses_other_base, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
