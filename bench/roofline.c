/*
 * Draws what was measured as a roofline: operations a second over operations a byte, under what the
 * memory and the arithmetic of this machine allow.
 *
 *   roofline TITLE <table >picture.svg      table: of bench_ceilings --tsv and bench_kernels --tsv
 *
 * One thread; the second line of the memory is that of all threads. A colour is a kind of weights,
 * a shape a number of rows, a line the same product with more rows.
 */
#include "common/base.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_ROWS 512u
#define LEFT 78.0
#define TOP 58.0
#define WIDTH 800.0
#define HEIGHT 560.0
#define LEGEND (LEFT + WIDTH + 28)
#define PICTURE_WIDTH 1190
#define PICTURE_HEIGHT 680

struct row {
	bool is_ceiling;
	char set[24], name[64];
	unsigned int n; /* threads of a ceiling, rows of a kernel's input */
	double bytes, operations, seconds;
};

struct table {
	struct row rows[MAX_ROWS];
	size_t n;
	double x0, x1, y0, y1; /* exponents of ten */
};

/* The first that a kernel's name begins with. */
static const struct family {
	const char *prefix, *words, *colour;
} families[] = {
	{"matmul", "base, bf16", "#1f4e9c"},
	{"int8", "base, int8", "#0f8fb3"},
	{"int4", "base, int4", "#18a07a"},
	{"dot-int 4096", "codes, rounded inputs", "#b5179e"},
	{"dot-int", "factors, rounded inputs", "#7b5ea7"},
	{"dot 4096", "codes of a matrix, by bits", "#d1495b"},
	{"dot 256", "factors down, by bits", "#e08e1b"},
	{"add 256", "factors up, by bits", "#a67c00"},
	{"drop", "dropout, kept of group", "#7a4f9a"},
	{"attend", "attention, 4096 positions", "#5b6770"},
};

static const unsigned int shown_rows[] = {1, 16, 128};

static int read_table(struct table *t)
{
	char line[256], what[16];

	while (fgets(line, sizeof(line), stdin)) {
		struct row *r = &t->rows[t->n];

		if (t->n == MAX_ROWS)
			return -E2BIG;
		if (strncmp(line, "what\t", 5) == 0)
			continue;
		if (sscanf(line, "%15[^\t]\t%23[^\t]\t%63[^\t]\t%u\t%lf\t%lf\t%lf", what, r->set,
			    r->name, &r->n, &r->bytes, &r->operations, &r->seconds) != 7 ||
			r->seconds <= 0)
			return -EBADMSG;
		r->is_ceiling = strcmp(what, "ceiling") == 0;
		t->n++;
	}
	return t->n > 0 ? 0 : -ENODATA;
}

static double intensity(const struct row *r)
{
	return r->operations / r->bytes;
}

/* Billions a second. */
static double rate(const struct row *r)
{
	return 1e-9 * r->operations / r->seconds;
}

static void fit_axes(struct table *t)
{
	double x0 = INFINITY, x1 = 0, y0 = INFINITY, y1 = 0;

	for (size_t i = 0; i < t->n; i++) {
		const struct row *r = &t->rows[i];

		if (r->operations > 0 && !(r->is_ceiling && r->n > 1)) {
			y0 = fmin(y0, rate(r));
			y1 = fmax(y1, rate(r));
		}
		if (!r->is_ceiling) {
			x0 = fmin(x0, intensity(r));
			x1 = fmax(x1, intensity(r));
		}
	}
	t->x0 = log10(x0 / 2);
	t->x1 = log10(x1 * 8); /* and room for words on the roofs */
	t->y0 = log10(y0 / 1.6);
	t->y1 = log10(y1 * 1.6);
}

static double x_of(const struct table *t, double x)
{
	return LEFT + WIDTH * (log10(x) - t->x0) / (t->x1 - t->x0);
}

static double y_of(const struct table *t, double y)
{
	return TOP + HEIGHT * (t->y1 - log10(y)) / (t->y1 - t->y0);
}

static void put_text(double x, double y, const char *style, const char *text)
{
	printf("<text x='%.1f' y='%.1f' %s>", x, y, style);
	for (; *text; text++)
		if (*text == '<' || *text == '&')
			printf("&#%d;", *text);
		else
			putchar(*text);
	puts("</text>");
}

static void put_line(double x0, double y0, double x1, double y1, const char *style)
{
	printf("<line x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f' %s/>\n", x0, y0, x1, y1, style);
}

