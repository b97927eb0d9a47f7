/*
 * What a report of compress_delta() tells of sizes, against the file.
 */
#pragma once

#include "compress/compress.h"

/* Fails the running test unless the file is as long as told, its three sums are its bytes, and
 * those of projections and of embedding and head are their payloads and records. */
void told_bytes_check(int fd, const struct compress_report *report);
