#include "compress/merge_tokenizer.h"

#include "compress/merge_files.h"
#include "engine/chat.h"
#include "foreign/chat_print.h"
#include "foreign/tokenizer_config.h"
#include "foreign/tokenizer_edit.h"
#include "foreign/tokenizer_json.h"
#include "foreign/tokenizer_source.h"

#include <string.h>

/* The files that are edited. */
enum file {
	FILE_TOKENIZER,
	FILE_CONFIG,
	FILE_NAMES,
	FILE_ADDED,
	N_FILES,
};

static const char *const file_names[N_FILES] = {
	[FILE_TOKENIZER] = "tokenizer.json",
	[FILE_CONFIG] = "tokenizer_config.json",
	[FILE_NAMES] = "special_tokens_map.json",
	[FILE_ADDED] = "added_tokens.json",
};

/* Those that say nothing of what a delta changes. */
static const char *const copied[] = {"vocab.json", "merges.txt", "tokenizer.model"};

struct editor {
	const struct merge_tokenizer *m;
	json_t *files[N_FILES]; /* NULL: the base has none */
	bool changed[N_FILES];
	bool template_replaced; /* in FILE_CONFIG; a file of its own goes */
	struct merge_tokenizer_report report;
};

static void editor_done(struct editor *e)
{
	for (size_t i = 0; i < N_FILES; i++)
		json_decref(e->files[i]);
}

static int load_files(struct editor *e, struct reason *reason)
{
	static const struct json_limits limits = {1u << 24, 32, 1u << 20, JSON_ALLOW_NUL};
	const char *folder = e->m->base_folder;
	int r = tokenizer_json_load(folder, &e->files[FILE_TOKENIZER], reason);

	if (r == 0 || r == -ENOENT)
		r = tokenizer_config_load(folder, &e->files[FILE_CONFIG], reason);
	for (size_t i = FILE_NAMES; r == 0 && i < N_FILES; i++) {
		r = json_object_load(folder, file_names[i], &limits, &e->files[i], reason);
		if (r == -ENOENT)
			r = 0;
	}
	return r;
}

/* added_tokens.json: token to id. */
static int map_tokens(struct editor *e, const json_t *tokens)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < json_array_size(tokens); i++) {
		const json_t *token = json_array_get(tokens, i);

		r = json_object_set(e->files[FILE_ADDED],
			json_string_value(json_object_get(token, "content")),
			json_object_get(token, "id"));
	}
	return r < 0 ? -ENOMEM : 0;
}

static int add_tokens(struct editor *e, struct reason *reason)
{
	_cleanup_(json_freep) json_t *tokens = NULL;
	uint64_t n;
	const uint8_t *section = image_section(e->m->delta, SECTION_TOKENIZER, &n);
	int r;

	if (!section)
		return 0;
	if (!e->files[FILE_TOKENIZER]) {
		(void)reason_set(&e->report.tokens_refused, 0,
			"tokenizer.json: the base has none that the fine-tune's tokens could be "
			"added to");
		return 0;
	}
	r = tokenizer_edit_add(e->files[FILE_TOKENIZER], section, n, &tokens, reason);
	if (r == 0)
		r = tokenizer_edit_list(e->files[FILE_CONFIG], tokens);
	if (r == 0 && e->files[FILE_ADDED])
		r = map_tokens(e, tokens);
	if (r < 0)
		return r;
	e->changed[FILE_TOKENIZER] = true;
	e->changed[FILE_CONFIG] = json_object_get(e->files[FILE_CONFIG], "added_tokens_decoder");
	e->changed[FILE_ADDED] = e->files[FILE_ADDED];
	e->report.n_tokens = (uint32_t)json_array_size(tokens);
	return 0;
}

static int need_config(struct editor *e)
{
	if (!e->files[FILE_CONFIG])
		e->files[FILE_CONFIG] = json_object();
	e->changed[FILE_CONFIG] = true;
	return e->files[FILE_CONFIG] ? 0 : -ENOMEM;
}

static int name_token(struct editor *e, const char *key, int64_t id)
{
	const char *token = tokenizer_edit_spelling(e->files[FILE_TOKENIZER], id);
	int r;

	if (!token)
		return 0;
	r = need_config(e);
	if (r == 0)
		r = tokenizer_edit_name(e->files[FILE_CONFIG], key, token);
	if (r == 0 && e->files[FILE_NAMES]) {
		r = tokenizer_edit_name(e->files[FILE_NAMES], key, token);
		e->changed[FILE_NAMES] = true;
	}
	return r;
}

/* The end-of-text id that is spelled so; -1 if none is. */
static int64_t find_end(const struct editor *e, const char *spelling)
{
	const struct model_config *c = e->m->config;

	for (uint32_t i = 0; spelling && i < c->n_eos; i++) {
		const char *token = tokenizer_edit_spelling(e->files[FILE_TOKENIZER], c->eos[i]);

		if (token && strcmp(token, spelling) == 0)
			return c->eos[i];
	}
	return -1;
}

/* Of several ids that end a text: what ends an answer, else what the base calls so, else the first.
 */
