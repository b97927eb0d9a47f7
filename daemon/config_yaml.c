#include "daemon/config_yaml.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

#define MAX_KEYS 256
#define NAME_SIZE 64

struct walk {
	yaml_parser_t parser;
	yaml_event_t event;
	bool has_event;
	config_yaml_fn *fn;
	void *user;
	struct reason *reason;
	char section[NAME_SIZE];
	char seen[MAX_KEYS][NAME_SIZE];
	size_t n_seen;
};

static int fail(struct walk *w, size_t line, const char *words)
{
	return reason_set(w->reason, -EBADMSG, "line %zu: %s", line + 1, words);
}

static int next_event(struct walk *w)
{
	if (w->has_event)
		yaml_event_delete(&w->event);
	w->has_event = false;
	if (!yaml_parser_parse(&w->parser, &w->event))
		return w->parser.error == YAML_MEMORY_ERROR
			       ? -ENOMEM
			       : fail(w, w->parser.problem_mark.line,
					 w->parser.problem ? w->parser.problem : "not YAML");
	w->has_event = true;
	return 0;
}

static size_t line_of(const struct walk *w)
{
	return w->event.start_mark.line;
}

/* The scalar of the current event: a plain value, without anchor or tag. */
static int scalar_text(struct walk *w, const char **ret)
{
	const char *text = (const char *)w->event.data.scalar.value;

	if (w->event.type != YAML_SCALAR_EVENT)
		return fail(w, line_of(w), "a name or a value was expected here");
	if (w->event.data.scalar.anchor || w->event.data.scalar.tag)
		return fail(w, line_of(w), "anchors and tags are not used here");
	if (strlen(text) != w->event.data.scalar.length)
		return fail(w, line_of(w), "a zero byte inside a value");
	*ret = text;
	return 0;
}

static int remember(struct walk *w, const char *name, size_t line)
{
	for (size_t i = 0; i < w->n_seen; i++)
		if (strcmp(w->seen[i], name) == 0)
			return reason_set(
				w->reason, -EBADMSG, "line %zu: %s is set twice", line + 1, name);
	if (w->n_seen == MAX_KEYS)
		return fail(w, line, "too many keys");
	snprintf(w->seen[w->n_seen++], NAME_SIZE, "%s", name);
	return 0;
}

static int walk_key(struct walk *w)
{
	size_t line = line_of(w);
	char name[NAME_SIZE];
	const char *text;
	int n, r;

	r = scalar_text(w, &text);
	if (r < 0)
		return r;
	n = snprintf(name, sizeof(name), "%s.%s", w->section, text);
	if (n >= (int)sizeof(name))
		return fail(w, line, "the name of this key is too long");
	r = remember(w, name, line);
	if (r < 0)
		return r;
	r = next_event(w);
	if (r < 0)
		return r;
	r = scalar_text(w, &text);
	if (r < 0)
		return r;
	r = w->fn(w->user, name, text, w->reason);
	return r < 0 ? reason_prefix(w->reason, r, "line %zu", line + 1) : 0;
}

/* "section:" and its keys; an empty section has a null value. */
static int walk_section(struct walk *w)
{
	const char *text;
	int r;

	r = scalar_text(w, &text);
	if (r < 0)
		return r;
	if (snprintf(w->section, sizeof(w->section), "%s", text) >= (int)sizeof(w->section))
		return fail(w, line_of(w), "the name of this section is too long");
	r = next_event(w);
	if (r < 0)
		return r;
	if (w->event.type == YAML_SCALAR_EVENT && w->event.data.scalar.length == 0)
		return 0;
	if (w->event.type != YAML_MAPPING_START_EVENT)
		return fail(w, line_of(w), "a section holds \"key: value\" lines");
	for (;;) {
		r = next_event(w);
		if (r < 0)
			return r;
		if (w->event.type == YAML_MAPPING_END_EVENT)
			return 0;
		r = walk_key(w);
		if (r < 0)
			return r;
	}
}

static int walk_sections(struct walk *w)
{
	for (;;) {
		int r = next_event(w);

		if (r < 0)
			return r;
		if (w->event.type == YAML_MAPPING_END_EVENT)
			return 0;
		r = walk_section(w);
		if (r < 0)
			return r;
	}
}

static int walk_document(struct walk *w)
{
	int r;

	/* The stream's start, then a document's, or the end of an empty file. */
	r = next_event(w);
	if (r < 0)
		return r;
	r = next_event(w);
	if (r < 0 || w->event.type == YAML_STREAM_END_EVENT)
		return r;
	r = next_event(w);
	if (r < 0)
		return r;
	if (w->event.type == YAML_MAPPING_START_EVENT) {
		r = walk_sections(w);
		if (r < 0)
			return r;
	} else if (w->event.type != YAML_SCALAR_EVENT || w->event.data.scalar.length > 0) {
		return fail(w, line_of(w), "the file holds sections of \"key: value\" lines");
	}
	/* The document's end, then the stream's. */
	r = next_event(w);
	if (r < 0)
		return r;
	r = next_event(w);
	if (r < 0)
		return r;
	if (w->event.type != YAML_STREAM_END_EVENT)
		return fail(w, line_of(w), "a second document begins here");
	return 0;
}

int config_yaml_walk(
	const char *bytes, size_t n, config_yaml_fn *fn, void *user, struct reason *reason)
{
	_cleanup_(freep) struct walk *w = calloc(1, sizeof(*w));
	int r;

	if (!w || !yaml_parser_initialize(&w->parser))
		return -ENOMEM;
	w->fn = fn;
	w->user = user;
	w->reason = reason;
	yaml_parser_set_input_string(&w->parser, (const unsigned char *)bytes, n);
	r = walk_document(w);
	if (w->has_event)
		yaml_event_delete(&w->event);
	yaml_parser_delete(&w->parser);
	return r;
}
