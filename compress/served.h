/*
 * A checkpoint as the engine would serve it: imported into sealed memory, bound, ready to compute.
 */
#pragma once

#include "common/progress.h"
#include "engine/model.h"
#include "foreign/weights.h"

struct served {
	struct base *base;
	struct model *model;
	struct variant *variant;    /* the base alone */
	struct delta *delta;        /* or NULL */
	struct variant *with_delta; /* or NULL */
};

/* Kernels are borrowed. */
int served_of_checkpoint(struct checkpoint *checkpoint, enum weights weights,
	const struct kernels *kernels, const struct progress *progress, struct served *ret,
	struct reason *reason) _must_check_;
/* Takes the base, whatever the result. */
int served_of_base(struct base *base, const struct kernels *kernels, struct served *ret,
	struct reason *reason) _must_check_;
/* Binds a delta to it, which it takes, whatever the result. */
int served_add_delta(struct served *s, struct delta *delta, struct reason *reason) _must_check_;

/* Forgets the delta, if there is one. */
void served_drop_delta(struct served *s);

/* What answers: the base with its delta, or alone where it has none. */
static inline const struct variant *served_variant(const struct served *s)
{
	return s->with_delta ? s->with_delta : s->variant;
}

void served_done(struct served *s);
