/*
 * Sequences of a trained fine-tune's words: whether masks begin where answers do, whether answers
 * are its own, whether seeds decide. Runs where the models are; see tests/imported_base.h.
 */
#include "compress/task_text.h"

#include "compress/decode.h"
#include "engine/chat.h"
#include "kernels/kernels.h"
#include "tests/imported_base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define IM_END 3

struct fixture {
	struct base *base;
	struct kernels kernels;
	struct model *model;
	struct variant *variant;
	struct pool *pool;
	struct tokenizer *tokenizer;
	struct tasks tasks;
	struct task_text_settings settings;
};

static bool open_fixture(struct fixture *f)
{
	struct reason reason = {0};
	char folder[512], tasks[512];

	snprintf(folder, sizeof(folder), "%s/models/math", shared_folder());
	snprintf(tasks, sizeof(tasks), "%s/tasks/math.jsonl", shared_folder());
	if (!path_exists(folder) || !path_exists(tasks))
		return false;
	*f = (struct fixture){.base = imported_base(folder)};
	assert_int_equal(kernels_select(&f->kernels, NULL, &reason), 0);
	assert_int_equal(model_new(f->base, &f->kernels, &f->model, &reason), 0);
	assert_int_equal(variant_new(f->model, NULL, &f->variant, &reason), 0);
	assert_int_equal(pool_new(2, &f->pool, &reason), 0);
	assert_int_equal(tokenizer_of(f->base->image, NULL, &f->tokenizer, &reason), 0);
	assert_int_equal(tasks_load_rows(tasks, 10, 22, &f->tasks, &reason), 0);
	f->settings = (struct task_text_settings){
		.base = f->base->image,
		.config = &f->base->config,
		.model = f->model,
		.variant = f->variant,
		.pool = f->pool,
		.max_answer = 48,
		.sampling = sampler_defaults,
	};
	return true;
}

static void close_fixture(struct fixture *f)
{
	tasks_done(&f->tasks);
	tokenizer_free(f->tokenizer);
	pool_free(f->pool);
	variant_free(f->variant);
	model_free(f->model);
	base_free(f->base);
}

static struct task_text *open_text(const struct fixture *f)
{
	struct reason reason = {0};
	struct task_text *t;

	if (task_text_new(&f->settings, &t, &reason) < 0)
		fail_msg("%s", reason.text);
	return t;
}

/* Tokens [first, end) of a sequence as text, special ones spelled; malloc'ed. */
static char *text_of(
	const struct fixture *f, const struct sequences *s, size_t i, size_t first, size_t end)
{
	struct reason reason = {0};
	char *text;
	size_t n;

	assert_int_equal(tokenizer_decode(f->tokenizer, sequence_ids(s, i) + first, end - first,
				 false, &text, &n, &reason),
		0);
	return text;
}

static void assert_text(const struct fixture *f, const struct sequences *s, size_t i, size_t first,
	size_t end, const char *expected)
{
	_cleanup_(freep) char *text = text_of(f, s, i, first, end);

	assert_string_equal(text, expected);
}

static void test_references_are_prompts_with_good_answers(void **state)
{
	struct sequences s = {0};
	struct reason reason = {0};
	struct task_text *t;
	struct fixture f;

	(void)state;
	if (!open_fixture(&f))
		skip();
	t = open_text(&f);
	assert_int_equal(task_text_references(t, &f.tasks, &s, &reason), 0);
	assert_int_equal(s.n, 12);
	for (size_t i = 0; i < s.n; i++) {
		char expected[1024];

		snprintf(expected, sizeof(expected), "%s<|im_end|>", f.tasks.tasks[i].reference);
		assert_text(&f, &s, i, s.items[i].answer, s.items[i].n, expected);
		snprintf(expected, sizeof(expected),
			"<|begin_of_text|><|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n",
			f.tasks.tasks[i].prompt);
		assert_text(&f, &s, i, 0, s.items[i].answer, expected);
	}
	sequences_done(&s);
	task_text_free(t);
	close_fixture(&f);
}

