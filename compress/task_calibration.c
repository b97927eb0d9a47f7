#include "compress/task_calibration.h"

#include "foreign/tokenizer_json.h"
#include "store/writer.h"

#include <sys/mman.h>

#define MOST_BYTES (UINT64_C(1) << 30) /* of tokenizer and chat format */

/* What folders say of text, as the sections of an image. */
struct words {
	uint8_t *tokenizer, *chat; /* chat NULL: it has no format that is known */
	size_t n_tokenizer, n_chat;
};

static void words_done(struct words *w)
{
	free(w->tokenizer);
	free(w->chat);
}

static int read_tokenizer(const struct pair *pair, struct words *ret, struct reason *reason)
{
	const char *const folders[] = {
		checkpoint_folder(pair->tuned), checkpoint_folder(pair->base)};
	int r = -ENOENT;

	for (size_t i = 0; r == -ENOENT && i < array_len(folders); i++)
		r = tokenizer_compile(folders[i], &ret->tokenizer, &ret->n_tokenizer, reason);
	if (r == -ENOENT)
		return reason_set(reason, -EOPNOTSUPP,
			"there is no tokenizer.json: neither %s nor %s has one", folders[0],
			folders[1]);
	return r;
}

/* No format is no error. */
static int read_chat(const char *folder, struct words *ret, struct reason *reason)
{
	int r = chat_format_compile(folder, &ret->chat, &ret->n_chat, reason);

	return r == -EOPNOTSUPP || r == -ENOENT ? 0 : r;
}

static int read_words(const struct pair *pair, struct words *ret, struct reason *reason)
{
	int r;

	r = read_tokenizer(pair, ret, reason);
	if (r == 0)
		r = read_chat(checkpoint_folder(pair->tuned), ret, reason);
	if (r == 0 && !ret->chat)
		r = read_chat(checkpoint_folder(pair->base), ret, reason);
	return r;
}

static int write_image(
	int fd, const struct words *words, const struct model_config *config, struct reason *reason)
{
	const struct digest none = {0};
	_cleanup_(writerp) struct writer *w = NULL;
	int r;

	r = writer_begin(fd, IMAGE_KIND_BASE, MOST_BYTES, &w, reason);
	if (r < 0)
		return r;
	r = writer_section(w, SECTION_CONFIG, config, sizeof(*config));
	if (r == 0)
		r = writer_section(w, SECTION_TOKENIZER, words->tokenizer, words->n_tokenizer);
	if (r == 0)
		r = writer_section(w, SECTION_CHAT, words->chat, words->n_chat);
	if (r < 0)
		return reason_set(reason, r, "cannot keep the tokenizer of the tasks");
	return writer_finish(w, &none, NULL, NULL, reason);
}

int words_of_pair(const struct pair *pair, struct image **ret, struct reason *reason)
{
	_cleanup_(closep) int fd = memfd_create("deltad-words", MFD_CLOEXEC);
	_cleanup_(words_done) struct words words = {0};
	int r;

	if (fd < 0)
		return reason_set(reason, -errno, "cannot make a memory file");
	r = read_words(pair, &words, reason);
	if (r == 0)
		r = write_image(fd, &words, &pair->tuned_config, reason);
	if (r < 0)
		return r;
	return image_load(fd, ret, NULL, reason);
}

int task_text_of_pair(const struct pair *pair, struct image **ret_words, struct task_text **ret,
	struct reason *reason)
{
	_cleanup_(imagep) struct image *words = NULL;
	struct task_text_settings settings = {.config = &pair->tuned_config};
	int r = words_of_pair(pair, &words, reason);

	if (r < 0)
		return r;
	settings.base = words;
	r = task_text_new(&settings, ret, reason);
	if (r == 0)
		*ret_words = take_ptr(words);
	return r;
}

int sequences_of_tasks(const struct pair *pair, const struct tasks *tasks, struct sequences *ret,
	struct reason *reason)
{
	_cleanup_(imagep) struct image *words = NULL;
	_cleanup_(task_textp) struct task_text *text = NULL;
	int r = task_text_of_pair(pair, &words, &text, reason);

	return r == 0 ? task_text_references(text, tasks, ret, reason) : r;
}

int calibration_of_tasks(const struct pair *pair, const struct tasks *tasks,
	const struct calibration_limits *limits, struct calibration **ret, struct reason *reason)
{
	_cleanup_(sequences_done) struct sequences sequences = {0};
	int r = sequences_of_tasks(pair, tasks, &sequences, reason);

	if (r < 0)
		return r;
	return calibration_of_ids(sequences.ids, sequences.n_ids, limits, ret, reason);
}
