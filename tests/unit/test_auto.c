/* Method auto on the tiny models: the budget, the same bytes for any threads, and its worth. */
#include "compress/compress.h"
#include "compress/tasks.h"
#include "tests/compute.h"
#include "tests/tiny_pair.h"
#include "tests/told_bytes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

static int compressed(const struct tiny_pair *f, const struct method_options *options,
	uint32_t n_threads, struct compress_report *ret, struct reason *reason)
{
	const struct compress_settings settings = {
		.method = "auto",
		.options = *options,
		.calibration_tokens = 1024,
		.window = 64,
		.n_threads = n_threads,
	};
	_cleanup_(closep) int fd = memfd_create("made", MFD_CLOEXEC);

	int r;

	assert_true(fd >= 0);
	r = compress_delta(f->base, f->tuned, &settings, fd, NULL, ret, reason);
	if (r == 0)
		told_bytes_check(fd, ret);
	return r;
}

static struct compress_report made(
	const struct tiny_pair *f, const struct method_options *options, uint32_t n_threads)
{
	struct compress_report report;
	struct reason reason = {0};

	if (compressed(f, options, n_threads, &report, &reason) < 0)
		fail_msg("%s", reason.text);
	return report;
}

static double figure_of(const struct compress_report *r, const char *name)
{
	const struct method_figure *f = told_figure(r, name);

	if (!f)
		fail_msg("no %s in the report", name);
	return f->value;
}

/* Of a delta that has a certificate. */
static const struct rate_point *points_of(const struct image *image, struct certificate *ret)
{
	uint64_t n_bytes;
	const uint8_t *bytes = image_section(image, SECTION_CERTIFICATE, &n_bytes);

	assert_non_null(bytes);
	memcpy(ret, bytes, sizeof(*ret));
	n_bytes -= sizeof(struct certificate_tasks);
	return (const void *)(bytes + n_bytes - ret->n_points * sizeof(struct rate_point));
}

/* Direct codes, both, components. */
static void test_the_budget_is_kept_and_used(void **state)
{
	static const double bits[] = {4, 1, .5};
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("llama-gqa");

	(void)state;
	for (size_t i = 0; i < array_len(bits); i++) {
		const struct method_options options = {.bits = bits[i]};
		struct compress_report r = made(&f, &options, 2);
		double allowed = (double)r.projection_original_bytes * bits[i] / 16;
		double used = (double)r.projection_bytes; /* records included */

		assert_true(used <= allowed);
		assert_true(used > .75 * allowed);
	}
}

/* A tiny model has no tokenizer, and so no words of its own. */
static void test_the_report_says_what_was_learnt_from(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("llama-gqa");
	const struct method_options options = {.bits = 2},
				    asked = {.bits = 2, .text = METHOD_TEXT_GENERIC};
	struct compress_report r = made(&f, &options, 2);

	(void)state;
	assert_true(r.n_figures > 1);
	assert_string_equal(r.figures[0].name, METHOD_FIGURE_TEXT);
	assert_string_equal(r.figures[0].word, "generic");
	assert_string_equal(r.figures[1].word, "");
	assert_int_equal(r.tasks.text, CERTIFICATE_RANDOM);
	assert_int_equal(r.tasks.n_tasks, 0);
	assert_true(made(&f, &asked, 2).kl == r.kl);
}

static void test_more_bytes_are_closer(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("qwen3");
	const struct method_options coarse = {.bits = 1}, fine = {.bits = 4};

	(void)state;
	assert_true(made(&f, &fine, 2).kl < made(&f, &coarse, 2).kl);
}

static void test_training_helps_and_threads_do_not_matter(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("llama-mha-tied");
	struct method_options options = {.bits = 1, .train_steps_given = true};
	struct compress_report plain = made(&f, &options, 1), one, three;

	(void)state;
	options.train_steps = 12;
	one = made(&f, &options, 1);
	three = made(&f, &options, 3);
	assert_memory_equal(&one.root, &three.root, sizeof(one.root));
	assert_true(memcmp(&one.root, &plain.root, sizeof(one.root)) != 0);
	assert_true(one.kl < plain.kl);
}

