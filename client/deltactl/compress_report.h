/*
 * What `deltactl compress` tells of a file that it made.
 */
#pragma once

#include "compress/compress.h"

/* Ends the texts of a report, which a child wrote and is not trusted to have made whole. */
void compress_report_close(struct compress_report *r);

void compress_report_print(
	const char *output, const struct compress_settings *s, const struct compress_report *r);
int compress_report_print_json(const char *output, const struct compress_settings *s,
	const struct compress_report *r, struct reason *reason) _must_check_;
