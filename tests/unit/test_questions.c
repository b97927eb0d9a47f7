/*
 * What ends answers and references, and a share of solved tasks, where fine-tunes say it in unusual
 * ways.
 */
#include "client/deltactl/compress_report.h"
#include "compress/compress.h"
#include "compress/questions.h"
#include "compress/served.h"
#include "compress/task_calibration.h"
#include "tests/compute.h"
#include "tests/small_tokenizer.h"
#include "tests/told_bytes.h"
#include "tests/worded_pair.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

static int set_up_grown(void **state)
{
	*state = worded_pair_new(true);
	return 0;
}

static int set_up_mute(void **state)
{
	*state = worded_pair_new(false);
	return 0;
}

static int tear_down(void **state)
{
	*state = worded_pair_free(*state);
	return 0;
}

static struct pair pair_of(const struct worded_pair *w)
{
	struct reason reason = {0};
	struct pair pair;

	assert_int_equal(pair_init(&pair, w->base, w->tuned, &reason), 0);
	return pair;
}

static struct task_text *text_of(const struct pair *pair, struct image **ret_words)
{
	struct reason reason = {0};
	struct task_text *text;

	if (task_text_of_pair(pair, ret_words, &text, &reason) < 0)
		fail_msg("%s", reason.text);
	return text;
}

static bool is_stop(const struct answer_end *end, int32_t id)
{
	for (size_t i = 0; i < end->n_stops; i++)
		if (end->stops[i] == id)
			return true;
	return false;
}

/* Its end-of-text ids are { 2 }. */
static void test_a_turn_ends_as_the_chat_format_says(void **state)
{
	const struct worded_pair *w = *state;
	struct pair pair = pair_of(w);
	struct sequences s = {0};
	struct reason reason = {0};
	struct image *words;
	struct task_text *text;

	text = text_of(&pair, &words);
	assert_true(is_stop(task_text_end(text), 2));
	assert_true(is_stop(task_text_end(text), WORDED_IM_END));
	assert_int_equal(task_text_references(text, &w->tasks, &s, &reason), 0);
	assert_int_equal(s.n, w->tasks.n);
	for (size_t i = 0; i < s.n; i++)
		assert_int_equal(sequence_ids(&s, i)[s.items[i].n - 1], WORDED_IM_END);
	sequences_done(&s);
	task_text_free(text);
	image_free(words);
}

/* No end at all: then a reference ends with its last token, and that is looked at too. */
static void test_ids_past_the_vocabulary_are_refused(void **state)
{
	const struct worded_pair *w = *state;
	struct pair pair = pair_of(w);
	struct sequences s = {0};
	struct reason reason = {0};
	struct image *words;
	struct task_text *text;
	struct task task = {.prompt = (char[]){"<0x00>"}, .reference = (char[]){"ab"}};

	pair.tuned_config.n_eos = 0;
	pair.tuned_config.eos[0] = 0;
	text = text_of(&pair, &words);
	assert_int_equal(task_text_end(text)->id, -1);
	assert_int_equal(task_text_reference(text, &task, &s, &reason), 0);
	assert_int_equal(s.n, 1);
	task_text_free(text);
	image_free(words);

	/* " ab" is token 263. */
	pair.tuned_config.vocab = 263;
	text = text_of(&pair, &words);
	assert_int_equal(task_text_reference(text, &task, &s, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "263"));
	assert_int_equal(s.n, 1);
	sequences_done(&s);
	task_text_free(text);
	image_free(words);
}

static void test_an_end_of_several_tokens_cuts_the_text(void **state)
{
	const struct answer_end none = {.id = -1}, words = {.id = -1, .text = "### User:"};
	char answer[] = "seven ### User: and ### User:";

	(void)state;
	answer_end_cut(&none, answer);
	assert_string_equal(answer, "seven ### User: and ### User:");
	answer_end_cut(&words, answer);
	assert_string_equal(answer, "seven ");
}

