#include "client/deltactl/inspect_html.h"

#include "client/deltactl/command.h"
#include "client/deltactl/document.h"
#include "client/deltactl/html.h"
#include "client/deltactl/inspect_style.h"
#include "client/deltactl/svg.h"
#include "common/file.h"

#include <math.h>
#include <string.h>

#define N_PLACES 7u
#define SPECTRUM_POINTS 16u

/* Columns of the heat maps. */
static const char *const places[N_PLACES] = {"q", "k", "v", "o", "gate", "up", "down"};

/* What the pictures show, gathered over the parts of each projection. */
struct grid {
	size_t n_layers;
	double *bits, *weight_error,
		*activation_error; /* n_layers x N_PLACES; NaN: nothing stored */
	const json_t **spectrum;   /* likewise; NULL: none */
};

struct page {
	FILE *to;
	const json_t *document;
	struct grid grid;
};

static double number_of(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static uint64_t bytes_of(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

static const char *words_of(const json_t *object, const char *key)
{
	const char *words = json_string_value(json_object_get(object, key));

	return words ? words : "-";
}

static void grid_done(struct grid *g)
{
	free(g->bits);
	free(g->weight_error);
	free(g->activation_error);
	free(g->spectrum);
}

static size_t place_of(const json_t *tensor)
{
	size_t place = 0;

	while (place < N_PLACES && strcmp(places[place], words_of(tensor, "role")) != 0)
		place++;
	return place;
}

/* Bits add up over the parts of a tensor; errors are those of all parts so far, so the last counts.
 */
static void grid_add(struct grid *g, const json_t *tensor)
{
	size_t layer = bytes_of(tensor, "layer"), place = place_of(tensor);
	size_t at = layer * N_PLACES + place;
	const json_t *spectrum = json_object_get(tensor, "spectrum");

	if (place == N_PLACES || layer >= g->n_layers)
		return;
	g->bits[at] =
		(isfinite(g->bits[at]) ? g->bits[at] : 0) + number_of(tensor, "bits_per_weight");
	g->weight_error[at] = number_of(tensor, "weight_error");
	g->activation_error[at] = number_of(tensor, "activation_error");
	if (json_array_size(spectrum) == SPECTRUM_POINTS)
		g->spectrum[at] = spectrum;
}

static int grid_fill(struct grid *g, const json_t *document)
{
	const json_t *tensors = json_object_get(document, "tensors");
	size_t n;

	g->n_layers = bytes_of(json_object_get(document, "config"), "layers");
	n = g->n_layers * N_PLACES;
	g->bits = malloc((n + 1) * sizeof(*g->bits));
	g->weight_error = malloc((n + 1) * sizeof(*g->weight_error));
	g->activation_error = malloc((n + 1) * sizeof(*g->activation_error));
	g->spectrum = calloc(n + 1, sizeof(*g->spectrum));
	if (!g->bits || !g->weight_error || !g->activation_error || !g->spectrum)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		g->bits[i] = g->weight_error[i] = g->activation_error[i] = (double)NAN;
	for (size_t i = 0; i < json_array_size(tensors); i++)
		grid_add(g, json_array_get(tensors, i));
	return 0;
}

static void tile(FILE *to, const char *value, const char *words)
{
	fputs("<div class=\"card tile\">", to);
	html_element(to, "b", NULL, value);
	html_element(to, "span", NULL, words);
	fputs("</div>\n", to);
}

static void put_tiles(const struct page *p)
{
	const json_t *totals = json_object_get(p->document, "totals");
	const json_t *certificate = json_object_get(p->document, "certificate");
	bool cut = json_is_true(json_object_get(p->document, "cut"));
	char value[64], words[96], size[16];

	fputs("<div class=\"grid tiles\">\n", p->to);
	snprintf(words, sizeof(words), "whole file, %.1f times smaller",
		number_of(totals, "file_ratio"));
	tile(p->to, human_bytes(bytes_of(totals, "file_bytes"), size), words);
	if (isfinite(number_of(totals, "projection_bits"))) {
		snprintf(value, sizeof(value), "%.2f bit", number_of(totals, "projection_bits"));
		snprintf(words, sizeof(words), "a projection weight, %.1f times smaller",
			number_of(totals, "projection_ratio"));
		tile(p->to, value, words);
	}
	if (isfinite(number_of(totals, "kl"))) {
		snprintf(value, sizeof(value), "%.4f", number_of(totals, "kl"));
		tile(p->to, value, "KL to the fine-tune, nats a token");
	}
	if (isfinite(number_of(certificate, "agreement")) && !cut) {
		snprintf(
			value, sizeof(value), "%.2f %%", 100 * number_of(certificate, "agreement"));
		tile(p->to, value, "same most probable token");
	}
	fputs("</div>\n", p->to);
}

static void put_bytes(const struct page *p)
{
	static const struct {
		const char *key, *words;
	} kinds[] = {{"projection_bytes", "projections"}, {"embedding_bytes", "embedding and head"},
		{"rest_bytes", "norms, tables, digests"}};
	const json_t *totals = json_object_get(p->document, "totals");
	double all = number_of(totals, "file_bytes");
	char size[16];

	fputs("<h2>Where the bytes are</h2>\n<div class=\"bar\">", p->to);
	for (size_t i = 0; i < array_len(kinds); i++)
		fprintf(p->to, "<i class=\"b%zu\" style=\"width:%.2f%%\"></i>", i,
			100 * (double)bytes_of(totals, kinds[i].key) / all);
	fputs("</div>\n<div class=\"key\">", p->to);
	for (size_t i = 0; i < array_len(kinds); i++)
		fprintf(p->to, "<span class=\"b%zu\"><i></i>%s %s</span>", i, kinds[i].words,
			human_bytes(bytes_of(totals, kinds[i].key), size));
	fputs("</div>\n", p->to);
}

static double largest(const double *values, size_t n)
{
	double high = 0;

	for (size_t i = 0; i < n; i++)
		if (isfinite(values[i]) && values[i] > high)
			high = values[i];
	return high;
}

static void put_heat_map(
	const struct page *p, const char *name, const double *values, double high, int digits)
{
	const struct svg_heat_map map = {
		.name = name,
		.heads = places,
		.n_rows = p->grid.n_layers,
		.n_columns = N_PLACES,
		.values = values,
		.high = high,
		.digits = digits,
	};

	fputs("<div class=\"card\">", p->to);
	html_element(p->to, "h3", NULL, name);
	svg_heat_map(p->to, &map);
	fputs("</div>\n", p->to);
}

static void put_heat_maps(const struct page *p)
{
	const struct grid *g = &p->grid;
	size_t n = g->n_layers * N_PLACES;

	html_element(p->to, "h2", NULL, "By layer and projection");
	html_element(p->to, "p", NULL,
		"Layers from top to bottom. A dot: nothing is stored, the base's weights stay.");
	fputs("<div class=\"grid\">\n", p->to);
	put_heat_map(p, "Bits a weight", g->bits, largest(g->bits, n), 2);
	put_heat_map(p, "Error of the outputs on held-out text", g->activation_error, 1, 2);
	put_heat_map(p, "Error of the weights", g->weight_error, 1, 2);
	fputs("</div>\n", p->to);
}

static void spectrum_line(
	const struct page *p, const struct svg_plot *plot, const json_t *spectrum, double strength)
{
	double x[SPECTRUM_POINTS + 1] = {0}, y[SPECTRUM_POINTS + 1] = {0};

	for (size_t i = 0; i < SPECTRUM_POINTS; i++) {
		x[i + 1] = (double)(i + 1) / SPECTRUM_POINTS;
		y[i + 1] = json_number_value(json_array_get(spectrum, i));
	}
	svg_plot_line(p->to, plot, x, y, SPECTRUM_POINTS + 1, strength);
}

static void put_spectrum(const struct page *p, size_t place)
{
	const struct grid *g = &p->grid;
	const struct svg_plot plot = {
		.name = places[place],
		.width = 180,
		.height = 150,
		.left = 30,
		.bottom = 22,
		.x_high = 1,
		.y_high = 1,
		.x_step = 0.25,
		.y_step = 0.25,
	};

	fputs("<div class=\"card\">", p->to);
	html_element(p->to, "h3", NULL, places[place]);
	svg_plot_begin(p->to, &plot);
	for (size_t layer = 0; layer < g->n_layers; layer++) {
		const json_t *spectrum = g->spectrum[layer * N_PLACES + place];
		double depth = (double)(layer + 1) / (double)g->n_layers;

		if (spectrum)
			spectrum_line(p, &plot, spectrum, 0.2 + 0.8 * depth);
	}
	svg_plot_end(p->to);
	fputs("</div>\n", p->to);
}

static void put_spectra(const struct page *p)
{
	size_t n = 0;

	for (size_t i = 0; i < p->grid.n_layers * N_PLACES; i++)
		n += p->grid.spectrum[i] != NULL;
	if (n == 0)
		return;
	html_element(p->to, "h2", NULL, "Singular values");
	html_element(p->to, "p", NULL,
		"Share of the change's energy in the first ranks, one line a layer, the last layer "
		"the strongest. A line that rises at once is a change of low rank.");
	fputs("<div class=\"grid small\">\n", p->to);
	for (size_t place = 0; place < N_PLACES; place++)
		put_spectrum(p, place);
	fputs("</div>\n", p->to);
}

/* A round step that makes at most eight of the range. */
static double step_of(double range)
{
	double step = pow(10, floor(log10(range > 0 ? range : 1)));

	return range / step > 4 ? step : range / step > 2 ? step / 2 : step / 5;
}

/* The frame around points of bits and KL. False if there is none that can be drawn. */
static bool frame_points(const json_t *points, struct svg_plot *plot)
{
	double low = INFINITY, high = -INFINITY, bits = 0;

	for (size_t i = 0; i < json_array_size(points); i++) {
		const json_t *point = json_array_get(points, i);
		double kl = number_of(point, "kl");

		if (!(kl > 0) || !isfinite(kl))
			continue;
		low = fmin(low, log10(kl));
		high = fmax(high, log10(kl));
		bits = fmax(bits, number_of(point, "bits_per_weight"));
	}
	if (!isfinite(low) || !(bits > 0))
		return false;
	plot->y_low = floor(low);
	plot->y_high = fmax(ceil(high), plot->y_low + 1);
	plot->x_step = step_of(bits);
	plot->x_high = plot->x_step * ceil(bits / plot->x_step - 1e-9);
	return true;
}

static void put_points(const struct page *p, const json_t *points, const struct svg_plot *plot)
{
	size_t n = json_array_size(points), n_drawn = 0;
	_cleanup_(freep) double *x = malloc((n + 1) * sizeof(*x));
	_cleanup_(freep) double *y = malloc((n + 1) * sizeof(*y));
	char words[128], size[16];

	for (size_t i = 0; x && y && i < n; i++) {
		const json_t *point = json_array_get(points, i);
		double kl = number_of(point, "kl");

		if (!(kl > 0))
			continue;
		x[n_drawn] = number_of(point, "bits_per_weight");
		y[n_drawn++] = log10(kl);
	}
	if (n_drawn > 1)
		svg_plot_line(p->to, plot, x, y, n_drawn, 1);
	for (size_t i = 0, drawn = 0; i < n && drawn < n_drawn; i++) {
		const json_t *point = json_array_get(points, i);

		if (!(number_of(point, "kl") > 0))
			continue;
		if (bytes_of(point, "file_bytes") > 0)
			snprintf(words, sizeof(words), "%.3f bit a weight, file of %s, KL %.5f",
				x[drawn], human_bytes(bytes_of(point, "file_bytes"), size),
				number_of(point, "kl"));
		else
			snprintf(words, sizeof(words), "%.3f bit a weight, KL %.5f", x[drawn],
				number_of(point, "kl"));
		svg_plot_point(p->to, plot, x[drawn], y[drawn], words);
		drawn++;
	}
}

static void put_rate_curve(const struct page *p)
{
	const json_t *points = json_object_get(p->document, "rate_curve");
	struct svg_plot plot = {
		.name = "KL to the fine-tune over bits a projection weight",
		.width = 360,
		.height = 240,
		.left = 52,
		.bottom = 24,
		.y_step = 1,
		.y_log = true,
	};

	if (!frame_points(points, &plot))
		return;
	html_element(p->to, "h2", NULL, "Rate against KL");
	html_element(p->to, "p", NULL,
		"KL to the fine-tune, nats a token (logarithmic), over bits a projection weight, "
		"everything counted. Points are prefixes of this file on held-out text or, where "
		"the method measured sizes on the way to it, those, on text that it kept back.");
	fputs("<div class=\"card\">", p->to);
	svg_plot_begin(p->to, &plot);
	put_points(p, points, &plot);
	svg_plot_end(p->to);
	fputs("</div>\n", p->to);
}

enum cell_kind {
	CELL_WORDS,
	CELL_COUNT,
	CELL_BYTES,
	CELL_REAL,
};

struct cell_column {
	const char *key, *head;
	enum cell_kind kind;
};

static void put_cell(FILE *to, const json_t *row, const struct cell_column *column)
{
	double number = number_of(row, column->key);
	char size[16];

	if (column->kind == CELL_WORDS) {
		html_element(to, "td", "words", words_of(row, column->key));
		return;
	}
	if (!isfinite(number)) {
		html_element(to, "td", NULL, "-");
		return;
	}
	if (column->kind == CELL_BYTES)
		html_element(to, "td", NULL, human_bytes(bytes_of(row, column->key), size));
	else
		html_elementf(to, "td", NULL, column->kind == CELL_COUNT ? "%.0f" : "%.4g", number);
}

static void put_table(FILE *to, const json_t *rows, const struct cell_column *columns, size_t n)
{
	fputs("<div class=\"scroll\"><table><thead><tr>\n", to);
	for (size_t c = 0; c < n; c++)
		html_element(
			to, "th", columns[c].kind == CELL_WORDS ? "words" : NULL, columns[c].head);
	fputs("</tr></thead><tbody>\n", to);
	for (size_t i = 0; i < json_array_size(rows); i++) {
		fputs("<tr>", to);
		for (size_t c = 0; c < n; c++)
			put_cell(to, json_array_get(rows, i), &columns[c]);
		fputs("</tr>\n", to);
	}
	fputs("</tbody></table></div>\n", to);
}

static void put_levels(const struct page *p)
{
	static const struct cell_column columns[] = {
		{"level", "level", CELL_COUNT},
		{"file_bytes", "file up to it", CELL_BYTES},
		{"bits_per_weight", "bits a weight", CELL_REAL},
		{"kl", "KL", CELL_REAL},
	};
	const json_t *levels = json_object_get(p->document, "levels");

	if (json_array_size(levels) < 2)
		return;
	html_element(p->to, "h2", NULL, "Levels");
	html_element(p->to, "p", NULL,
		"The file's beginning up to the end of a level is a valid, coarser delta.");
	put_table(p->to, levels, columns, array_len(columns));
}

static void put_tensors(const struct page *p)
{
	static const struct cell_column columns[] = {
		{"layer", "layer", CELL_COUNT},
		{"role", "tensor", CELL_WORDS},
		{"level", "level", CELL_COUNT},
		{"codec", "codec", CELL_WORDS},
		{"bits_per_weight", "bits a weight", CELL_REAL},
		{"bytes", "on disk", CELL_BYTES},
		{"memory_bytes", "in memory", CELL_BYTES},
		{"weight_error", "error, weights", CELL_REAL},
		{"activation_error", "error, outputs", CELL_REAL},
		{"loss", "KL, estimated", CELL_REAL},
		{"why", "why", CELL_WORDS},
	};

	html_element(p->to, "h2", NULL, "Every tensor");
	put_table(p->to, json_object_get(p->document, "tensors"), columns, array_len(columns));
}

static void put_fact(FILE *to, const char *name, const char *value)
{
	html_element(to, "dt", NULL, name);
	html_element(to, "dd", NULL, value);
}

/* Those that were measured: a base may lack tokens of the text. */
static void put_perplexities(FILE *to, const json_t *figures)
{
	static const char *const keys[][2] = {{"perplexity_base", "the base"},
		{"perplexity_tuned", "the fine-tune"}, {"perplexity_delta", "this"}};
	char text[128] = "";
	int n = 0;

	for (size_t i = 0; i < array_len(keys); i++) {
		double value = number_of(figures, keys[i][0]);

		if (isfinite(value))
			n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%.4g with %s",
				n ? ", " : "", value, keys[i][1]);
	}
	if (n > 0)
		put_fact(to, "perplexity", text);
}

static void put_kept_back_tasks(const struct page *p)
{
	const json_t *tasks = json_object_get(p->document, "kept_back_tasks");
	char text[128];

	if (!tasks)
		return;
	snprintf(text, sizeof(text), "%.0f that were kept back: KL %.5f, agreement %.2f %%",
		number_of(tasks, "tasks"), number_of(tasks, "kl"),
		100 * number_of(tasks, "agreement"));
	put_fact(p->to, "on tasks", text);
	put_perplexities(p->to, tasks);
}

static void put_certificate(const struct page *p)
{
	const json_t *certificate = json_object_get(p->document, "certificate");
	double judged = number_of(certificate, "eval_tokens");
	double learnt = number_of(certificate, "calibration_tokens");
	char text[128];

	if (!certificate)
		return;
	if (judged > 0)
		snprintf(text, sizeof(text), "%s, %.0f tokens; learnt from %.0f others",
			words_of(p->document, "certificate_text"), judged, learnt);
	else
		snprintf(text, sizeof(text), "nothing; learnt from %.0f tokens", learnt);
	put_fact(p->to, "method", words_of(certificate, "method"));
	put_fact(p->to, "measured on", text);
	put_perplexities(p->to, certificate);
}

static void put_facts(const struct page *p)
{
	html_element(p->to, "h2", NULL, "Measured and made");
	fputs("<dl>\n", p->to);
	if (json_is_true(json_object_get(p->document, "cut")))
		put_fact(p->to, "cut",
			"this is the beginning of a file; what follows is of the whole");
	put_certificate(p);
	put_kept_back_tasks(p);
	put_fact(p->to, "chat format", words_of(p->document, "chat_format"));
	put_fact(p->to, "fits base", words_of(p->document, "fits_base"));
	put_fact(p->to, "made from", words_of(p->document, "tuned"));
	put_fact(p->to, "identity", words_of(p->document, "root"));
	fputs("</dl>\n", p->to);
}

static void put_page(const struct page *p, const char *name)
{
	fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
	      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/>\n",
		p->to);
	html_element(p->to, "title", NULL, name);
	fprintf(p->to, "<style>\n%s</style></head><body>\n", inspect_style);
	html_element(p->to, "h1", NULL, name);
	put_tiles(p);
	put_bytes(p);
	put_heat_maps(p);
	put_rate_curve(p);
	put_spectra(p);
	put_levels(p);
	put_tensors(p);
	put_facts(p);
	fputs("</body></html>\n", p->to);
}

