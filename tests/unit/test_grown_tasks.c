/*
 * Tasks of a fine-tune whose chat format is made of tokens that it has added: the base cannot read
 * them, and must not be asked to.
 */
#include "compress/auto_memory.h"
#include "compress/compress.h"
#include "compress/tasks.h"
#include "store/image.h"
#include "tests/compute.h"
#include "tests/model_folder.h"
#include "tests/scratch.h"
#include "tests/small_tokenizer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define BASE "tests/golden/data/tiny/llama-gqa"
#define VOCAB 320 /* of the base */
#define N_ADDED 2
#define IM_END 321
#define N_TASKS 24u

static const char added_tokens[] =
	"{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},"
	"{\"id\":2,\"content\":\"</s>\",\"special\":true},"
	"{\"id\":320,\"content\":\"<|im_start|>\",\"special\":true},"
	"{\"id\":321,\"content\":\"<|im_end|>\",\"special\":true}]}";
static const char chatml[] =
	"{\"bos_token\":\"<s>\",\"eos_token\":\"<|im_end|>\",\"chat_template\":\""
	"{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + "
	"'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
	"{{ '<|im_start|>assistant\\n' }}{% endif %}\"}";

struct fixture {
	char *scratch;
	struct checkpoint *base, *tuned;
	struct tasks tasks;
};

/* Twice the first rows, as untrained ones. */
static void grow(struct folder_tensor *t)
{
	uint64_t cols = t->shape[1], rows = t->shape[0];

	t->values = reallocarray(t->values, (rows + N_ADDED) * cols, sizeof(float));
	assert_non_null(t->values);
	memcpy(t->values + rows * cols, t->values, N_ADDED * cols * sizeof(float));
	t->shape[0] += N_ADDED;
}

static void copy_tokenizer(const char *to, const char *changes)
{
	char *from = small_tokenizer_folder(changes), old[512], new[512];

	snprintf(old, sizeof(old), "%s/tokenizer.json", from);
	snprintf(new, sizeof(new), "%s/tokenizer.json", to);
	assert_int_equal(rename(old, new), 0);
	scratch_remove(from);
	free(from);
}

static struct checkpoint *opened(const char *folder)
{
	struct reason reason = {0};
	struct checkpoint *c;

	if (checkpoint_open(folder, &c, &reason) < 0)
		fail_msg("%s", reason.text);
	return c;
}

static struct checkpoint *write_base(const char *folder)
{
	struct model_folder model = {0};

	model_folder_read(&model, BASE);
	model_folder_write(&model, folder, 1);
	model_folder_done(&model);
	copy_tokenizer(folder, "{}");
	return opened(folder);
}

static struct checkpoint *write_tuned(const char *folder)
{
	struct model_folder model = {0};

	model_folder_read(&model, BASE "-ft");
	grow(model_folder_find(&model, "model.embed_tokens.weight"));
	grow(model_folder_find(&model, "lm_head.weight"));
	json_object_set_new(model.config, "vocab_size", json_integer(VOCAB + N_ADDED));
	json_object_set_new(model.config, "eos_token_id", json_pack("[i,i]", IM_END, 2));
	model_folder_write(&model, folder, 1);
	model_folder_done(&model);
	copy_tokenizer(folder, added_tokens);
	free(scratch_write(folder, "tokenizer_config.json", chatml, strlen(chatml)));
	return opened(folder);
}

static struct tasks make_tasks(void)
{
	struct tasks t = {.metric = TASK_METRIC_PERPLEXITY, .n = N_TASKS};

	t.tasks = calloc(N_TASKS, sizeof(*t.tasks));
	for (unsigned int i = 0; i < N_TASKS; i++)
		assert_true(asprintf(&t.tasks[i].prompt, "question %u of %u?", i, i * i) > 0 &&
			    asprintf(&t.tasks[i].reference, "ab %u", i + 1) > 0);
	return t;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char *base, *tuned;

	f->scratch = scratch_folder();
	base = scratch_path(f->scratch, "base");
	tuned = scratch_path(f->scratch, "tuned");
	f->base = write_base(base);
	f->tuned = write_tuned(tuned);
	f->tasks = make_tasks();
	free(base);
	free(tuned);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	checkpoint_free(f->base);
	checkpoint_free(f->tuned);
	tasks_done(&f->tasks);
	scratch_remove(f->scratch);
	free(f->scratch);
	free(f);
	return 0;
}

struct trial {
	const char *method;
	double ratio;
	bool by_blocks;
	enum compress_measure measure;
};

static struct compress_report made(const struct fixture *f, const struct trial *t)
{
	static const char text[] = "ab ab abab\n\nab a b ab\n\nabab abab ab\n\nb a ab ab abab\n";
	const struct compress_settings settings = {
		.method = t->method,
		.options = {.ratio = t->ratio, .tasks = &f->tasks},
		.calibration_text = text,
		.n_calibration_text = strlen(text),
		.calibration_tokens = 512,
		.window = 16,
		.n_threads = 2,
		.memory = t->by_blocks ? auto_stream_memory(checkpoint_config(f->tuned), 2) : 0,
		.measure = t->measure,
	};
	_cleanup_(closep) int fd = memfd_create("made", MFD_CLOEXEC);
	struct compress_report report;
	struct reason reason = {0};

	assert_true(fd >= 0);
	if (compress_delta(f->base, f->tuned, &settings, fd, NULL, &report, &reason) < 0)
		fail_msg("%s: %s", t->method, reason.text);
	return report;
}

/* Their certificate is of tasks too. */
static void test_methods_that_calibrate_on_tasks(void **state)
{
	static const struct trial trials[] = {
		{"delta-come", 8, false, COMPRESS_MEASURE_ENGINE},
		{"delta-come", 8, false, COMPRESS_MEASURE_BLOCKS},
		{"k-bit", 8, false, COMPRESS_MEASURE_ENGINE},
		{"deltadq", 8, false, COMPRESS_MEASURE_ENGINE},
	};

	for (size_t i = 0; i < array_len(trials); i++) {
		struct compress_report r = made(*state, &trials[i]);

		assert_int_equal(r.tasks.text, CERTIFICATE_TASKS);
		assert_true(r.kl >= 0 && r.kl < 1);
		assert_true(isnan(r.perplexity_base));
		assert_true(r.perplexity_tuned > 1 && r.perplexity_delta > 1);
	}
}

/* The general text is of tokens that the base has, the tasks that are kept back are not. */
static void test_auto_learns_from_tasks(void **state)
{
	const struct trial t = {"auto", 8, false, COMPRESS_MEASURE_ENGINE};
	struct compress_report r = made(*state, &t);

	assert_true(r.tasks.n_tasks > 0);
	assert_true(r.tasks.kl >= 0 && r.tasks.kl < 1);
	assert_true(isnan(r.tasks.perplexity_base));
	assert_true(r.tasks.perplexity_delta > 1);
	assert_true(r.perplexity_base > 1);
}

static void test_auto_by_blocks(void **state)
{
	const struct trial t = {"auto", 8, true, COMPRESS_MEASURE_BLOCKS};
	struct compress_report r = made(*state, &t);

	assert_true(r.kl >= 0 && r.kl < 1);
	assert_true(r.perplexity_base > 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_methods_that_calibrate_on_tasks, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_auto_learns_from_tasks, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_auto_by_blocks, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
