#include "tests/worded_pair.h"

#include "tests/model_folder.h"
#include "tests/scratch.h"
#include "tests/small_tokenizer.h"
#include "tests/tiny_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define BASE "tests/golden/data/tiny/llama-gqa"
#define VOCAB 320 /* of the base */
#define N_ADDED 2

/* The last token of the base is <last>, so that all that it may say can be read. */
#define BASE_TOKENS                                                                                \
	"{\"id\":1,\"content\":\"<s>\",\"special\":true},"                                         \
	"{\"id\":2,\"content\":\"</s>\",\"special\":true},"                                        \
	"{\"id\":319,\"content\":\"<last>\",\"special\":true}"

static const char base_tokens[] = "{\"added_tokens\":[" BASE_TOKENS "]}";
static const char added_tokens[] = "{\"added_tokens\":[" BASE_TOKENS ","
				   "{\"id\":320,\"content\":\"<|im_start|>\",\"special\":true},"
				   "{\"id\":321,\"content\":\"<|im_end|>\",\"special\":true}]}";
static const char chatml[] =
	"{\"bos_token\":\"<s>\",\"eos_token\":\"<|im_end|>\",\"chat_template\":\""
	"{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + "
	"'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
	"{{ '<|im_start|>assistant\\n' }}{% endif %}\"}";

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

static struct checkpoint *write_base(const char *folder)
{
	struct model_folder model = {0};

	model_folder_read(&model, BASE);
	model_folder_write(&model, folder, 1);
	model_folder_done(&model);
	copy_tokenizer(folder, base_tokens);
	return folder_opened(folder);
}

static struct checkpoint *write_grown(const char *folder)
{
	struct model_folder model = {0};

	model_folder_read(&model, BASE "-ft");
	grow(model_folder_find(&model, "model.embed_tokens.weight"));
	grow(model_folder_find(&model, "lm_head.weight"));
	json_object_set_new(model.config, "vocab_size", json_integer(VOCAB + N_ADDED));
	json_object_set_new(model.config, "eos_token_id", json_integer(2));
	model_folder_write(&model, folder, 1);
	model_folder_done(&model);
	copy_tokenizer(folder, added_tokens);
	free(scratch_write(folder, "tokenizer_config.json", chatml, strlen(chatml)));
	return folder_opened(folder);
}

static struct checkpoint *write_mute(const char *folder)
{
	struct model_folder model = {0};

	model_folder_read(&model, BASE "-ft");
	model_folder_write(&model, folder, 1);
	model_folder_done(&model);
	return folder_opened(folder);
}

static struct tasks make_tasks(void)
{
	struct tasks t = {.metric = TASK_METRIC_PERPLEXITY, .n = WORDED_TASKS};

	t.tasks = calloc(WORDED_TASKS, sizeof(*t.tasks));
	for (unsigned int i = 0; i < WORDED_TASKS; i++)
		assert_true(asprintf(&t.tasks[i].prompt, "question %u of %u?", i, i * i) > 0 &&
			    asprintf(&t.tasks[i].reference, "ab %u", i + 1) > 0);
	return t;
}

struct worded_pair *worded_pair_new(bool grown)
{
	struct worded_pair *p = calloc(1, sizeof(*p));
	char *base, *tuned;

	assert_non_null(p);
	p->scratch = scratch_folder();
	base = scratch_path(p->scratch, "base");
	tuned = scratch_path(p->scratch, "tuned");
	p->base = write_base(base);
	p->tuned = grown ? write_grown(tuned) : write_mute(tuned);
	p->tasks = make_tasks();
	free(base);
	free(tuned);
	return p;
}

struct worded_pair *worded_pair_free(struct worded_pair *p)
{
	checkpoint_free(p->base);
	checkpoint_free(p->tuned);
	tasks_done(&p->tasks);
	scratch_remove(p->scratch);
	free(p->scratch);
	free(p);
	return NULL;
}
