/*
 * What the daemon counts, and what the kernel says of its memory, as STATS_REPLY carries it.
 */
#pragma once

#include "client/proto.h"

#define STATS_MAX 48

struct server;

/* Names are static. Returns how many there are. */
uint32_t stats_collect(const struct server *server, struct proto_stat ret[static STATS_MAX]);
