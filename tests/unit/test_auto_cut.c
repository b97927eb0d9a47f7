/*
 * Levels of method auto on the first blocks of the models in models/, whose deltas are large enough
 * to have some: both ways, each level better than the one before, and the same when it is gone on
 * with.
 */
#include "compress/auto_memory.h"
#include "compress/compress.h"
#include "compress/methods.h"
#include "store/delta.h"
#include "tests/compute.h"
#include "tests/model_folder.h"
#include "tests/scratch.h"
#include "tests/tiny_pair.h"
#include "tests/told_bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define N_LAYERS 2
#define N_THREADS 2u
#define BITS 1.3
#define FILE_RATIO 9.5

struct fixture {
	char *folder;
	struct tiny_pair pair;
};

static bool is_of_later_layer(const char *name)
{
	unsigned int layer;

	return sscanf(name, "model.layers.%u.", &layer) == 1 && layer >= N_LAYERS;
}

static struct checkpoint *first_layers(const char *source, const char *folder, const char *name)
{
	_cleanup_(freep) char *path = scratch_path(folder, name);
	struct model_folder f;

	model_folder_read(&f, source);
	json_object_set_new(f.config, "num_hidden_layers", json_integer(N_LAYERS));
	for (size_t i = f.n_tensors; i-- > 0;)
		if (is_of_later_layer(f.tensors[i].name))
			model_folder_remove(&f, f.tensors[i].name);
	model_folder_write(&f, path, 1);
	model_folder_done(&f);
	return folder_opened(path);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->folder = scratch_folder();
	f->pair.base = first_layers("models/Llama-deltad-16M", f->folder, "base");
	f->pair.tuned = first_layers("models/Llama-deltad-16M-math", f->folder, "tuned");
	*state = f;
	return compute_load(state);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	tiny_pair_done(&f->pair);
	scratch_remove(f->folder);
	free(f->folder);
	free(f);
	return 0;
}

static struct compress_settings settings_of(const struct fixture *f, bool by_blocks)
{
	struct compress_settings s = {
		.method = "auto",
		.options = {.bits = BITS, .train_steps_given = true},
		.calibration_tokens = 1024,
		.window = 64,
		.n_threads = N_THREADS,
	};

	if (by_blocks)
		s.memory = auto_stream_memory(checkpoint_config(f->pair.tuned), N_THREADS);
	return s;
}

static struct compress_report made(
	const struct fixture *f, const struct compress_settings *settings, int fd)
{
	struct compress_report report;
	struct reason reason = {0};

	if (compress_delta(f->pair.base, f->pair.tuned, settings, fd, NULL, &report, &reason) < 0)
		fail_msg("%s", reason.text);
	return report;
}

static uint32_t count_projections(const struct delta *d)
{
	uint32_t n = 0;

	for (size_t i = 0; i < d->n_records; i++)
		n += tensor_role_is_projection((enum tensor_role)d->records[i].role);
	return n;
}

/* Each beginning is a delta with fewer parts, and what is measured of it is worse. */
static void check_levels(int fd, const struct compress_report *report)
{
	_cleanup_(deltap) struct delta *whole = NULL;
	const struct format_header *h;
	struct reason reason = {0};
	double after = report->kl;
	size_t n_parts;

	assert_int_equal(delta_load(fd, NULL, &whole, NULL, &reason), 0);
	h = &whole->image->header;
	n_parts = whole->n_records;
	assert_true(h->n_levels > 1);
	assert_true(count_projections(whole) > report->n_projections);
	for (uint32_t k = h->n_levels - 1; k-- > 0;) {
		_cleanup_(deltap) struct delta *cut = NULL;

		assert_true(whole->points[k].file_bytes == h->level_end[k]);
		assert_true(whole->points[k].kl > after);
		after = whole->points[k].kl;
		assert_int_equal(ftruncate(fd, (off_t)h->level_end[k]), 0);
		assert_int_equal(delta_load(fd, NULL, &cut, NULL, &reason), 0);
		assert_true(cut->n_records < n_parts);
		n_parts = cut->n_records;
		/* More than one level has projections. */
		assert_true(k > 0 || count_projections(cut) < count_projections(whole));
	}
	assert_true(n_parts > 0);
}

static void check_budget(const struct compress_report *r)
{
	double allowed = (double)r->projection_original_bytes * BITS / 16;

	assert_true((double)r->projection_bytes <= allowed);
	assert_true((double)r->projection_bytes > .97 * allowed);
}

static void test_by_blocks(void **state)
{
	const struct fixture *f = *state;
	_cleanup_(closep) int fd = memfd_create("made", MFD_CLOEXEC);
	_cleanup_(closep) int again = memfd_create("again", MFD_CLOEXEC);
	struct compress_work work = {.fd = memfd_create("work", MFD_CLOEXEC), .resume = true};
	struct compress_settings settings = settings_of(f, true);
	struct compress_report whole, resumed;
	int all = work.fd;

	settings.work = &work;
	whole = made(f, &settings, fd);
	told_bytes_check(fd, &whole);
	check_budget(&whole);
	check_levels(fd, &whole);
	/* The end of the work is lost. */
	work.fd = scratch_copy(all, (size_t)lseek(all, 0, SEEK_END) / 20 * 19);
	settings.n_threads = 1;
	resumed = made(f, &settings, again);
	assert_memory_equal(&resumed.root, &whole.root, sizeof(whole.root));
	assert_true(resumed.n_resumed < N_LAYERS);
	close(work.fd);
	close(all);
}

static void test_in_memory(void **state)
{
	const struct fixture *f = *state;
	struct compress_settings settings = settings_of(f, false);
	_cleanup_(closep) int fd = memfd_create("made", MFD_CLOEXEC);
	struct compress_report r;

	settings.options.bits = 0;
	settings.options.file_ratio = FILE_RATIO;
	r = made(f, &settings, fd);
	told_bytes_check(fd, &r);
	assert_true((double)r.file_bytes <= (double)r.original_bytes / FILE_RATIO);
	assert_true((double)r.file_bytes > .95 * (double)r.original_bytes / FILE_RATIO);
	check_levels(fd, &r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_in_memory),
		cmocka_unit_test(test_by_blocks),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
