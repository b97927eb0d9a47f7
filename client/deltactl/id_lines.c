#include "client/deltactl/id_lines.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* Bytes of a line for each id that it may have: ten digits, a comma and generous white space. */
#define BYTES_PER_ID 64u
#define MAX_LINES (1u << 20)

/* A line as it comes in, at most `room` bytes of it. */
struct text_line {
	char *bytes;
	size_t n, room;
};

struct reader {
	FILE *file;
	const char *name;
	uint32_t vocab, max_ids;
	struct text_line line;
	size_t number;
};

void id_lines_done(struct id_lines *lines)
{
	for (size_t i = 0; i < lines->n; i++)
		free(lines->lines[i].ids);
	free(lines->lines);
	*lines = (struct id_lines){0};
}

/* 1: a line; 0: the end. */
static int next_line(struct reader *r, struct reason *reason)
{
	int c;

	r->line.n = 0;
	r->number++;
	while ((c = getc(r->file)) != EOF && c != '\n') {
		if (r->line.n == r->line.room)
			return reason_set(reason, -EBADMSG,
				"%s line %zu: longer than %zu bytes, what %u ids can take", r->name,
				r->number, r->line.room, r->max_ids);
		r->line.bytes[r->line.n++] = (char)c;
	}
	if (ferror(r->file))
		return reason_set(reason, -errno, "%s: %s", r->name, strerror(errno));
	return c == '\n' || r->line.n > 0;
}

static bool is_blank(const struct text_line *line)
{
	for (size_t i = 0; i < line->n; i++)
		if (!memchr(" \t\r", line->bytes[i], 3))
			return false;
	return true;
}

static int parse_ids(
	const struct reader *r, const json_t *array, struct id_line *ret, struct reason *reason)
{
	size_t n = json_array_size(array);
	_cleanup_(freep) uint32_t *ids = NULL;

	if (!json_is_array(array) || n == 0)
		return reason_set(reason, -EBADMSG, "%s line %zu: expected an array of token ids",
			r->name, r->number);
	if (n > r->max_ids)
		return reason_set(reason, -EBADMSG, "%s line %zu: %zu ids, at most %u fit", r->name,
			r->number, n, r->max_ids);
	ids = calloc(n, sizeof(*ids));
	if (!ids)
		return reason_set(reason, -ENOMEM, "no memory for %zu ids", n);
	for (size_t i = 0; i < n; i++) {
		const json_t *value = json_array_get(array, i);
		json_int_t id = json_integer_value(value);

		if (!json_is_integer(value) || id < 0 || id >= r->vocab)
			return reason_set(reason, -EBADMSG,
				"%s line %zu: value %zu is not a token id below %u", r->name,
				r->number, i + 1, r->vocab);
		ids[i] = (uint32_t)id;
	}
	*ret = (struct id_line){.number = r->number, .ids = take_ptr(ids), .n = n};
	return 0;
}

static int parse_line(const struct reader *r, struct id_line *ret, struct reason *reason)
{
	json_error_t error;
	json_t *array = json_loadb(r->line.bytes, r->line.n, 0, &error);
	int result;

	if (!array)
		return reason_set(
			reason, -EBADMSG, "%s line %zu: %s", r->name, r->number, error.text);
	result = parse_ids(r, array, ret, reason);
	json_decref(array);
	return result;
}

static int append_line(struct id_lines *lines, size_t *room, const struct id_line *line)
{
	if (lines->n == *room) {
		size_t more = *room ? 2 * *room : 16;
		struct id_line *grown = reallocarray(lines->lines, more, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		lines->lines = grown;
		*room = more;
	}
	lines->lines[lines->n++] = *line;
	return 0;
}

static int read_lines(struct reader *r, struct id_lines *ret, struct reason *reason)
{
	size_t room = 0;
	int result;

	while ((result = next_line(r, reason)) > 0) {
		struct id_line line;

		if (is_blank(&r->line))
			continue;
		if (ret->n == MAX_LINES)
			return reason_set(
				reason, -EBADMSG, "%s: more than %u lines", r->name, MAX_LINES);
		result = parse_line(r, &line, reason);
		if (result < 0)
			return result;
		result = append_line(ret, &room, &line);
		if (result < 0) {
			free(line.ids);
			return reason_set(reason, result, "no memory for the lines of %s", r->name);
		}
	}
	return result;
}

int id_lines_read(const char *path, uint32_t vocab, uint32_t max_ids, struct id_lines *ret,
	struct reason *reason)
{
	bool standard = strcmp(path, "-") == 0;
	struct reader r = {
		.file = standard ? stdin : fopen(path, "re"),
		.name = standard ? "standard input" : path,
		.vocab = vocab,
		.max_ids = max_ids,
		.line.room = 4096 + (size_t)BYTES_PER_ID * max_ids,
	};
	_cleanup_(id_lines_done) struct id_lines lines = {0};
	int result = -ENOMEM;

	if (!r.file)
		return reason_set(reason, -errno, "%s: %s", path, strerror(errno));
	r.line.bytes = malloc(r.line.room);
	if (r.line.bytes)
		result = read_lines(&r, &lines, reason);
	free(r.line.bytes);
	if (!standard)
		fclose(r.file);
	if (result < 0)
		return result;
	*ret = lines;
	lines = (struct id_lines){0};
	return 0;
}
