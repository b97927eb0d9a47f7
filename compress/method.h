/*
 * A method: how the change of a projection becomes bytes.
 *
 * The walk (compress/walk.h) meets the blocks in order and gives a method one group of projections
 * at a time, those that share their inputs: q, k, v; o; gate, up; down. The method answers with
 * the parts of each projection. It does not touch what it is given: the walk decodes the parts as
 * any reader would, measures them, and installs base + decoded delta before it computes the inputs
 * of the next group. A method may therefore try another method first and throw the answer away.
 *
 * A method keeps nothing from group to group but what prepare() made, which depends on the whole
 * model and the options alone, and sums() for its report: a walk that was interrupted goes on at
 * any block.
 */
#pragma once

#include "common/digest.h"
#include "common/progress.h"
#include "compress/calibration.h"
#include "compress/deltadq.h"
#include "compress/pair.h"
#include "compress/parts.h"
#include "engine/pool.h"

#define METHOD_MAX_PARTS FORMAT_MAX_LEVELS
#define METHOD_RECORD_BYTES sizeof(struct tensor_record) /* of a part, beside its payload */
#define METHOD_MAX_GROUP 3u                              /* q, k, v */
#define METHOD_MAX_FIGURES 10u
#define METHOD_MAX_POINTS 8u

enum method_needs {
	METHOD_NEEDS_CALIBRATION = 1 << 0, /* second moments of the inputs */
	METHOD_NEEDS_GRADIENTS = 1 << 1,   /* the fine-tune's Fisher factors */
};

/* What some methods take and others refuse, or make nothing special of. */
enum method_takes {
	METHOD_TAKES_ADAPTERS = 1 << 0, /* and nothing else, as they are */
	METHOD_TAKES_TASKS = 1 << 1,    /* to learn from; others are calibrated on them */
	METHOD_TAKES_GOALS = 1 << 2,    /* a file ratio or a most KL, and steps of training */
	METHOD_TAKES_OUTER = 1 << 3,    /* embedding and head, where they are open */
	METHOD_TAKES_DELTADQ = 1 << 4,  /* struct deltadq_options */
};

/* Words to learn from where there are no tasks, best first. */
enum method_text {
	METHOD_TEXT_BEST, /* the first that can be had */
	METHOD_TEXT_OWN_WORDS,
	METHOD_TEXT_GENERIC,
	METHOD_TEXT_NONE, /* random tokens */
};

/* What the user asked of the method; what has no meaning for it is refused by check(). */
struct tasks; /* compress/tasks.h */
struct outer; /* compress/outer.h */

struct method_options {
	double ratio; /* 16-bit bytes of the projections over all their bytes; 0: not said */
	double bits;  /* 0: not said. Methods of a fixed width: bits of a code, else 16 / ratio */
	struct deltadq_options deltadq;
	const struct tasks *tasks; /* words of the fine-tune's task; NULL: none */
	/* Goals. */
	double file_ratio; /* 16-bit bytes of the model over those of the whole file; 0: not said */
	double max_kl;     /* nats on text that is kept back, instead of a size; 0: not said */
	double keep; /* share of the score on tasks that are kept back, likewise; 0: not said */
	enum method_text text;
	uint32_t train_steps; /* if train_steps_given */
	bool train_steps_given;
};

/* One projection. */
struct method_matrix {
	enum tensor_role role;
	uint32_t layer;
	uint32_t rows, cols;
	const float *base;  /* rows x cols, as it will be served */
	const float *delta; /* rows x cols; not all zero */
	uint64_t budget;    /* most bytes of its parts, records included; UINT64_MAX where no ratio
			       was asked for */
	/* The answer, levels ascending. None: the base's weights stay. Owned by the walk. */
	struct part parts[METHOD_MAX_PARTS];
	uint32_t n_parts;
};

struct method_group {
	const struct method_options *options;
	const struct pair *pair;
	struct pool *pool; /* BLAS runs on one thread in each of its workers */
	uint32_t layer;
	uint32_t cols;          /* of all matrices */
	const double *moments;  /* cols x cols: H = mean of x x^T over the calibration inputs; NULL
				   where the method does not need calibration */
	const double *held_out; /* the same of held-out text; to judge by, not to fit to */
	struct method_matrix *matrices;
	size_t n_matrices;
};

/* A file that prepare() may keep work in, so that a later run goes on with it. */
struct method_scratch {
	int fd; /* readable and writable; the method begins at its beginning */
	bool resume;
	struct digest key;     /* of all that the work may depend on */
	uint32_t *blocks_done; /* NULL, or told how many blocks are safe */
	/* Set by the method: where others may begin, and whether the file held something else than
	 * work of its own, or a damaged one. */
	uint64_t used;
	bool began_anew;
};

