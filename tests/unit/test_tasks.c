/* Tasks files and what counts as solved. */
#include "compress/tasks.h"

#include "tests/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static bool solved(enum task_metric metric, const char *answer, const char *text)
{
	char copy[64];
	struct task task = {.answer = copy};

	strncpy(copy, answer, sizeof(copy) - 1);
	copy[sizeof(copy) - 1] = '\0';
	return task_solved(&task, metric, text);
}

static void test_final_number(void **state)
{
	static const struct {
		const char *answer, *text;
		bool right;
	} cases[] = {
		{"1595", "620 + 975 = 1595\n#### 1595", true},
		{"1595", "#### 1595", true},
		{"1595", "####1595.", true},
		{"1595", "#### $1,595", true},
		{"5", "#### 5.0", true},
		{"-3", "#### -3", true},
		{"7", "#### 6\nno:\n#### 7", true},
		{"7", "#### 7\nno:\n#### 6", false},
		{"1595", "1595", false},
		{"1595", "#### ", false},
		{"1595", "#### 159", false},
		{"1595", "", false},
	};

	(void)state;
	for (size_t i = 0; i < array_len(cases); i++)
		if (solved(TASK_METRIC_FINAL_NUMBER, cases[i].answer, cases[i].text) !=
			cases[i].right)
			fail_msg("'%s' against %s", cases[i].text, cases[i].answer);
}

static void test_exact(void **state)
{
	(void)state;
	assert_true(solved(TASK_METRIC_EXACT, "{\"a\": 1}", "{\"a\": 1}"));
	assert_true(solved(TASK_METRIC_EXACT, " {\"a\": 1}\n", "\n{\"a\": 1} "));
	assert_false(solved(TASK_METRIC_EXACT, "{\"a\": 1}", "{\"a\":1}"));
	assert_false(solved(TASK_METRIC_EXACT, "{\"a\": 1}", "{\"a\": 1} x"));
	assert_true(solved(TASK_METRIC_EXACT, "", " "));
}

static int load(const char *text, size_t limit, struct tasks *ret, struct reason *reason)
{
	char *folder = scratch_folder();
	char *path = scratch_write(folder, "tasks.jsonl", text, strlen(text));
	int r = tasks_load_rows(path, 0, limit ? limit : SIZE_MAX, ret, reason);

	scratch_remove(folder);
	free(path);
	free(folder);
	return r;
}

#define TASK(metric)                                                                               \
	"{\"prompt\": \"p\", \"reference\": \"r\", \"answer\": \"a\", \"metric\": \"" metric "\"}" \
	"\n"

static void test_file(void **state)
{
	struct reason reason = {0};
	struct tasks tasks;

	(void)state;
	assert_int_equal(
		load(TASK("exact") "\n" TASK("exact") TASK("exact"), 2, &tasks, &reason), 0);
	assert_int_equal(tasks.n, 2);
	assert_int_equal(tasks.metric, TASK_METRIC_EXACT);
	assert_string_equal(tasks.tasks[1].prompt, "p");
	assert_string_equal(tasks.tasks[1].reference, "r");
	assert_string_equal(tasks.tasks[1].answer, "a");
	tasks_done(&tasks);
	assert_int_equal(
		load("{\"prompt\": \"p\", \"reference\": \"r\", \"metric\": \"perplexity\"}", 0,
			&tasks, &reason),
		0);
	assert_int_equal(tasks.n, 1);
	tasks_done(&tasks);
}

static void test_rows(void **state)
{
	static const struct {
		size_t first, end;
		const char *prompts; /* one letter each; "": refused */
	} cases[] = {
		{0, 1, "a"},
		{1, 3, "bc"},
		{2, SIZE_MAX, "cd"},
		{3, 9, "d"},
		{4, 9, ""},
		{9, 10, ""},
	};
	char *folder = scratch_folder();
	char text[512], *path;
	int n = 0;

	(void)state;
	/* An empty line is no row. */
	for (const char *p = "ab\ncd"; *p; p++)
		n += snprintf(text + n, sizeof(text) - (size_t)n,
			*p == '\n' ? "%c"
				   : "{\"prompt\": \"%c\", \"reference\": \"r\", "
				     "\"metric\": \"perplexity\"}\n",
			*p);
	path = scratch_write(folder, "tasks.jsonl", text, (size_t)n);
	for (size_t i = 0; i < array_len(cases); i++) {
		size_t expected = strlen(cases[i].prompts);
		struct reason reason = {0};
		struct tasks tasks;
		int r = tasks_load_rows(path, cases[i].first, cases[i].end, &tasks, &reason);

		assert_int_equal(r, expected ? 0 : -EBADMSG);
		if (!expected) {
			assert_non_null(strstr(reason.text, "4 tasks"));
			continue;
		}
		assert_int_equal(tasks.n, expected);
		for (size_t t = 0; t < expected; t++)
			assert_int_equal(tasks.tasks[t].prompt[0], cases[i].prompts[t]);
		tasks_done(&tasks);
	}
	scratch_remove(folder);
	free(path);
	free(folder);
}

static void test_broken_files_are_refused(void **state)
{
	static const struct {
		const char *text;
		int error;
		const char *word;
	} cases[] = {
		{"", -EBADMSG, "no tasks"},
		{TASK("exact") "{\"prompt\": 1}\n", -EBADMSG, "line 2"},
		{TASK("exact") "not json\n", -EBADMSG, "line 2"},
		{TASK("guess"), -EOPNOTSUPP, "guess"},
		{TASK("exact") TASK("final-number"), -EBADMSG, "line 2"},
		{"{\"prompt\": \"p\", \"reference\": \"r\", \"metric\": \"exact\"}", -EBADMSG,
			"answer"},
	};

	(void)state;
	for (size_t i = 0; i < array_len(cases); i++) {
		struct reason reason = {0};
		struct tasks tasks;

		assert_int_equal(load(cases[i].text, 0, &tasks, &reason), cases[i].error);
		if (!strstr(reason.text, cases[i].word))
			fail_msg("case %zu: '%s' does not say %s", i, reason.text, cases[i].word);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_final_number),
		cmocka_unit_test(test_exact),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_broken_files_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