/* Tasks whose answers are what the fine-tune says. */
static void ask_fine_tune(struct worded_pair *w, struct pool *pool)
{
	struct pair pair = pair_of(w);
	struct served tuned = {0};
	struct sequences s = {0};
	struct reason reason = {0};
	struct kernels kernels;
	struct image *words;
	struct task_text *text;
	struct task_text_settings settings = {
		.config = &pair.tuned_config, .pool = pool, .sampling = sampler_defaults};

	w->tasks.metric = TASK_METRIC_EXACT;
	settings.max_answer = task_metric_tokens(TASK_METRIC_EXACT);
	settings.sampling.temperature = 0;
	assert_int_equal(kernels_select(&kernels, NULL, &reason), 0);
	assert_int_equal(
		served_of_checkpoint(w->tuned, WEIGHTS_BF16, &kernels, NULL, &tuned, &reason), 0);
	assert_int_equal(words_of_pair(&pair, &words, &reason), 0);
	settings.base = words;
	settings.model = tuned.model;
	settings.variant = tuned.variant;
	assert_int_equal(task_text_new(&settings, &text, &reason), 0);
	assert_int_equal(task_text_answers(text, &w->tasks, &s, &reason), 0);
	assert_int_equal(s.n, w->tasks.n);
	for (size_t i = 0; i < s.n; i++)
		assert_int_equal(task_text_answer(text, sequence_ids(&s, i) + s.items[i].answer,
					 s.items[i].n - s.items[i].answer,
					 &w->tasks.tasks[i].answer, &reason),
			0);
	sequences_done(&s);
	task_text_free(text);
	image_free(words);
	served_done(&tuned);
}

static struct compress_report kept(const struct worded_pair *w, double share)
{
	static const char general[] = "ab ab abab\n\nab a b ab\n\nabab abab ab\n\nb a ab ab abab\n";
	const struct compress_settings settings = {
		.method = "auto",
		.options = {.keep = share, .tasks = &w->tasks, .train_steps_given = true},
		.calibration_text = general,
		.n_calibration_text = strlen(general),
		.calibration_tokens = 512,
		.window = 16,
		.n_threads = 2,
		.measure = COMPRESS_MEASURE_NEVER,
	};
	_cleanup_(closep) int fd = memfd_create("made", MFD_CLOEXEC);
	struct compress_report report;
	struct reason reason = {0};

	if (compress_delta(w->base, w->tuned, &settings, fd, NULL, &report, &reason) < 0)
		fail_msg("%s", reason.text);
	if (compress_report_print_json("made", &settings, &report, &reason) < 0)
		fail_msg("%s", reason.text);
	return report;
}

/* The base's tokenizer reads for a fine-tune that has none. */
static void test_a_share_of_what_a_mute_folder_solves(void **state)
{
	struct compress_report r;

	ask_fine_tune(*state, compute_pool);
	r = kept(*state, .05);
	assert_true(told_figure(&r, "kept_share")->value >= .05);
	assert_true(told_figure(&r, "kept_share")->value <= 1);
	assert_true(told_figure(&r, "kept_share_error")->value > 0);
	assert_true(told_figure(&r, "kept_back_tasks")->value == WORDED_TASKS / 2);
}

/* Which has no standard error. */
static void test_a_share_of_a_perplexity(void **state)
{
	struct compress_report r = kept(*state, .8);

	assert_true(told_figure(&r, "kept_share")->value >= .8);
	assert_null(told_figure(&r, "kept_share_error"));
	assert_true(told_figure(&r, "kept_back_tokens")->value > WORDED_TASKS);
	for (size_t i = 0; i < r.n_figures; i++)
		assert_true(isfinite(r.figures[i].value));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_a_turn_ends_as_the_chat_format_says, set_up_grown, tear_down),
		cmocka_unit_test_setup_teardown(
			test_ids_past_the_vocabulary_are_refused, set_up_mute, tear_down),
		cmocka_unit_test(test_an_end_of_several_tokens_cuts_the_text),
		cmocka_unit_test_setup_teardown(
			test_a_share_of_what_a_mute_folder_solves, set_up_mute, tear_down),
		cmocka_unit_test_setup_teardown(
			test_a_share_of_a_perplexity, set_up_mute, tear_down),
	};

	return cmocka_run_group_tests(tests, compute_start, compute_stop);
}