/* The whole model, for prepare(). */
struct method_model {
	const struct method_options *options;
	const struct pair *pair;
	const struct calibration *calibration;
	const uint16_t *embedding; /* as a reader will have it, vocab x hidden, bf16 */
	struct outer *outer;       /* embedding and head are the method's to choose; or NULL */
	double room; /* bytes for projections and what is open, by file_ratio; else 0 */
	struct pool *pool;
	const struct progress *progress;
	struct method_scratch *scratch;
};

/* What a method tells beside sizes and errors, which the walk reports for all. */
struct method_figure {
	char name[32]; /* a JSON key */
	double value;
	char word[16]; /* in the place of the value, unless it is empty */
	bool bytes;    /* the value is a size */
};

#define METHOD_FIGURE_TEXT "task_text" /* what auto learnt from, a word of auto_text_name() */
#define METHOD_FIGURE_MADE "made"      /* a way that is not the usual one: */
#define METHOD_MADE_BY_BLOCKS "block-by-block"

/* The tokens that a delta was made with. */
struct method_tokens {
	struct digest ids; /* as little-endian u32; zeros where there are none */
	uint64_t n;
};

struct method {
	const char *name;
	const char *summary; /* one line for the help */
	uint32_t needs;      /* enum method_needs, or-ed */
	uint32_t takes;      /* enum method_takes, or-ed */
	bool exact;          /* also meets projections where only bits changed: -0, NaN */
	bool any_change;     /* also takes a change that overflows f32, which it does not look at */
	double default_ratio; /* where neither ratio nor bits is said; 0: sizes itself */
	bool against_served;  /* by default made for the values that any base of codes serves, else
				 only for those of int4; bench/results/base_weights.md */
	/* -EINVAL names the option and what is expected. */
	int (*check)(const struct method_options *options, struct reason *reason);
	/* NULL: nothing to prepare. */
	int (*prepare)(const struct method_model *model, void **ret_state, struct reason *reason);
	/* -ENOMEM, -EDOM for numbers that are not finite. */
	int (*quantise)(void *state, struct method_group *group, struct reason *reason);
	/* A norm or bias that the method puts in the place of the fine-tune's, or NULL; NULL:
	 * never. */
	const float *(*vector)(const void *state, enum tensor_role role, uint32_t layer);
	/* NULL: nothing. Where report() sums over the groups: the sums, *ret_bytes of them. The
	 * walk keeps and restores them: the report of an interrupted one is of all groups. */
	void *(*sums)(void *state, size_t *ret_bytes);
	/* NULL: nothing. Fills at most METHOD_MAX_FIGURES; returns how many. */
	size_t (*report)(const void *state, struct method_figure *ret);
	/* NULL: none. Sizes that were measured on the way, on text of the method's own; fills at
	 * most METHOD_MAX_POINTS, returns how many. The last is what was made. */
	size_t (*points)(const void *state, struct rate_point *ret);
	/* What it has learnt from; NULL: the calibration text, if it needs that. */
	struct method_tokens (*text)(const void *state);
	void (*done)(void *state); /* NULL where there is no prepare() */
	/* NULL: about as much as the walk. Most bytes of memory that it takes, by the shape of the
	 * model alone; where that is above the limit `streamed` stands in, which may be NULL. */
	uint64_t (*memory)(const struct model_config *config, size_t n_threads);
	const struct method *streamed;
};

/* NULL if there is none of that name. */
const struct method *method_find(const char *name);
/* In the order of the help; NULL after the last. */
const struct method *method_at(size_t i);
/* The first that takes it. */
const struct method *method_taking(enum method_takes what);

/* check() of a method that fills any size: ratio or bits, not both, within reason. */
int method_check_ratio(const struct method_options *options, struct reason *reason) _must_check_;

/* The ratio that options ask of a method; 0: none. */
double method_ratio(const struct method *m, const struct method_options *options);

/* What codes of all rows of a matrix take, not entropy coded, with their record. */
uint64_t method_codes_bytes(uint32_t rows, uint32_t cols, uint8_t bits, enum grid_kind grid);

/* Where a part of the matrix belongs. */
struct part_place method_matrix_place(const struct method_matrix *m, uint8_t level);

/* Gives a matrix another part, which it takes, whatever the result. -E2BIG: more than
 * METHOD_MAX_PARTS. */
int method_matrix_add(struct method_matrix *m, struct part *part) _must_check_;
void method_matrix_done(struct method_matrix *m);
