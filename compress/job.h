/*
 * One compression under way: what compress.c has made so far, and job_file.c measures and writes.
 */
#pragma once

#include "compress/calibration.h"
#include "compress/certificate.h"
#include "compress/compress.h"
#include "compress/delta_file.h"
#include "compress/outer.h"
#include "compress/pair.h"
#include "compress/walk.h"
#include "engine/pool.h"
#include "kernels/kernels.h"

#define JOB_SELFTEST_BYTES 4096u /* most that its logits take */

struct bytes {
	uint8_t *at;
	size_t n;
};

struct job {
	const struct compress_settings *settings;
	const struct progress *progress;
	struct kernels kernels;
	struct pool *pool;
	struct pair pair;
	enum weights against; /* what the delta is made against */
	struct digest base_digest, tuned_digest;
	struct tokenizer *tokenizer; /* the base's; NULL: none */
	struct bytes tables;         /* which it borrows */
	struct calibration *calibration;
	struct outer *outer;
	int memory; /* in the place of a file of work; -1: there is one */
	struct delta_file *file;
	struct walk_report projections;
	struct bytes extra_tokens, chat, selftest;
	struct certificate certificate;
	struct certificate_tasks certificate_tasks;
	struct sequences kept_back; /* tasks to be measured on; none where there are none */
	/* Of the levels but the last, then the method's. */
	struct rate_point points[FORMAT_MAX_LEVELS + METHOD_MAX_POINTS];
	size_t n_levels_measured;
	struct compress_report *report;
};

/* A file in memory. */
int job_open_memory(int *ret, struct reason *reason) _must_check_;

/*
 * The whole delta file: measured by the engine that will serve it, if that was asked for, and
 * written with its certificate and self-test.
 */
int job_write(struct job *j, int fd, struct reason *reason) _must_check_;
