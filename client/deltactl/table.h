/*
 * Columns of text that line up. Numbers go right, words left.
 */
#pragma once

#include "common/base.h"

#include <stdio.h>

#define TABLE_MAX_COLUMNS 12

struct table {
	size_t n_columns;
	const char *heads[TABLE_MAX_COLUMNS];
	bool right[TABLE_MAX_COLUMNS];
	char **cells; /* row by row; owned */
	size_t n_cells, room;
	bool failed; /* out of memory once */
};

/* Adds a column; `right` aligns it right. All columns come before the first cell. */
void table_column(struct table *t, const char *head, bool right);
/* The next cell, row by row. */
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* -ENOMEM if a cell was lost. `max_rows` 0 prints all. */
int table_print(const struct table *t, FILE *to, size_t max_rows) _must_check_;
void table_done(struct table *t);