static void test_answers_are_the_greedy_ones(void **state)
{
	struct sequences s = {0};
	struct reason reason = {0};
	struct task_text *t;
	struct fixture f;
	int32_t stop = IM_END;

	(void)state;
	if (!open_fixture(&f))
		skip();
	t = open_text(&f);
	assert_int_equal(task_text_answers(t, &f.tasks, &s, &reason), 0);
	assert_int_equal(s.n, 12);
	for (size_t i = 0; i < s.n; i++) {
		const struct sequence *q = &s.items[i];
		const uint32_t *ids = sequence_ids(&s, i);
		const struct decode_settings settings = {
			.model = f.model,
			.variant = f.variant,
			.pool = f.pool,
			.stops = &stop,
			.n_stops = 1,
			.max_tokens = 48,
		};
		uint32_t made[48];
		struct decode_request alone = {.prompt = ids, .n_prompt = q->answer, .ids = made};

		assert_int_equal(decode_greedy(&settings, &alone, 1, &reason), 0);
		assert_memory_equal(made, ids + q->answer, alone.n * sizeof(*made));
		assert_int_equal(q->answer + alone.n + (alone.stop >= 0), q->n);
		if (alone.stop >= 0)
			assert_int_equal(ids[q->n - 1], IM_END);
	}
	sequences_done(&s);
	task_text_free(t);
	close_fixture(&f);
}

static void invent(struct fixture *f, uint64_t seed, size_t n_threads, struct sequences *ret)
{
	struct reason reason = {0};
	struct task_text *t;

	pool_free(f->pool);
	assert_int_equal(pool_new(n_threads, &f->pool, &reason), 0);
	f->settings.pool = f->pool;
	f->settings.sampling.temperature = 1;
	f->settings.sampling.seed = seed;
	t = open_text(f);
	*ret = (struct sequences){0};
	if (task_text_invent(t, 300, ret, &reason) < 0)
		fail_msg("%s", reason.text);
	task_text_free(t);
}

static void test_a_seed_decides_what_is_made_up(void **state)
{
	static const char opening[] = "<|begin_of_text|><|im_start|>user\n";
	static const char closing[] = "<|im_end|>\n<|im_start|>assistant\n";
	struct sequences first, again, other;
	struct fixture f;

	(void)state;
	if (!open_fixture(&f))
		skip();
	invent(&f, 1, 1, &first);
	invent(&f, 1, 2, &again);
	invent(&f, 2, 2, &other);
	assert_true(sequences_read(&first) >= 300);
	assert_int_equal(first.n_ids, again.n_ids);
	assert_memory_equal(first.ids, again.ids, first.n_ids * sizeof(*first.ids));
	assert_memory_equal(first.items, again.items, first.n * sizeof(*first.items));
	assert_true(other.n_ids != first.n_ids ||
		    memcmp(other.ids, first.ids, first.n_ids * sizeof(*first.ids)) != 0);
	for (size_t i = 0; i < first.n; i++) {
		const struct sequence *q = &first.items[i];

		_cleanup_(freep) char *prompt = text_of(&f, &first, i, 0, q->answer);

		assert_int_equal(strncmp(prompt, opening, strlen(opening)), 0);
		assert_true(strlen(prompt) > strlen(opening) + strlen(closing));
		assert_string_equal(prompt + strlen(prompt) - strlen(closing), closing);
	}
	sequences_done(&first);
	sequences_done(&again);
	sequences_done(&other);
	close_fixture(&f);
}

static void test_a_greedy_model_cannot_invent(void **state)
{
	struct sequences s = {0};
	struct reason reason = {0};
	struct task_text *t;
	struct fixture f;

	(void)state;
	if (!open_fixture(&f))
		skip();
	t = open_text(&f);
	assert_int_equal(task_text_invent(t, 300, &s, &reason), -EINVAL);
	assert_int_equal(s.n, 0);
	task_text_free(t);
	close_fixture(&f);
}

static void test_nothing_to_judge_is_refused(void **state)
{
	const uint32_t ids[] = {5, 6, 7};
	struct sequences s = {0};
	struct reason reason = {0};

	(void)state;
	assert_int_equal(sequences_add(&s, ids, 1, 1), -EINVAL);
	assert_int_equal(sequences_add(&s, ids, 3, 0), -EINVAL);
	assert_int_equal(sequences_add(&s, ids, 3, 3), -EINVAL);
	assert_int_equal(sequences_add(&s, ids, 3, 2), 0);
	assert_int_equal(sequences_add(&s, ids + 1, 2, 1), 0);
	assert_int_equal(sequences_read(&s), 3);
	assert_int_equal(sequences_judged(&s), 2);
	assert_int_equal(sequences_longest(&s), 3);
	assert_int_equal(sequence_ids(&s, 1)[0], 6);
	assert_int_equal(sequences_check(&s, 8, &reason), 0);
	assert_int_equal(sequences_check(&s, 7, &reason), -EBADMSG);
	sequences_done(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_to_judge_is_refused),
		cmocka_unit_test(test_references_are_prompts_with_good_answers),
		cmocka_unit_test(test_answers_are_the_greedy_ones),
		cmocka_unit_test(test_a_seed_decides_what_is_made_up),
		cmocka_unit_test(test_a_greedy_model_cannot_invent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