static void draw_axes(const struct table *t)
{
	char words[32];

	for (int e = (int)ceil(t->x0); e <= (int)floor(t->x1); e++) {
		double x = x_of(t, pow(10, e));

		put_line(x, TOP, x, TOP + HEIGHT, "class='grid'");
		snprintf(words, sizeof(words), "%g", pow(10, e));
		put_text(x, TOP + HEIGHT + 20, "text-anchor='middle'", words);
	}
	for (int e = (int)ceil(t->y0); e <= (int)floor(t->y1); e++) {
		double y = y_of(t, pow(10, e));

		put_line(LEFT, y, LEFT + WIDTH, y, "class='grid'");
		snprintf(words, sizeof(words), "%g", pow(10, e));
		put_text(LEFT - 8, y + 4, "text-anchor='end'", words);
	}
	printf("<rect x='%g' y='%g' width='%g' height='%g' fill='none' stroke='#98a2ad'/>\n", LEFT,
		TOP, WIDTH, HEIGHT);
	put_text(LEFT + WIDTH / 2, TOP + HEIGHT + 44, "text-anchor='middle'",
		"operations for each byte of weights (or of keys and values) read");
	printf("<text transform='translate(22 %g) rotate(-90)' text-anchor='middle'>billions of "
	       "operations a second</text>\n",
		TOP + HEIGHT / 2);
}

/* From the left edge of the plot to where it meets the highest roof. */
static void draw_memory(const struct table *t, const struct row *r, double highest)
{
	double bandwidth = 1e-9 * r->bytes / r->seconds;
	double x0 = fmax(pow(10, t->x0), pow(10, t->y0) / bandwidth), x1 = highest / bandwidth;
	double at = x0 * 1.1, angle;
	char words[96];

	put_line(x_of(t, x0), y_of(t, x0 * bandwidth), x_of(t, x1), y_of(t, highest),
		r->n == 1 ? "class='roof'" : "class='roof all'");
	angle = atan2(y_of(t, highest) - y_of(t, x0 * bandwidth), x_of(t, x1) - x_of(t, x0));
	snprintf(words, sizeof(words), "memory, %u thread%s: %.1f GB/s", r->n, r->n == 1 ? "" : "s",
		bandwidth);
	printf("<g transform='translate(%.1f %.1f) rotate(%.2f)'>", x_of(t, at),
		y_of(t, at * bandwidth), angle * 180 / M_PI);
	put_text(0, -6, "class='small'", words);
	puts("</g>");
}

/* So near that its words would be under ours. */
static bool has_roof_above(const struct table *t, const struct row *r)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct row *o = &t->rows[i];

		if (o->is_ceiling && o->n == 1 && o->operations > 0 && rate(o) > rate(r) &&
			y_of(t, rate(r)) - y_of(t, rate(o)) < 14)
			return true;
	}
	return false;
}

static void draw_roofs(const struct table *t)
{
	double highest = 0, slowest = INFINITY;

	for (size_t i = 0; i < t->n; i++) {
		const struct row *r = &t->rows[i];

		if (r->is_ceiling && r->n == 1 && r->operations > 0)
			highest = fmax(highest, rate(r));
		if (r->is_ceiling && r->bytes > 0)
			slowest = fmin(slowest, 1e-9 * r->bytes / r->seconds);
	}
	for (size_t i = 0; i < t->n; i++) {
		const struct row *r = &t->rows[i];
		char words[96];

		if (!r->is_ceiling)
			continue;
		if (r->bytes > 0) {
			draw_memory(t, r, highest);
		} else if (r->n == 1) {
			double y = y_of(t, rate(r));

			put_line(x_of(t, fmax(rate(r) / slowest, pow(10, t->x0))), y, LEFT + WIDTH,
				y, "class='roof'");
			snprintf(words, sizeof(words), "%s: %.0f", r->name, rate(r));
			put_text(LEFT + WIDTH - 6, y + (has_roof_above(t, r) ? 13 : -5),
				"class='small' text-anchor='end'", words);
		}
	}
}

static const struct family *family_of(const struct row *r)
{
	for (size_t i = 0; i < array_len(families); i++)
		if (strncmp(r->name, families[i].prefix, strlen(families[i].prefix)) == 0)
			return &families[i];
	return NULL;
}

static void draw_mark(double x, double y, unsigned int rows, const char *colour)
{
	if (rows == shown_rows[0])
		printf("<circle cx='%.1f' cy='%.1f' r='4.5' fill='%s' class='mark'>", x, y, colour);
	else if (rows == shown_rows[1])
		printf("<rect x='%.1f' y='%.1f' width='8.4' height='8.4' fill='%s' class='mark'>",
			x - 4.2, y - 4.2, colour);
	else
		printf("<path d='M%.1f %.1fl5.5 9.5h-11z' fill='%s' class='mark'>", x, y - 6,
			colour);
}

static void end_mark(unsigned int rows)
{
	puts(rows == shown_rows[0] ? "</circle>" : rows == shown_rows[1] ? "</rect>" : "</path>");
}

