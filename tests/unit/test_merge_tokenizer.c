/*
 * The tokenizer's files of a merged folder, against those of the fine-tune that the delta was made
 * of: tokens of its own, their names, and what both chat templates write.
 */
#include "common/file.h"
#include "compress/compress.h"
#include "compress/merge.h"
#include "engine/chat_format.h"
#include "foreign/jinja.h"
#include "foreign/tokenizer_config.h"
#include "foreign/tokenizer_json.h"
#include "tests/model_folder.h"
#include "tests/scratch.h"
#include "tests/small_tokenizer.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define BASE "tests/golden/data/tiny/llama-gqa"
#define TUNED BASE "-ft"
#define IM_START 264
#define IM_END 266

#define CHATML                                                                                     \
	"{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + "           \
	"'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"                             \
	"{{ '<|im_start|>assistant\\n' }}{% endif %}"
#define ZEPHYR                                                                                     \
	"{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + "       \
	"'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"

static const char base_config[] =
	"{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\",\"lstrip\":false},"
	"\"model_max_length\":1000000000000000019884624838656,\"split\":512,"
	"\"sp_model_kwargs\":{\"nbest_size\":-1,\"sizes\":[64,0.5]},"
	"\"added_tokens_decoder\":{\"1\":{\"content\":\"<s>\",\"special\":true}},"
	"\"chat_template\":\"" ZEPHYR "\"}";
static const char tuned_config[] =
	"{\"bos_token\":\"<s>\",\"eos_token\":\"<|im_end|>\",\"chat_template\":\"" CHATML "\"}";
static const char tuned_tokens[] =
	"{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"
	"{\"id\":2,\"content\":\"</s>\",\"special\":false,\"normalized\":true},"
	"{\"id\":264,\"content\":\"<|im_start|>\",\"special\":true,\"lstrip\":true},"
	"{\"id\":266,\"content\":\"<|im_end|>\",\"special\":true,\"rstrip\":true}]}";

struct fixture {
	char *scratch, *base, *tuned, *merged;
	struct checkpoint *base_checkpoint;
	struct image *image;
	struct merge_report report;
};

static void expect_ok(int r, const struct reason *reason)
{
	if (r < 0)
		fail_msg("%d: %s", r, reason->text);
}

static void copy_tokenizer(const char *folder, const char *changes)
{
	char *from = small_tokenizer_folder(changes), *path = scratch_path(from, "tokenizer.json");
	struct reason reason = {0};
	char *text;
	size_t n;

	expect_ok(file_load(path, 1u << 20, &text, &n, &reason), &reason);
	free(scratch_write(folder, "tokenizer.json", text, n));
	free(text);
	free(path);
	scratch_remove(from);
	free(from);
}

static void write_model(
	const char *source, const char *folder, const char *tokens, const char *config)
{
	struct model_folder model = {0};

	model_folder_read(&model, source);
	if (strstr(config, "<|im_end|>"))
		json_object_set_new(model.config, "eos_token_id", json_pack("[i,i]", 2, IM_END));
	model_folder_write(&model, folder, 1);
	model_folder_done(&model);
	copy_tokenizer(folder, tokens);
	free(scratch_write(folder, "tokenizer_config.json", config, strlen(config)));
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->scratch = scratch_folder();
	f->base = scratch_path(f->scratch, "base");
	f->tuned = scratch_path(f->scratch, "tuned");
	f->merged = scratch_path(f->scratch, "merged");
	*state = f;
	return mkdir(f->merged, 0700);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	image_free(f->image);
	checkpoint_free(f->base_checkpoint);
	scratch_remove(f->scratch);
	free(f->scratch);
	free(f->base);
	free(f->tuned);
	free(f->merged);
	free(f);
	return 0;
}

static void compress_pair(struct fixture *f)
{
	char text[1024];
	const struct compress_settings settings = {
		.method = "dense",
		.calibration_text = text,
		.n_calibration_text = sizeof(text),
		.calibration_tokens = 256,
		.window = 32,
		.n_threads = 1,
	};
	struct compress_report report;
	struct checkpoint *tuned;
	struct reason reason = {0};
	int fd = memfd_create("delta", MFD_CLOEXEC);

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = "ab ba b"[i * i % 7];
	expect_ok(checkpoint_open(f->base, &f->base_checkpoint, &reason), &reason);
	expect_ok(checkpoint_open(f->tuned, &tuned, &reason), &reason);
	expect_ok(compress_delta(f->base_checkpoint, tuned, &settings, fd, NULL, &report, &reason),
		&reason);
	assert_string_equal(report.chat_refusal, "");
	expect_ok(image_load(fd, &f->image, NULL, &reason), &reason);
	close(fd);
	checkpoint_free(tuned);
}