static void test_a_quality_is_reached(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("llama-gqa");
	struct method_options options = {.bits = 2};
	struct compress_report sized = made(&f, &options, 2), found;

	(void)state;
	options = (struct method_options){.max_kl = 2 * sized.kl};
	found = made(&f, &options, 2);
	assert_true(found.kl < 3 * sized.kl);
	assert_true(found.projection_bytes < sized.projection_bytes);
}

/* Where there is room for more than codes have digits, they are as fine as they get: all of the
 * change is there but for rounding to a hundredth of its largest number. */
static void test_room_for_everything_is_used(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("llama-gqa");
	struct method_options options = {.ratio = 1};
	struct compress_report r = made(&f, &options, 2);

	(void)state;
	assert_int_equal(r.n_left_out, 0);
	assert_true(r.mean_weight_error < .05);
	options = (struct method_options){.max_kl = 2 * r.kl};
	r = made(&f, &options, 2);
	assert_true(r.mean_weight_error < .1);
}

/* Everything in it, embedding and head too; whether they are one matrix or two. */
static void test_a_file_is_as_small_as_asked_for(void **state)
{
	static const char *const names[] = {"llama-gqa", "llama-mha-tied"};

	(void)state;
	for (size_t i = 0; i < array_len(names); i++) {
		_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair(names[i]);
		struct method_options options = {.file_ratio = 2.5};
		struct compress_report large = made(&f, &options, 2), small;
		double allowed = (double)large.original_bytes / 2.5;

		assert_true((double)large.file_bytes <= allowed);
		assert_true((double)large.file_bytes > .75 * allowed);
		options.file_ratio = 5;
		small = made(&f, &options, 2);
		assert_true((double)small.file_bytes <= (double)small.original_bytes / 5);
		/* One lambda: neither pays alone, and it shows. */
		assert_true(small.embedding_bytes < large.embedding_bytes);
		assert_true(small.projection_bytes < large.projection_bytes);
		assert_true(small.kl > large.kl);
	}
}

/* The projections' lambda, at their budget. */
static void test_an_open_embedding_leaves_the_projections_their_budget(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("llama-gqa");
	const struct method_options options = {.bits = 2};
	struct compress_settings settings = {
		.method = "auto",
		.options = options,
		.calibration_tokens = 1024,
		.window = 64,
		.n_threads = 2,
		.embedding.kind = EMBEDDING_AUTO,
	};
	_cleanup_(closep) int fd = memfd_create("made", MFD_CLOEXEC);
	struct compress_report exact = made(&f, &options, 2), open;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(compress_delta(f.base, f.tuned, &settings, fd, NULL, &open, &reason), 0);
	assert_true((double)open.projection_bytes <= (double)open.projection_original_bytes / 8);
	assert_true(2 * open.embedding_bytes < exact.embedding_bytes);
	assert_true(open.kl > exact.kl);
}

static void test_a_file_too_small_for_its_pages_is_refused(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("llama-gqa");
	const struct method_options options = {.file_ratio = 50};
	struct compress_report report;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(compressed(&f, &options, 2, &report, &reason), -ERANGE);
}

/* The file keeps what was measured on the way: fewer bits are worse, and its own are there. */
static void test_the_curve_is_kept(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("llama-gqa");
	const struct compress_settings settings = {
		.method = "auto",
		.options.bits = 2,
		.calibration_tokens = 1024,
		.window = 64,
		.n_threads = 2,
	};
	_cleanup_(closep) int fd = memfd_create("made", MFD_CLOEXEC);
	_cleanup_(imagep) struct image *image = NULL;
	struct certificate certificate;
	struct compress_report report;
	struct reason reason = {0};
	const struct rate_point *points;

	(void)state;
	assert_int_equal(compress_delta(f.base, f.tuned, &settings, fd, NULL, &report, &reason), 0);
	assert_int_equal(image_load(fd, &image, NULL, &reason), 0);
	points = points_of(image, &certificate);
	assert_int_equal(certificate.n_points, 5);
	for (size_t i = 1; i < 4; i++) {
		assert_true(points[i].bits > points[i - 1].bits);
		assert_true(points[i].kl < points[i - 1].kl);
	}
	assert_true(fabs(points[4].bits - 16 * (double)report.projection_bytes /
						  (double)report.projection_original_bytes) < 1e-9);
	assert_true(points[4].bits > points[1].bits && points[4].bits < points[2].bits);
	assert_true(points[4].kl < points[1].kl && points[4].kl > points[2].kl);
}

