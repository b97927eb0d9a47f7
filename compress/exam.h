/*
 * Text that was kept back, with what the fine-tune says to it: what candidates are judged by.
 *
 * Few sequences have most of a KL, and another hundred would have it elsewhere. So two candidates
 * are compared sequence by sequence and in roots of KL, which are about the size of an error.
 */
#pragma once

#include "compress/dense_model.h"
#include "compress/sequences.h"
#include "engine/pool.h"

struct exam;

struct exam_settings {
	struct pool *pool;
	struct dense_model *teacher;
	const struct sequences *sequences; /* one or more */
};

/* Asks the teacher once. Borrows everything. */
int exam_new(const struct exam_settings *settings, struct exam **ret, struct reason *reason)
	_must_check_;
struct exam *exam_free(struct exam *e);

static inline void examp(struct exam **e)
{
	exam_free(*e);
}

struct exam_marks {
	double kl;     /* nats a judged token */
	double *roots; /* of the mean KL of each sequence; freed by exam_marks_done() */
};

void exam_marks_done(struct exam_marks *m);

/* `roots` is only made for who wants it. */
int exam_kl(struct exam *e, struct dense_model *candidate, double *ret, struct reason *reason)
	_must_check_;
int exam_marks(struct exam *e, struct dense_model *candidate, struct exam_marks *ret,
	struct reason *reason) _must_check_;

/* How much larger the roots are after than before, in the mean, and the standard error of that. */
struct exam_change {
	double mean, error;
};
struct exam_change exam_compare(
	const struct exam *e, const struct exam_marks *before, const struct exam_marks *after);
