/*
 * What a report of compress_delta() tells: sizes, against the file, and figures by their names.
 */
#pragma once

#include "compress/compress.h"

/* Fails the running test unless the file is as long as told, its three sums are its bytes, and
 * those of projections and of embedding and head are their payloads and records. */
void told_bytes_check(int fd, const struct compress_report *report);

/* One of the report's, or NULL if there is none of that name. */
const struct method_figure *told_figure(const struct compress_report *report, const char *name);
