#include "client/deltactl/bench_report.h"

#include "client/deltactl/json_line.h"
#include "client/deltactl/table.h"

#include <string.h>

static double bytes_of_token(const struct bench_figures *f)
{
	return f->weight_bytes + f->kv_bytes;
}

/* "prompt 512", "decode x8", "decode at 4096" */
static void add_name(struct table *table, const struct bench_test *t)
{
	if (t->prompt)
		table_cell(table, "prompt %u", t->n_tokens);
	else if (t->depth)
		table_cell(table, "decode at %u", t->depth);
	else
		table_cell(table, "decode x%u", t->n_rows);
}

/* "base", "math.delta", "8 deltas" */
static void add_model(struct table *table, const struct bench_test *t)
{
	const char *path = t->variants[0].path, *slash = path ? strrchr(path, '/') : NULL;

	if (!path)
		table_cell(table, "base");
	else if (t->n_variants > 1)
		table_cell(table, "%zu deltas", t->n_variants);
	else
		table_cell(table, "%s", slash ? slash + 1 : path);
}

static void add_figures(struct table *table, const struct bench_figures *f)
{
	double rate = bytes_of_token(f) * f->median;

	table_cell(table, "%.2f", f->median);
	table_cell(table, "%.2f..%.2f", f->least, f->most);
	table_cell(table, "%.2f", bytes_of_token(f) * 1e-6);
	table_cell(table, "%.2f", rate * 1e-9);
	table_cell(table, "%.2f", f->read_rate * 1e-9);
	table_cell(table, "%.0f %%", 100 * rate / f->read_rate);
}

static void add_columns(struct table *table)
{
	table_column(table, "test", false);
	table_column(table, "on", false);
	table_column(table, "weights", false);
	table_column(table, "kernels", false);
	table_column(table, "threads", true);
	table_column(table, "tokens/s", true);
	table_column(table, "least..most", true);
	table_column(table, "MB/token", true);
	table_column(table, "GB/s", true);
	table_column(table, "memory", true);
	table_column(table, "share", true);
}

int bench_report_print(const struct bench_report *report, struct reason *reason)
{
	const struct offline_model *m = report->setup->model;
	_cleanup_(table_done) struct table table = {0};
	int r;

	add_columns(&table);
	for (size_t i = 0; i < report->n; i++) {
		add_name(&table, &report->tests[i]);
		add_model(&table, &report->tests[i]);
		table_cell(&table, "%s", base_weights_name(m->base));
		table_cell(&table, "%s", m->kernels.name);
		table_cell(&table, "%zu", pool_threads(m->pool));
		add_figures(&table, &report->figures[i]);
	}
	r = table_print(&table, stdout, 0);
	return r < 0 ? reason_set(reason, r, "no memory for the table") : 0;
}

static json_t *paths_json(const struct bench_test *t)
{
	json_t *array = json_array();

	for (size_t i = 0; i < t->n_variants; i++)
		if (t->variants[i].path)
			json_array_append_new(array, json_string(t->variants[i].path));
	return array;
}

static json_t *test_json(const struct bench_test *t, const struct bench_figures *f)
{
	double rate = bytes_of_token(f) * f->median;

	return json_pack("{ss sI sI sI so sf sf sf sf sf sf sf sf}", "test",
		t->prompt ? "prompt" : "decode", "tokens", (json_int_t)t->n_tokens, "rows",
		(json_int_t)t->n_rows, "depth", (json_int_t)t->depth, "deltas", paths_json(t),
		"tokens_per_second", f->median, "least", f->least, "most", f->most,
		"weight_bytes_per_token", f->weight_bytes, "kv_bytes_per_token", f->kv_bytes,
		"bytes_per_second", rate, "read_bytes_per_second", f->read_rate, "share_of_memory",
		rate / f->read_rate);
}

int bench_report_print_json(const struct bench_report *report, struct reason *reason)
{
	const struct bench_setup *s = report->setup;
	const struct offline_model *m = s->model;
	json_t *tests = json_array();

	for (size_t i = 0; i < report->n; i++)
		json_array_append_new(tests, test_json(&report->tests[i], &report->figures[i]));
	return json_line_print(
		json_pack("{ss ss ss sI sI sI ss so}", "base", report->base, "weights",
			base_weights_name(m->base), "kernels", m->kernels.name, "threads",
			(json_int_t)pool_threads(m->pool), "chunk", (json_int_t)s->chunk, "repeats",
			(json_int_t)s->n_repeats, "kv", kv_type_names[s->kv_type], "tests", tests),
		0, reason);
}