static int choose_end(const struct editor *e, int64_t *ret, struct reason *reason)
{
	uint64_t n;
	const uint8_t *section = image_section(e->m->delta, SECTION_CHAT, &n);
	struct chat_format *format;
	int64_t id = -1;

	if (section) {
		int r = chat_format_new(section, n, &format, reason);

		if (r < 0)
			return r;
		id = find_end(e, chat_format_stop(format));
		chat_format_free(format);
	}
	if (id < 0)
		id = find_end(e, tokenizer_config_token(e->files[FILE_CONFIG], "eos_token"));
	*ret = id < 0 ? e->m->config->eos[0] : id;
	return 0;
}

static bool same_ends(const struct model_config *a, const struct model_config *b)
{
	return a->n_eos == b->n_eos && memcmp(a->eos, b->eos, a->n_eos * sizeof(*a->eos)) == 0;
}

/* Where the fine-tune has other ids than the base, the names follow. */
static int name_tokens(struct editor *e, struct reason *reason)
{
	const struct model_config *was = e->m->base_config, *is = e->m->config;
	int64_t end;
	int r = 0;

	if (is->bos >= 0 && is->bos != was->bos)
		r = name_token(e, "bos_token", is->bos);
	if (r == 0 && is->pad >= 0 && is->pad != was->pad)
		r = name_token(e, "pad_token", is->pad);
	if (r < 0 || is->n_eos == 0 || same_ends(was, is))
		return r;
	r = choose_end(e, &end, reason);
	return r < 0 ? r : name_token(e, "eos_token", end);
}

/* Does the base's own template, with the names as they are now, say what the section says? */
static int keeps_template(const struct editor *e, const uint8_t *section, uint64_t n, bool *ret,
	struct reason *reason)
{
	_cleanup_(freep) uint8_t *here = NULL;
	size_t n_here = 0;
	int r = chat_format_configured(
		e->m->base_folder, e->files[FILE_CONFIG], &here, &n_here, reason);

	*ret = r == 0 && n_here == n && memcmp(here, section, n_here) == 0;
	return r == -EOPNOTSUPP ? 0 : r;
}

/* Without a format in the delta the base's serves. */
static int set_template(struct editor *e, struct reason *reason)
{
	_cleanup_(text_done) struct text template = {0};
	uint64_t n;
	const uint8_t *section = image_section(e->m->delta, SECTION_CHAT, &n);
	bool keeps = true;
	int r = section ? keeps_template(e, section, n, &keeps, reason) : 0;

	if (r < 0 || keeps)
		return r;
	r = need_config(e);
	if (r < 0)
		return r;
	e->template_replaced = true;
	(void)json_object_del(e->files[FILE_CONFIG], "chat_template");
	r = chat_print(section, n, &template, &e->report.template_refused);
	if (r == -EOPNOTSUPP)
		return 0;
	if (r < 0) {
		*reason = e->report.template_refused;
		return r;
	}
	e->report.wrote_template = true;
	r = json_object_set_new(
		e->files[FILE_CONFIG], "chat_template", json_stringn(template.items, template.n));
	return r < 0 ? -ENOMEM : 0;
}

static int write_files(const struct editor *e, struct reason *reason)
{
	const char *from = e->m->base_folder, *to = e->m->folder;
	int r = 0;

	for (size_t i = 0; r == 0 && i < N_FILES; i++)
		if (e->changed[i])
			r = merge_files_json(to, file_names[i], e->files[i], reason);
		else
			r = merge_files_copy(from, to, file_names[i], reason);
	for (size_t i = 0; r == 0 && i < array_len(copied); i++)
		r = merge_files_copy(from, to, copied[i], reason);
	if (r == 0 && !e->template_replaced)
		r = merge_files_copy(from, to, "chat_template.jinja", reason);
	return r;
}

/* Compiled against the base's, the new files must make the delta's section again. */
static int check_tokens(const struct editor *e, struct reason *reason)
{
	_cleanup_(freep) uint8_t *here = NULL;
	size_t n_here;
	uint64_t n;
	const uint8_t *section = image_section(e->m->delta, SECTION_TOKENIZER, &n);
	int r;

	if (!section || !e->files[FILE_TOKENIZER])
		return 0;
	r = tokenizer_compile_extra(e->m->base_folder, e->m->folder, &here, &n_here, reason);
	if (r < 0)
		return reason_prefix(reason, r, "with the fine-tune's tokens");
	if (n_here != n || memcmp(here, section, n_here) != 0)
		return reason_set(reason, -EMEDIUMTYPE,
			"%s/tokenizer.json is not the one that the delta was made with",
			e->m->base_folder);
	return 0;
}

int merge_tokenizer(
	const struct merge_tokenizer *m, struct merge_tokenizer_report *ret, struct reason *reason)
{
	_cleanup_(editor_done) struct editor e = {.m = m};
	int r = load_files(&e, reason);

	if (r == 0)
		r = add_tokens(&e, reason);
	if (r == 0)
		r = name_tokens(&e, reason);
	if (r == 0)
		r = set_template(&e, reason);
	if (r == 0)
		r = write_files(&e, reason);
	if (r == 0)
		r = check_tokens(&e, reason);
	if (r == 0)
		*ret = e.report;
	return r;
}