/* The whole page as malloc'ed text. */
static int print_page(struct page *p, const char *name, char **ret, size_t *ret_n)
{
	_cleanup_(freep) char *text = NULL;
	bool failed;
	size_t n;

	p->to = open_memstream(&text, &n);
	if (!p->to)
		return -errno;
	put_page(p, name);
	failed = ferror(p->to);
	failed |= fclose(p->to) != 0;
	if (failed)
		return -ENOMEM;
	*ret = take_ptr(text);
	*ret_n = n;
	return 0;
}

int inspect_html(const json_t *document, const char *name, const char *path, struct reason *reason)
{
	_cleanup_(new_file_done) struct new_file file = NEW_FILE_INIT;
	_cleanup_(freep) char *text = NULL;
	struct page page = {.document = document};
	size_t n = 0;
	int r;

	r = document_complete(document) ? grid_fill(&page.grid, document) : -ENOMEM;
	if (r == 0)
		r = print_page(&page, name, &text, &n);
	grid_done(&page.grid);
	if (r < 0)
		return reason_set(reason, r, "cannot make the page: %s", strerror(-r));
	r = new_file_open(&file, path, reason);
	if (r < 0)
		return r;
	r = file_write_at(file.fd, text, n, 0);
	if (r < 0)
		return reason_set(reason, r, "%s: cannot write: %s", path, strerror(-r));
	return new_file_commit(&file, reason);
}
