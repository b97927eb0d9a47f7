#include "client/deltactl/document.h"

#include "client/deltactl/command.h"
#include "client/deltactl/table.h"

#include <math.h>
#include <string.h>

#define FAILED_KEY "incomplete"
#define KEY_WIDTH 27

void document_set(json_t *object, const char *key, json_t *value)
{
	if (json_object_set_new(object, key, value) < 0)
		json_object_set_new(object, FAILED_KEY, json_true());
}

bool document_complete(const json_t *document)
{
	const char *key;
	const json_t *value;
	size_t i;

	if (!document || json_object_get(document, FAILED_KEY))
		return false;
	json_object_foreach((json_t *)(uintptr_t)document, key, value)
	{
		if (!document_complete(value))
			return false;
	}
	json_array_foreach(document, i, value)
	{
		if (!document_complete(value))
			return false;
	}
	return true;
}

/* Foreign text must not steer the terminal: C0 and C1 controls become '?'. */
static void replace_controls(char *text)
{
	for (unsigned char *at = (unsigned char *)text; *at; at++) {
		bool c1 = at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0;

		if (*at < 0x20 || *at == 0x7f)
			*at = '?';
		else if (c1)
			at[0] = at[1] = '?';
	}
}

static bool ends_with(const char *text, const char *end)
{
	size_t n = strlen(text), n_end = strlen(end);

	return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* malloc'ed text of a value that is not an object; NULL if out of memory. */
static char *value_text(const char *key, const json_t *value)
{
	char *text = NULL, size[16];

	if (!value || json_is_null(value))
		return strdup("-");
	if (json_is_string(value))
		text = strdup(json_string_value(value));
	else if (json_is_boolean(value))
		text = strdup(json_is_true(value) ? "yes" : "no");
	else if (json_is_integer(value) && ends_with(key, "bytes"))
		text = strdup(human_bytes((uint64_t)json_integer_value(value), size));
	else if (json_is_real(value) && asprintf(&text, "%.4g", json_real_value(value)) < 0)
		return NULL;
	else if (!json_is_real(value))
		text = json_dumps(value, JSON_ENCODE_ANY);
	if (text)
		replace_controls(text);
	return text;
}

/* Keys of JSON are as long as they need to be; a table has to fit. */
static const char *head_of(const char *key)
{
	static const char *const heads[][2] = {
		{"bits_per_weight", "bits/w"},
		{"weight_error", "err(w)"},
		{"activation_error", "err(act)"},
		{"delta_norm", "norm"},
	};

	for (size_t i = 0; i < array_len(heads); i++)
		if (strcmp(heads[i][0], key) == 0)
			return heads[i][1];
	return key;
}

static void add_columns(struct table *t, const json_t *first)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)first, key, value)
	{
		if (t->n_columns < TABLE_MAX_COLUMNS)
			table_column(t, key, json_is_number(value) || json_is_null(value));
	}
}

static int print_table(const json_t *rows)
{
	_cleanup_(table_done) struct table t = {0};

	add_columns(&t, json_array_get(rows, 0));
	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i);

		for (size_t column = 0; column < t.n_columns; column++) {
			const char *key = t.heads[column];
			_cleanup_(freep) char *text = value_text(key, json_object_get(row, key));

			if (!text)
				return -ENOMEM;
			table_cell(&t, "%s", text);
		}
	}
	for (size_t column = 0; column < t.n_columns; column++)
		t.heads[column] = head_of(t.heads[column]);
	return table_print(&t, stdout, 0);
}

static bool is_table(const json_t *value)
{
	return json_is_object(json_array_get(value, 0));
}

static void print_key(const char *key, int indent)
{
	int width = printf("%*s", indent, "");

	for (; *key; key++, width++)
		putchar(*key == '_' ? ' ' : *key);
	printf("%*s ", width < KEY_WIDTH ? KEY_WIDTH - width : 0, "");
}

static int print_plain(const json_t *object, int indent)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, key, value)
	{
		_cleanup_(freep) char *text = NULL;

		if (json_is_object(value) || is_table(value))
			continue;
		text = value_text(key, value);
		if (!text)
			return -ENOMEM;
		print_key(key, indent);
		puts(text);
	}
	return 0;
}

static int print_text(const json_t *document)
{
	const char *key;
	json_t *value;
	int r = print_plain(document, 0);

	json_object_foreach((json_t *)(uintptr_t)document, key, value)
	{
		if (r == 0 && json_is_object(value)) {
			printf("\n%s\n", key);
			r = print_plain(value, 2);
		} else if (r == 0 && is_table(value)) {
			printf("\n%s\n", key);
			r = print_table(value);
		}
	}
	return r;
}

int document_print(const json_t *document, bool as_json)
{
	if (!document_complete(document))
		return -ENOMEM;
	if (!as_json)
		return print_text(document);
	if (json_dumpf(document, stdout, JSON_COMPACT) < 0)
		return ferror(stdout) ? -EIO : -ENOMEM;
	printf("\n");
	return 0;
}