/* Of what the fine-tune finds most probable; a larger share takes a larger file. */
static void test_a_share_is_kept(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("llama-mha-tied");
	struct method_options options = {.keep = .85};
	struct compress_report most = made(&f, &options, 2), half;

	(void)state;
	options.keep = .5;
	half = made(&f, &options, 2);
	assert_true(figure_of(&most, "kept_share") >= .85);
	assert_true(figure_of(&half, "kept_share") >= .5);
	assert_true(figure_of(&half, "kept_share") < figure_of(&most, "kept_share"));
	assert_true(figure_of(&most, "kept_share_error") > 0);
	assert_true(half.file_bytes <= most.file_bytes);
	assert_true(half.projection_bytes < most.projection_bytes);
	assert_true(half.kl > most.kl);
}

static void test_refusals(void **state)
{
	_cleanup_(tiny_pair_done) struct tiny_pair f = tiny_pair("llama-gqa");
	const struct method_options both = {.bits = 2, .max_kl = .1}, negative = {.max_kl = -1},
				    sizes = {.bits = 2, .file_ratio = 4},
				    keeps = {.keep = .9, .max_kl = .1}, more = {.keep = 1.5},
				    keep = {.keep = .9},
				    own_words = {.bits = 2, .text = METHOD_TEXT_OWN_WORDS};
	const struct tasks no_tasks = {0};
	const struct method_options two_texts = {
		.bits = 2, .text = METHOD_TEXT_GENERIC, .tasks = &no_tasks};
	const struct compress_settings exact = {
		.method = "auto",
		.options = keep,
		.embedding.kind = EMBEDDING_EXACT,
		.calibration_tokens = 1024,
		.window = 64,
	};
	struct compress_report report;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(compressed(&f, &both, 1, &report, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "max-kl"));
	assert_int_equal(compressed(&f, &sizes, 1, &report, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "size of the file"));
	assert_int_equal(compressed(&f, &negative, 1, &report, &reason), -EINVAL);
	assert_int_equal(compressed(&f, &keeps, 1, &report, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "keep and a size or max-kl"));
	assert_int_equal(compressed(&f, &more, 1, &report, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "keep is 1.5"));
	assert_int_equal(compress_settings_check(&exact, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "keep chooses"));
	assert_int_equal(compressed(&f, &two_texts, 1, &report, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "tasks and a kind of text"));
	assert_int_equal(compressed(&f, &own_words, 1, &report, &reason), -EOPNOTSUPP);
	assert_non_null(strstr(reason.text, "tokenizer"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_budget_is_kept_and_used),
		cmocka_unit_test(test_the_report_says_what_was_learnt_from),
		cmocka_unit_test(test_more_bytes_are_closer),
		cmocka_unit_test(test_training_helps_and_threads_do_not_matter),
		cmocka_unit_test(test_a_quality_is_reached),
		cmocka_unit_test(test_room_for_everything_is_used),
		cmocka_unit_test(test_a_file_is_as_small_as_asked_for),
		cmocka_unit_test(test_an_open_embedding_leaves_the_projections_their_budget),
		cmocka_unit_test(test_a_file_too_small_for_its_pages_is_refused),
		cmocka_unit_test(test_the_curve_is_kept),
		cmocka_unit_test(test_a_share_is_kept),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
