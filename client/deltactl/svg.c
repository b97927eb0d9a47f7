#include "client/deltactl/svg.h"

#include "client/deltactl/html.h"

#include <math.h>

/* Units of a picture are pixels of a narrow screen; the page scales them. */
#define MAP_WIDTH 360.0
#define MAP_LABEL 30.0
#define MAP_HEAD 20.0
#define MAP_ROW 22.0
#define MAP_GAP 1.0
/* Where digits change from the page's ink to the ink for coloured ground. */
#define STRONG 0.6

#define PLOT_TOP 8.0
#define PLOT_RIGHT 12.0

static void begin(FILE *to, const char *name, double width, double height)
{
	fprintf(to, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\"><title>", width, height);
	html_text(to, name);
	fputs("</title>\n", to);
}

static void heat_cell(
	FILE *to, const struct svg_heat_map *map, size_t row, size_t column, double width)
{
	double value = map->values[row * map->n_columns + column];
	double x = MAP_LABEL + (double)column * width, y = MAP_HEAD + (double)row * MAP_ROW;
	double strength = map->high > 0 ? fmin(1, fmax(0, value / map->high)) : 0;

	if (!isfinite(value)) {
		fprintf(to, "<text class=\"axis\" x=\"%.1f\" y=\"%.1f\">&#183;</text>\n",
			x + width / 2, y + 15);
		return;
	}
	fprintf(to,
		"<rect class=\"heat\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
		"fill-opacity=\"%.3f\"><title>",
		x, y, width - MAP_GAP, MAP_ROW - MAP_GAP, 0.04 + 0.96 * strength);
	fprintf(to, "layer %zu ", row);
	html_text(to, map->heads[column]);
	fprintf(to, ": %.4g</title></rect>\n", value);
	fprintf(to, "<text class=\"value%s\" x=\"%.1f\" y=\"%.1f\">%.*f</text>\n",
		strength > STRONG ? " strong" : "", x + width / 2, y + 15, map->digits, value);
}

void svg_heat_map(FILE *to, const struct svg_heat_map *map)
{
	double width = (MAP_WIDTH - MAP_LABEL) / (double)map->n_columns;

	begin(to, map->name, MAP_WIDTH, MAP_HEAD + (double)map->n_rows * MAP_ROW);
	for (size_t c = 0; c < map->n_columns; c++) {
		fprintf(to, "<text class=\"axis\" x=\"%.1f\" y=\"13\">",
			MAP_LABEL + ((double)c + 0.5) * width);
		html_text(to, map->heads[c]);
		fputs("</text>\n", to);
	}
	for (size_t r = 0; r < map->n_rows; r++) {
		fprintf(to, "<text class=\"axis end\" x=\"%.1f\" y=\"%.1f\">%zu</text>\n",
			MAP_LABEL - 8, MAP_HEAD + (double)r * MAP_ROW + 15, r);
		for (size_t c = 0; c < map->n_columns; c++)
			heat_cell(to, map, r, c, width);
	}
	fputs("</svg>\n", to);
}

static double plot_x(const struct svg_plot *p, double x)
{
	double share = (x - p->x_low) / (p->x_high - p->x_low);

	return p->left + share * (p->width - p->left - PLOT_RIGHT);
}

static double plot_y(const struct svg_plot *p, double y)
{
	double share = (y - p->y_low) / (p->y_high - p->y_low);

	return p->height - p->bottom - share * (p->height - p->bottom - PLOT_TOP);
}

static void grid_line(FILE *to, double x1, double y1, double x2, double y2)
{
	fprintf(to, "<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", x1,
		y1, x2, y2);
}

/* Ticks are counted, so a step that vanishes beside the range cannot hang it. */
static size_t n_ticks(double low, double high, double step)
{
	double n = floor((high - low) / step + 1e-9);

	return n > 0 && n < 64 ? (size_t)n + 1 : 1;
}

void svg_plot_begin(FILE *to, const struct svg_plot *p)
{
	double bottom = p->height - p->bottom, right = p->width - PLOT_RIGHT;
	size_t n = n_ticks(p->x_low, p->x_high, p->x_step);

	begin(to, p->name, p->width, p->height);
	for (size_t i = 0; i < n; i++) {
		double x = p->x_low + (double)i * p->x_step;

		grid_line(to, plot_x(p, x), PLOT_TOP, plot_x(p, x), bottom);
		fprintf(to, "<text class=\"axis\" x=\"%.1f\" y=\"%.1f\">%g</text>\n", plot_x(p, x),
			bottom + 14, x);
	}
	n = n_ticks(p->y_low, p->y_high, p->y_step);
	for (size_t i = 0; i < n; i++) {
		double y = p->y_low + (double)i * p->y_step;

		grid_line(to, p->left, plot_y(p, y), right, plot_y(p, y));
		fprintf(to, "<text class=\"axis end\" x=\"%.1f\" y=\"%.1f\">%g</text>\n",
			p->left - 5, plot_y(p, y) + 4, p->y_log ? pow(10, y) : y);
	}
}

void svg_plot_line(FILE *to, const struct svg_plot *p, const double *x, const double *y, size_t n,
	double strength)
{
	fprintf(to, "<polyline class=\"line\" stroke-opacity=\"%.2f\" points=\"", strength);
	for (size_t i = 0; i < n; i++)
		fprintf(to, "%s%.1f,%.1f", i ? " " : "", plot_x(p, x[i]), plot_y(p, y[i]));
	fputs("\"/>\n", to);
}

void svg_plot_point(FILE *to, const struct svg_plot *p, double x, double y, const char *words)
{
	fprintf(to, "<circle class=\"point\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>", plot_x(p, x),
		plot_y(p, y));
	html_text(to, words);
	fputs("</title></circle>\n", to);
}

void svg_plot_end(FILE *to)
{
	fputs("</svg>\n", to);
}
