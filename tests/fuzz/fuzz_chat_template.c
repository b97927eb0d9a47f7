/*
 * Any bytes as a chat template: it is parsed, run, and if it can be, made a format, which must then
 * be one that the engine accepts.
 */
#include "engine/chat.h"
#include "foreign/chat_fit.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct chat_template t = {.bos_token = "<s>", .eos_token = "</s>"};
	_cleanup_(text_done) struct text section = {0};
	struct chat_format *format;

	if (jinja_new((const char *)data, n, &t.jinja, NULL) < 0)
		return 0;
	if (chat_fit(&t, &section, NULL) == 0) {
		int r = chat_format_new((const uint8_t *)section.items, section.n, &format, NULL);

		assert(r == 0);
		chat_format_free(format);
	}
	jinja_free(t.jinja);
	return 0;
}
