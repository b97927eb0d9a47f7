#include "client/deltactl/table.h"

#include <stdarg.h>
#include <string.h>

void table_column(struct table *t, const char *head, bool right)
{
	t->heads[t->n_columns] = head;
	t->right[t->n_columns++] = right;
}

static bool room_for_cell(struct table *t)
{
	size_t room = t->room ? 2 * t->room : 64;
	char **cells;

	if (t->n_cells < t->room)
		return true;
	cells = reallocarray(t->cells, room, sizeof(*cells));
	if (!cells)
		return false;
	t->cells = cells;
	t->room = room;
	return true;
}

void table_cell(struct table *t, const char *fmt, ...)
{
	va_list args;
	char *text;
	int n;

	if (t->failed || !room_for_cell(t)) {
		t->failed = true;
		return;
	}
	va_start(args, fmt);
	n = vasprintf(&text, fmt, args);
	va_end(args);
	if (n < 0)
		t->failed = true;
	else
		t->cells[t->n_cells++] = text;
}

/* Characters, taking each as one column wide. */
static size_t width_of(const char *text)
{
	size_t width = 0;

	for (; *text; text++)
		width += (*text & 0xc0) != 0x80;
	return width;
}

static void print_cell(FILE *to, const char *text, size_t width, bool right, bool last)
{
	int gap = (int)(width - width_of(text));

	if (right)
		fprintf(to, "%*s%s", gap, "", text);
	else
		fprintf(to, "%s%*s", text, last ? 0 : gap, "");
	fputs(last ? "\n" : "  ", to);
}

/* Without blanks at the end of the line. */
static void print_row(
	const struct table *t, FILE *to, const size_t *widths, const char *const *cells)
{
	size_t n = t->n_columns;

	while (n > 1 && cells[n - 1][0] == '\0')
		n--;
	for (size_t c = 0; c < n; c++)
		print_cell(to, cells[c], widths[c], t->right[c], c + 1 == n);
}

int table_print(const struct table *t, FILE *to, size_t max_rows)
{
	size_t n_rows = t->n_columns ? t->n_cells / t->n_columns : 0;
	size_t widths[TABLE_MAX_COLUMNS] = {0};

	if (t->failed)
		return -ENOMEM;
	for (size_t c = 0; c < t->n_columns; c++)
		widths[c] = width_of(t->heads[c]);
	for (size_t i = 0; i < t->n_cells; i++)
		widths[i % t->n_columns] = max_u64(widths[i % t->n_columns], width_of(t->cells[i]));
	print_row(t, to, widths, t->heads);
	if (max_rows && n_rows > max_rows)
		n_rows = max_rows;
	for (size_t r = 0; r < n_rows; r++)
		print_row(t, to, widths, (const char *const *)t->cells + r * t->n_columns);
	return 0;
}

void table_done(struct table *t)
{
	for (size_t i = 0; i < t->n_cells; i++)
		free(t->cells[i]);
	free(t->cells);
	*t = (struct table){0};
}