static int merge(struct fixture *f, struct reason *reason)
{
	const struct merge_job job = {
		.base = f->base_checkpoint,
		.delta = f->image,
		.folder = f->merged,
	};

	return merge_folder(&job, NULL, &f->report, reason);
}

static json_t *load(const char *folder, const char *name)
{
	char *path = scratch_path(folder, name);
	json_t *json = json_load_file(path, 0, NULL);

	if (!json)
		fail_msg("%s: not there, or not JSON", path);
	free(path);
	return json;
}

static bool has_file(const char *folder, const char *name)
{
	char *path = scratch_path(folder, name);
	bool has = access(path, F_OK) == 0;

	free(path);
	return has;
}

/* What the template of a folder itself writes, zero-terminated. */
static char *render(const char *folder)
{
	static const struct chat_message talk[] = {
		{CHAT_ROLE_SYSTEM, " S", 2},
		{CHAT_ROLE_USER, "U\n", 2},
		{CHAT_ROLE_ASSISTANT, "A", 1},
		{CHAT_ROLE_USER, "V", 1},
	};
	struct jinja_input input = {.messages = talk, .n_messages = 4};
	struct reason reason = {0};
	struct text out = {0};
	struct jinja *jinja;
	json_t *config, *template;

	expect_ok(tokenizer_config_load(folder, &config, &reason), &reason);
	input.add_generation_prompt = true;
	input.bos_token = tokenizer_config_token(config, "bos_token");
	input.eos_token = tokenizer_config_token(config, "eos_token");
	template = json_object_get(config, "chat_template");
	assert_true(json_is_string(template));
	expect_ok(jinja_new(json_string_value(template), json_string_length(template), &jinja,
			  &reason),
		&reason);
	assert_int_equal(jinja_render(jinja, &input, &out, &reason), 0);
	assert_int_equal(text_append(&out, "", 1), 0);
	jinja_free(jinja);
	json_decref(config);
	return out.items;
}

static void expect_same_text(const struct fixture *f)
{
	char *wanted = render(f->tuned), *found = render(f->merged);

	assert_string_equal(wanted, found);
	free(wanted);
	free(found);
}

static void expect_same_tokens(const struct fixture *f)
{
	struct tokenizer_bytes tuned = tokenizer_bytes_of(f->tuned);
	struct tokenizer_bytes merged = tokenizer_bytes_of(f->merged);

	assert_int_equal(tuned.n, merged.n);
	assert_memory_equal(tuned.bytes, merged.bytes, tuned.n);
	free(tuned.bytes);
	free(merged.bytes);
}

static void expect_token(const json_t *object, const char *key, const char *expected)
{
	const char *found = tokenizer_config_token(object, key);

	assert_non_null(found);
	assert_string_equal(found, expected);
}

static void gives_tokens_and_template_back(void **state)
{
	static const char names[] = "{\"eos_token\":\"</s>\"}", added[] = "{\"<s>\":1}";
	struct fixture *f = *state;
	struct reason reason = {0};
	json_t *json, *token, *nested;

	write_model(BASE, f->base, "{}", base_config);
	write_model(TUNED, f->tuned, tuned_tokens, tuned_config);
	free(scratch_write(f->base, "special_tokens_map.json", names, strlen(names)));
	free(scratch_write(f->base, "added_tokens.json", added, strlen(added)));
	free(scratch_write(f->base, "chat_template.jinja", ZEPHYR, strlen(ZEPHYR)));
	compress_pair(f);
	expect_ok(merge(f, &reason), &reason);

	expect_same_tokens(f);
	expect_same_text(f);
	assert_int_equal(f->report.tokenizer.n_tokens, 3);
	assert_true(f->report.tokenizer.wrote_template);
	assert_string_equal(f->report.tokenizer.template_refused.text, "");
	assert_false(has_file(f->merged, "chat_template.jinja"));

	json = load(f->merged, "tokenizer_config.json");
	expect_token(json, "eos_token", "<|im_end|>");
	expect_token(json, "bos_token", "<s>");
	assert_true(json_is_object(json_object_get(json, "eos_token")));
	assert_int_equal(json_integer_value(json_object_get(json, "split")), 512);
	assert_true(json_real_value(json_object_get(json, "model_max_length")) == 1e30);
	nested = json_object_get(json, "sp_model_kwargs");
	assert_true(json_is_integer(json_object_get(nested, "nbest_size")));
	assert_int_equal(json_integer_value(json_object_get(nested, "nbest_size")), -1);
	nested = json_object_get(nested, "sizes");
	assert_true(json_is_integer(json_array_get(nested, 0)));
	assert_true(json_real_value(json_array_get(nested, 1)) == 0.5);
	token = json_object_get(json_object_get(json, "added_tokens_decoder"), "264");
	expect_token(token, "content", "<|im_start|>");
	assert_true(json_is_true(json_object_get(token, "lstrip")));
	assert_null(json_object_get(token, "id"));
	json_decref(json);
	json = load(f->merged, "special_tokens_map.json");
	expect_token(json, "eos_token", "<|im_end|>");
	json_decref(json);
	json = load(f->merged, "added_tokens.json");
	assert_int_equal(json_integer_value(json_object_get(json, "<|im_start|>")), IM_START);
	assert_int_equal(json_integer_value(json_object_get(json, "<s>")), 1);
	json_decref(json);
}

