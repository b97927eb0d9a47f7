/*
 * Any bytes as a CHAT section: it is refused with a reason, or every conversation that it can
 * express is written without leaving the section, and so is a template, or the reason why not.
 */
#include "engine/buffer.h"
#include "engine/chat.h"
#include "foreign/chat_print.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static inline void formatp(struct chat_format **f)
{
	chat_format_free(*f);
}

static void write_conversation(const struct chat_format *f, unsigned choice)
{
	static const char *const texts[] = {"", " hello \n", "a</think>\nb", "\xc3\xa9"};
	struct chat_message messages[3];
	struct reason reason = {0};
	size_t n_messages = choice % (array_len(messages) + 1);

	for (size_t i = 0; i < n_messages; i++) {
		const char *text = texts[(choice >> (2 * i)) % array_len(texts)];

		messages[i] = (struct chat_message){
			.role = (enum chat_role)((choice >> (3 + i)) % 3),
			.text = text,
			.n_text = strlen(text),
		};
	}
	for (int generation = 0; generation < 2; generation++) {
		_cleanup_(text_done) struct text out = {0};
		int r = chat_format_text(
			f, messages, n_messages, generation, &out, NULL, NULL, &reason);

		assert(r == 0 || reason.text[0]);
	}
}

static void write_template(const uint8_t *data, size_t n)
{
	_cleanup_(text_done) struct text out = {0};
	struct reason reason = {0};
	int r = chat_print(data, n, &out, &reason);

	assert(r == 0 ? out.n > 0 : reason.text[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_(formatp) struct chat_format *f = NULL;
	struct reason reason = {0};

	if (chat_format_new(data, n, &f, &reason) < 0) {
		assert(reason.text[0]);
		return 0;
	}
	assert(strlen(chat_format_name(f)) < 24);
	for (unsigned choice = 0; choice < 64; choice++)
		write_conversation(f, choice);
	write_template(data, n);
	return 0;
}
