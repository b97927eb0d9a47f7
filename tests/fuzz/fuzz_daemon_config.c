/*
 * The daemon's configuration: any text is a configuration or a reason, and one that is accepted
 * prints as text that reads back to the same.
 */
#include "daemon/config.h"
#include "daemon/config_yaml.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int take_key(void *user, const char *name, const char *text, struct reason *reason)
{
	return config_set(user, name, text, reason);
}

/* The same steps as config_read(), from memory. NULL if refused, and then with a reason. */
static struct config *read_text(const char *text, size_t n)
{
	_cleanup_(config_freep) struct config *c = NULL;
	struct reason reason = {0};
	int r;

	if (config_new(&c, &reason) < 0)
		return NULL;
	r = config_yaml_walk(text, n, take_key, c, &reason);
	if (r == 0)
		r = config_check(c, &reason);
	assert(r <= 0);
	assert(r == 0 || reason.text[0]);
	return r == 0 ? take_ptr(c) : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_(config_freep) struct config *c = read_text((const char *)data, n);
	_cleanup_(config_freep) struct config *again = NULL;
	_cleanup_(freep) char *printed = NULL;
	size_t n_printed = 0, index = 0;
	FILE *out;

	if (!c)
		return 0;
	out = open_memstream(&printed, &n_printed);
	assert(out);
	config_print(c, out);
	fclose(out);
	again = read_text(printed, n_printed);
	assert(again);
	assert(!config_difference(c, again, &index));
	return 0;
}
