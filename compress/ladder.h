/*
 * One projection of a fine-tune coded at several lambdas by both codecs, once and for all: the menu
 * (compress/menu.h) that a model too large for compress/trial.h chooses from in the end. Direct
 * codes of different lambdas are made side by side, everything else is split over the pool.
 */
#pragma once

#include "compress/menu.h"
#include "compress/metric.h"
#include "compress/parts.h"

#define LADDER_MAX_RUNGS 9u
/* Nothing; a direct code a rung; components of two coarsenesses a rung. */
#define LADDER_MAX_ENTRIES (1 + 3 * LADDER_MAX_RUNGS)
/* Codings that are made at once, however many threads there are: a direct one takes ten bytes a
 * number meanwhile. */
#define LADDER_SIDE_BY_SIDE 4u
#define LADDER_NOTHING UINT32_MAX /* tag of the entry that has no part */

struct ladder_settings {
	struct part_place place;
	const float *delta;         /* rows x cols */
	const struct metric *g, *h; /* as metric_new_feedback() makes them */
	const double *lambdas;      /* nats a byte, falling; NULL: around `bits` */
	uint32_t n_rungs;
	double bits;             /* a number, about, where there are no lambdas */
	uint32_t max_components; /* 0: direct codes alone */
	struct pool *pool;
};

struct ladder {
	struct menu_entry entries[LADDER_MAX_ENTRIES]; /* a hull; tags are numbers of parts */
	size_t n_entries;
	struct part parts[LADDER_MAX_ENTRIES];
	size_t n_parts;
};

/* Losses are nats of KL a token, as the metrics estimate it; part.quality.loss tells them too.
 * -ENOMEM, -EDOM for numbers that are not finite. */
int ladder_make(const struct ladder_settings *settings, struct ladder *ret, struct reason *reason)
	_must_check_;
void ladder_done(struct ladder *l);
