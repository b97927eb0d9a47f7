/*
 * Finds a folder's chat template: chat_template.jinja, or in tokenizer_config.json a string or a
 * list of named ones, of which "default" counts.
 */
#include "common/file.h"
#include "foreign/chat_fit.h"
#include "foreign/tokenizer_config.h"
#include "foreign/tokenizer_json.h"

#include <stdio.h>
#include <string.h>

#define MAX_TEMPLATE_BYTES ((size_t)1 << 20)

struct template_source {
	char *file; /* owned; or NULL */
	const char *text;
	size_t n;
};

static void template_source_done(struct template_source *s)
{
	free(s->file);
}

/* The default one of a list of {name, template}. */
static const json_t *find_default(const json_t *templates)
{
	for (size_t i = 0; i < json_array_size(templates); i++) {
		const json_t *item = json_array_get(templates, i);
		const char *name = json_string_value(json_object_get(item, "name"));

		if (name && strcmp(name, "default") == 0)
			return json_object_get(item, "template");
	}
	return NULL;
}

static int find_template(
	struct template_source *s, const char *folder, const json_t *config, struct reason *reason)
{
	_cleanup_(freep) char *path = NULL;
	struct reason absent = {0};
	const json_t *text;
	int r;

	if (asprintf(&path, "%s/chat_template.jinja", folder) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = file_load(path, MAX_TEMPLATE_BYTES, &s->file, &s->n, &absent);
	if (r == 0) {
		s->text = s->file;
		return 0;
	}
	/* A file that cannot be a template is one we do not know, as is one that is not Jinja. */
	if (r != -ENOENT)
		return reason_set(reason, r == -EBADMSG ? -EOPNOTSUPP : r, "%s", absent.text);
	text = json_object_get(config, "chat_template");
	if (json_is_array(text))
		text = find_default(text);
	if (!json_is_string(text))
		return reason_set(reason, -EOPNOTSUPP, "the model has no chat template");
	s->text = json_string_value(text);
	s->n = json_string_length(text);
	return 0;
}

int chat_format_configured(const char *folder, const json_t *config, uint8_t **ret, size_t *ret_n,
	struct reason *reason)
{
	_cleanup_(template_source_done) struct template_source source = {0};
	_cleanup_(text_done) struct text section = {0};
	struct chat_template t = {0};
	int r = find_template(&source, folder, config, reason);

	if (r < 0)
		return r;
	t.bos_token = tokenizer_config_token(config, "bos_token");
	t.eos_token = tokenizer_config_token(config, "eos_token");
	r = jinja_new(source.text, source.n, &t.jinja, reason);
	if (r == -EBADMSG)
		r = -EOPNOTSUPP;
	if (r == 0)
		r = chat_fit(&t, &section, reason);
	jinja_free(t.jinja);
	if (r)
		return r < 0 ? r
			     : reason_set(reason, -EOPNOTSUPP,
				       "the chat template refuses plain conversations");
	*ret_n = section.n;
	*ret = (uint8_t *)take_ptr(section.items);
	return 0;
}

int chat_format_compile(const char *folder, uint8_t **ret, size_t *ret_n, struct reason *reason)
{
	_cleanup_(json_freep) json_t *config = NULL;
	int r = tokenizer_config_load(folder, &config, reason);

	return r < 0 ? r : chat_format_configured(folder, config, ret, ret_n, reason);
}
