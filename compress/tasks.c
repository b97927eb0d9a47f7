#include "compress/tasks.h"

#include "common/file.h"
#include "foreign/json.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#define MAX_FILE_BYTES (UINT64_C(256) << 20)

static const struct json_limits line_limits = {
	.max_bytes = 1 << 20, .max_depth = 4, .max_values = 64};

static const struct {
	const char *name;
	uint32_t max_tokens;
} metrics[] = {
	[TASK_METRIC_FINAL_NUMBER] = {"final-number", 64},
	[TASK_METRIC_EXACT] = {"exact", 192},
	[TASK_METRIC_PERPLEXITY] = {"perplexity", 0},
};

const char *task_metric_name(enum task_metric metric)
{
	return metrics[metric].name;
}

uint32_t task_metric_tokens(enum task_metric metric)
{
	return metrics[metric].max_tokens;
}

void tasks_done(struct tasks *t)
{
	for (size_t i = 0; i < t->n; i++) {
		free(t->tasks[i].prompt);
		free(t->tasks[i].reference);
		free(t->tasks[i].answer);
	}
	free(t->tasks);
	*t = (struct tasks){0};
}

static int find_metric(const char *name, enum task_metric *ret, struct reason *reason)
{
	for (size_t i = 0; i < array_len(metrics); i++)
		if (strcmp(metrics[i].name, name) == 0) {
			*ret = (enum task_metric)i;
			return 0;
		}
	return reason_set(reason, -EOPNOTSUPP,
		"metric '%s' is unknown, expected final-number, exact or perplexity", name);
}

static int copy_fields(struct json_fields *f, struct task *task, enum task_metric *ret_metric)
{
	const char *prompt = json_field_string(f, "prompt");
	const char *reference = json_field_string(f, "reference");
	const char *metric = json_field_string(f, "metric");
	const char *answer;
	int r;

	if (f->error)
		return f->error;
	r = find_metric(metric, ret_metric, f->reason);
	if (r < 0)
		return r;
	answer = *ret_metric == TASK_METRIC_PERPLEXITY ? json_field_string_or(f, "answer", "")
						       : json_field_string(f, "answer");
	if (f->error)
		return f->error;
	task->prompt = strdup(prompt);
	task->reference = strdup(reference);
	task->answer = strdup(answer);
	return task->prompt && task->reference && task->answer ? 0 : -ENOMEM;
}

static int add_task(struct tasks *t, const char *line, size_t n, struct reason *reason)
{
	_cleanup_(json_freep) json_t *object = NULL;
	struct json_fields fields = {.name = "task", .reason = reason};
	struct task *grown = realloc(t->tasks, (t->n + 1) * sizeof(*grown));
	enum task_metric metric = t->metric;
	int r;

	if (!grown)
		return -ENOMEM;
	t->tasks = grown;
	t->tasks[t->n] = (struct task){0};
	r = json_object_parse(line, n, &line_limits, &object, reason);
	if (r < 0)
		return r;
	fields.object = object;
	t->n++;
	r = copy_fields(&fields, &t->tasks[t->n - 1], &metric);
	if (r < 0)
		return r;
	if (t->n > 1 && metric != t->metric)
		return reason_set(reason, -EBADMSG,
			"metric is %s, that of the tasks before it is %s", task_metric_name(metric),
			task_metric_name(t->metric));
	t->metric = metric;
	return 0;
}

int tasks_load_rows(
	const char *path, size_t first, size_t end, struct tasks *ret, struct reason *reason)
{
	_cleanup_(tasks_done) struct tasks t = {0};
	_cleanup_(freep) char *text = NULL;
	size_t n = 0, line = 0, row = 0;
	int r;

	r = file_load(path, MAX_FILE_BYTES, &text, &n, reason);
	if (r < 0)
		return r;
	for (size_t at = 0; at < n && row < end;) {
		const char *newline = memchr(text + at, '\n', n - at);
		size_t length = newline ? (size_t)(newline - text) - at : n - at;

		line++;
		if (length > 0 && row++ >= first) {
			r = add_task(&t, text + at, length, reason);
			if (r < 0)
				return reason_prefix(reason, r, "%s: line %zu", path, line);
		}
		at += length + 1;
	}
	if (t.n == 0 && row > 0)
		return reason_set(
			reason, -EBADMSG, "%s: has %zu tasks, none from %zu on", path, row, first);
	if (t.n == 0)
		return reason_set(reason, -EBADMSG, "%s: has no tasks", path);
	*ret = t;
	t = (struct tasks){0};
	return 0;
}

/* The number at the beginning, thousands separators and a currency sign apart; NaN if none. */
static double leading_number(const char *text)
{
	char digits[64];
	size_t n = 0;
	char *end;
	double value;

	while (isspace((unsigned char)*text) || *text == '$')
		text++;
	for (; n + 1 < sizeof(digits); text++) {
		if (*text == ',')
			continue;
		if (!isdigit((unsigned char)*text) && *text != '.' && *text != '-')
			break;
		digits[n++] = *text;
	}
	digits[n] = '\0';
	value = strtod(digits, &end);
	return end == digits ? (double)NAN : value;
}

static const char *after_last_mark(const char *text)
{
	const char *found = NULL;

	for (const char *at = strstr(text, "####"); at; at = strstr(at + 4, "####"))
		found = at + 4;
	return found;
}

static bool same_number(const char *text, const char *answer)
{
	const char *at = after_last_mark(text);

	return at && leading_number(at) == leading_number(answer);
}

static void strip(const char **text, size_t *n)
{
	while (*n > 0 && isspace((unsigned char)**text)) {
		(*text)++;
		(*n)--;
	}
	while (*n > 0 && isspace((unsigned char)(*text)[*n - 1]))
		(*n)--;
}

static bool same_text(const char *text, const char *answer)
{
	size_t n_text = strlen(text), n_answer = strlen(answer);

	strip(&text, &n_text);
	strip(&answer, &n_answer);
	return n_text == n_answer && memcmp(text, answer, n_text) == 0;
}

bool task_solved(const struct task *task, enum task_metric metric, const char *text)
{
	switch (metric) {
	case TASK_METRIC_FINAL_NUMBER:
		return same_number(text, task->answer);
	case TASK_METRIC_EXACT:
		return same_text(text, task->answer);
	case TASK_METRIC_PERPLEXITY:
		break;
	}
	return false;
}
