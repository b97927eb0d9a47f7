/*
 * What bench_run() measured, as a table or as JSON.
 */
#pragma once

#include "client/deltactl/bench_run.h"

struct bench_report {
	const struct bench_setup *setup;
	const char *base; /* its path */
	const struct bench_test *tests;
	const struct bench_figures *figures;
	size_t n;
};

int bench_report_print(const struct bench_report *report, struct reason *reason) _must_check_;
int bench_report_print_json(const struct bench_report *report, struct reason *reason) _must_check_;
