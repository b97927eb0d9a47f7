/*
 * A model ready to compute: the base bound to kernels, and variants of it.
 */
#pragma once

#include "engine/pool.h"
#include "kernels/kernels.h"
#include "store/base.h"
#include "store/delta.h"

struct model; /* the base with its rotation tables; shared by all variants */

/* Borrows base and kernels, which must outlive it. */
int model_new(const struct base *base, const struct kernels *kernels, struct model **ret,
	struct reason *reason) _must_check_;
struct model *model_free(struct model *model);

static inline void modelp(struct model **m)
{
	model_free(*m);
}

const struct model_config *model_config(const struct model *model);

/* The base (delta NULL) or the base with one delta. Borrows both. Immutable after creation, so any
 * number of rows may use it at once. */
struct variant;

int variant_new(const struct model *model, const struct delta *delta, struct variant **ret,
	struct reason *reason) _must_check_;
struct variant *variant_free(struct variant *variant);

static inline void variantp(struct variant **v)
{
	variant_free(*v);
}

/* The config as this variant has it: its vocabulary and end-of-text ids may differ from the base.
 */
const struct model_config *variant_config(const struct variant *variant);
