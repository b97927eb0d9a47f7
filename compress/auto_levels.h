/*
 * The levels of method "auto", both ways: what is chosen is put to levels by what it is worth a
 * byte (compress/level_plan.h). A matrix in components is taken apart (compress/components.h), its
 * benefit shared among them; one in direct codes stays whole. No number changes by it.
 *
 * KL on unseen tasks of a fine-tune for word problems at 16x after each quarter of the bytes, base
 * 3.0: 0.49, 0.12, 0.0057, 0.00046; with matrices whole, by benefit a byte, 1.75, 0.36, 0.066,
 * 0.0004. At 32x after each third, 0.58, 0.11, 0.013; with a third of the cuts 1.01, 0.13, 0.013.
 */
#pragma once

#include "compress/method.h"

/* What is chosen, matrix by matrix; each is read some times, and the same every time. */
struct auto_levels_source {
	size_t n;
	/* The part of matrix i, with its loss; no payload where nothing is stored. *ret_benefit:
	 * how much more nothing would lose. */
	int (*read)(const void *user, size_t i, struct part *ret, double *ret_benefit,
		struct reason *reason);
	const void *user;
};

struct auto_levels;

/* What taking apart may add to so many bytes: to be left free where components are possible. */
double auto_levels_reserve(double bytes, size_t n_matrices);

/* `spare`: bytes that taking apart may add to the file; nothing is where they do not suffice. */
int auto_levels_new(const struct auto_levels_source *source, double spare, struct auto_levels **ret,
	struct reason *reason) _must_check_;
struct auto_levels *auto_levels_free(struct auto_levels *l);

static inline void auto_levelsp(struct auto_levels **l)
{
	auto_levels_free(*l);
}

/* Bytes of parts and records that taking apart has added. */
double auto_levels_added(const struct auto_levels *l);

/* Reads matrix i of the source again, and gives its parts to m. */
int auto_levels_give(const struct auto_levels *l, const struct auto_levels_source *source, size_t i,
	struct method_matrix *m, struct reason *reason) _must_check_;