/* A fine-tune that changed weights alone has the base's files, byte by byte. */
static void keeps_the_bases_files(void **state)
{
	static const char *const files[] = {"tokenizer.json", "tokenizer_config.json"};
	struct fixture *f = *state;
	struct reason reason = {0};

	write_model(BASE, f->base, "{}", base_config);
	write_model(TUNED, f->tuned, "{}", base_config);
	compress_pair(f);
	expect_ok(merge(f, &reason), &reason);
	assert_false(f->report.tokenizer.wrote_template);
	for (size_t i = 0; i < array_len(files); i++) {
		char *paths[] = {
			scratch_path(f->base, files[i]), scratch_path(f->merged, files[i])};
		char *texts[2];
		size_t n[2];

		for (size_t j = 0; j < 2; j++)
			expect_ok(
				file_load(paths[j], 1u << 20, &texts[j], &n[j], &reason), &reason);
		assert_int_equal(n[0], n[1]);
		assert_memory_equal(texts[0], texts[1], n[0]);
		for (size_t j = 0; j < 2; j++) {
			free(texts[j]);
			free(paths[j]);
		}
	}
	expect_same_text(f);
}

/* An end of an answer that no template can tell, in place of the sealed page. */
static void shorten_stop(struct image *image)
{
	uint64_t n;
	const uint8_t *section = image_section(image, SECTION_CHAT, &n);
	uint8_t page[FORMAT_PAGE];
	struct chat_format_head *head;

	assert_non_null(section);
	memcpy(page, section, sizeof(page));
	head = mmap((void *)(uintptr_t)section, sizeof(page), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	assert_ptr_equal(head, section);
	memcpy(head, page, sizeof(page));
	head->pieces[CHAT_STOP].bytes--;
}

static void says_what_it_cannot_write(void **state)
{
	struct fixture *f = *state;
	struct reason reason = {0};
	json_t *config;
	char *path;

	write_model(BASE, f->base, "{}", base_config);
	write_model(TUNED, f->tuned, tuned_tokens, tuned_config);
	compress_pair(f);
	path = scratch_path(f->base, "tokenizer.json");
	assert_int_equal(unlink(path), 0);
	free(path);
	shorten_stop(f->image);
	expect_ok(merge(f, &reason), &reason);
	assert_non_null(strstr(f->report.tokenizer.tokens_refused.text, "base has none"));
	assert_non_null(strstr(f->report.tokenizer.template_refused.text, "end of an answer"));
	assert_false(f->report.tokenizer.wrote_template);
	assert_false(has_file(f->merged, "tokenizer.json"));
	config = load(f->merged, "tokenizer_config.json");
	assert_null(json_object_get(config, "chat_template"));
	json_decref(config);
}

static void refuses_another_tokenizer(void **state)
{
	struct fixture *f = *state;
	struct reason reason = {0};

	write_model(BASE, f->base, "{}", base_config);
	write_model(TUNED, f->tuned, tuned_tokens, tuned_config);
	compress_pair(f);
	copy_tokenizer(f->base, tuned_tokens);
	assert_int_equal(merge(f, &reason), -EMEDIUMTYPE);
	assert_non_null(strstr(reason.text, "not the one that the delta was made with"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(gives_tokens_and_template_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(keeps_the_bases_files, set_up, tear_down),
		cmocka_unit_test_setup_teardown(says_what_it_cannot_write, set_up, tear_down),
		cmocka_unit_test_setup_teardown(refuses_another_tokenizer, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
