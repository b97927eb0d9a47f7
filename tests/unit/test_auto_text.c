/* What method auto learns from where nothing is generated, and for how long by default. */
#include "compress/auto_run.h"

#include "compress/tasks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define N_TASKS 20u
#define WINDOW 32u
#define N_WINDOWS 6u

static void test_tasks_are_mixed_with_general_text(void **state)
{
	uint32_t ids[N_WINDOWS * WINDOW] = {1};
	struct calibration calibration = {.window = WINDOW, .n_windows = N_WINDOWS, .ids = ids};
	struct checkpoint *base, *tuned;
	struct tasks tasks = {0};
	const struct method_options options = {.tasks = &tasks};
	struct pair pair;
	const struct method_model model = {
		.options = &options, .pair = &pair, .calibration = &calibration};
	struct auto_text text = {0};
	struct sequences mix = {0}, alone = {0};
	struct reason reason = {0};
	size_t n_tokens;

	(void)state;
	assert_int_equal(checkpoint_open("models/Llama-deltad-16M", &base, &reason), 0);
	assert_int_equal(checkpoint_open("models/Llama-deltad-16M-math", &tuned, &reason), 0);
	assert_int_equal(pair_init(&pair, base, tuned, &reason), 0);
	assert_int_equal(tasks_load_rows("models/math.jsonl", 0, N_TASKS, &tasks, &reason), 0);
	if (auto_text_read(&model, &text, &reason) < 0)
		fail_msg("%s", reason.text);
	assert_int_equal(text.kind, AUTO_TEXT_TASKS);
	assert_int_equal(text.learn.n, N_TASKS);
	assert_int_equal(text.general.n, N_WINDOWS);

	/* All of one, half of the other: three windows of six. */
	n_tokens = 2 * 3 * (WINDOW - 1);
	assert_int_equal(auto_text_mix(&text, n_tokens, &mix), 0);
	sequences_done(&text.general);
	assert_int_equal(auto_text_mix(&text, n_tokens, &alone), 0);
	assert_true(mix.n > 3 && alone.n > 0);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(mix.items[mix.n - 1 - i].n, WINDOW);
	assert_true(alone.n > mix.n - 3);

	ids[WINDOW] = pair.tuned_config.vocab;
	auto_text_done(&text);
	assert_int_equal(auto_text_read(&model, &text, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "vocabulary"));

	sequences_done(&mix);
	sequences_done(&alone);
	tasks_done(&tasks);
	checkpoint_free(base);
	checkpoint_free(tuned);
}

static void test_coarse_codes_train_for_longer(void **state)
{
	(void)state;
	assert_int_equal(auto_train_steps(AUTO_TEXT_TASKS, 4), 0);
	assert_int_equal(auto_train_steps(AUTO_TEXT_TASKS, 2), 40);
	assert_int_equal(auto_train_steps(AUTO_TEXT_TASKS, 1), 40);
	assert_int_equal(auto_train_steps(AUTO_TEXT_TASKS, .5), 120);
	assert_int_equal(auto_train_steps(AUTO_TEXT_GENERIC, .5), 0);
	assert_int_equal(auto_train_steps(AUTO_TEXT_OWN_WORDS, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tasks_are_mixed_with_general_text),
		cmocka_unit_test(test_coarse_codes_train_for_longer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