static const struct row *with_more_rows(const struct table *t, const struct row *r)
{
	const struct row *next = NULL;

	for (size_t i = 0; i < t->n; i++) {
		const struct row *o = &t->rows[i];

		if (!o->is_ceiling && strcmp(o->name, r->name) == 0 &&
			strcmp(o->set, r->set) == 0 && o->n > r->n && (!next || o->n < next->n))
			next = o;
	}
	return next;
}

/* Which of its family: bits, what is kept, the type of keys and values. */
static void draw_variant(const struct table *t, const struct row *r, const struct family *f)
{
	char words[32] = "", style[80];
	unsigned int bits;
	const char *at = strstr(r->name, "bits=");

	if (strncmp(r->name, "drop", 4) == 0)
		(void)sscanf(r->name, "drop %31s", words);
	else if (strncmp(r->name, "attend", 6) == 0)
		(void)sscanf(r->name, "attend %*u %31s", words);
	else if (at && sscanf(at, "bits=%u", &bits) == 1)
		snprintf(words, sizeof(words), "%u", bits);
	snprintf(style, sizeof(style), "font-size='10' fill='%s'", f->colour);
	put_text(x_of(t, intensity(r)) + 7, y_of(t, rate(r)) + 4, style, words);
}

static void draw_kernels(const struct table *t, bool marks)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct row *r = &t->rows[i], *next;
		const struct family *f = r->is_ceiling ? NULL : family_of(r);
		char style[64];

		if (!f)
			continue;
		next = with_more_rows(t, r);
		snprintf(style, sizeof(style), "class='link' stroke='%s'", f->colour);
		if (!marks && next)
			put_line(x_of(t, intensity(r)), y_of(t, rate(r)), x_of(t, intensity(next)),
				y_of(t, rate(next)), style);
		if (!marks)
			continue;
		draw_mark(x_of(t, intensity(r)), y_of(t, rate(r)), r->n, f->colour);
		printf("<title>%s %s, %u row%s: %.1f GOP/s, %.1f GB/s</title>", r->set, r->name,
			r->n, r->n == 1 ? "" : "s", rate(r), 1e-9 * r->bytes / r->seconds);
		end_mark(r->n);
		if (!next)
			draw_variant(t, r, f);
	}
}

static bool has_family(const struct table *t, const struct family *f)
{
	for (size_t i = 0; i < t->n; i++)
		if (!t->rows[i].is_ceiling && family_of(&t->rows[i]) == f)
			return true;
	return false;
}

static void draw_legend(const struct table *t)
{
	double y = TOP + 12;
	char words[64];

	for (size_t i = 0; i < array_len(families); i++) {
		if (!has_family(t, &families[i]))
			continue;
		printf("<rect x='%g' y='%g' width='14' height='14' rx='3' fill='%s'/>\n", LEGEND,
			y - 11, families[i].colour);
		put_text(LEGEND + 22, y, "", families[i].words);
		y += 24;
	}
	y += 14;
	for (size_t i = 0; i < array_len(shown_rows); i++) {
		draw_mark(LEGEND + 7, y - 4, shown_rows[i], "#5b6770");
		end_mark(shown_rows[i]);
		snprintf(words, sizeof(words), "%u row%s of inputs", shown_rows[i],
			shown_rows[i] == 1 ? "" : "s");
		put_text(LEGEND + 22, y, "", words);
		y += 24;
	}
}

static void draw(const struct table *t, const char *title)
{
	printf("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' width='%d' "
	       "height='%d' font-family='Helvetica, Arial, sans-serif' font-size='13' "
	       "fill='#26313c'>\n"
	       "<style>.grid{stroke:#e6eaee}.roof{stroke:#26313c;stroke-width:1.6}"
	       ".all{stroke-dasharray:6 5;stroke:#8a95a0}.small{font-size:11px;fill:#4a5661}"
	       ".mark{stroke:#fff;stroke-width:1}.link{stroke-width:1;stroke-opacity:.35}</style>\n"
	       "<rect width='%d' height='%d' fill='#fff'/>\n",
		PICTURE_WIDTH, PICTURE_HEIGHT, PICTURE_WIDTH, PICTURE_HEIGHT, PICTURE_WIDTH,
		PICTURE_HEIGHT);
	put_text(LEFT, 32, "font-size='18' font-weight='bold'", title);
	draw_axes(t);
	draw_roofs(t);
	draw_kernels(t, false);
	draw_kernels(t, true);
	draw_legend(t);
	puts("</svg>");
}

int main(int argc, char **argv)
{
	static struct table table;
	int r = argc == 2 ? read_table(&table) : -EINVAL;

	if (r < 0) {
		fprintf(stderr, "roofline: %s\n",
			r == -EINVAL ? "usage: roofline TITLE <table >picture.svg" : strerror(-r));
		return 1;
	}
	fit_axes(&table);
	draw(&table, argv[1]);
	return ferror(stdout) || fflush(stdout) != 0;
}
