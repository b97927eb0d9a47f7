/*
 * The daemon's numbers as lines and as JSON.
 */
#pragma once

#include "client/deltactl/remote.h"

/* Bytes and times in units that people read. */
int stats_print(const struct proto_stats_reply *stats, size_t max_rows);
/* One object, exact: bytes and nanoseconds as whole numbers. */
json_t *stats_json(const struct proto_stats_reply *stats);
