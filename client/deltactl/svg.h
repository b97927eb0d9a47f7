/*
 * Pictures inside a page of HTML: heat maps and lines. Colours are the page's: classes "heat",
 * "heat strong", "line", "axis", "label" and "value" of its style sheet.
 */
#pragma once

#include "common/base.h"

#include <stdio.h>

/* A table of numbers as coloured cells. Row 0 is on top. */
struct svg_heat_map {
	const char *name;         /* what is shown, for those who do not see it */
	const char *const *heads; /* n_columns */
	size_t n_rows, n_columns;
	const double *values; /* n_rows x n_columns; NaN: an empty cell */
	double high;          /* of the strongest colour; 0 has none */
	int digits;           /* after the point */
};
void svg_heat_map(FILE *to, const struct svg_heat_map *map);

/* Lines and points in a frame. */
struct svg_plot {
	const char *name;
	double width, height; /* of the picture */
	double left, bottom;  /* room for labels beside the frame */
	double x_low, x_high, y_low, y_high;
	double x_step, y_step; /* between ticks */
	bool y_log;            /* then y_low, y_high and values are of log10, and steps are 1 */
};
void svg_plot_begin(FILE *to, const struct svg_plot *plot);
/* `strength` is 0 .. 1. */
void svg_plot_line(FILE *to, const struct svg_plot *plot, const double *x, const double *y,
	size_t n, double strength);
/* With words for who points at it. */
void svg_plot_point(FILE *to, const struct svg_plot *plot, double x, double y, const char *words);
void svg_plot_end(FILE *to);
