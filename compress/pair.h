/*
 * A base and a fine-tune of it, read side by side: what is there is the base as it will be served
 * (rounded to bf16, or to the codes of `weights`) and the change that leads from it to the
 * fine-tune.
 */
#pragma once

#include "foreign/weights.h"

struct pair {
	struct checkpoint *base, *tuned; /* borrowed */
	struct model_config base_config, tuned_config;
	enum weights weights; /* what the base's matrices are read as; pair_init() leaves bf16 */
};

/* -EMEDIUMTYPE names the first field in which the architectures differ. The fine-tune may have a
 * larger vocabulary, and other begin, end and padding tokens. */
int pair_init(struct pair *p, struct checkpoint *base, struct checkpoint *tuned,
	struct reason *reason) _must_check_;

/* A projection: the base's weights and the change, both malloc'ed, rows x cols. *ret_delta is NULL
 * where the fine-tune has the base's own numbers, to the bit, whatever these are served as. */
struct pair_matrix {
	uint32_t rows, cols;
	float *base;
	float *delta;
	bool all_zero; /* the delta: all that changed is the sign of zeros */
};
int pair_read_matrix(const struct pair *p, enum tensor_role role, uint32_t layer,
	struct pair_matrix *ret, struct reason *reason) _must_check_;

/* The same as bf16 words, the fine-tune's rounded if they are wider; both malloc'ed. */
int pair_read_words(const struct pair *p, enum tensor_role role, uint32_t layer,
	uint16_t **ret_base, uint16_t **ret_tuned, struct reason *reason) _must_check_;

/* A norm or bias of the fine-tune, malloc'ed; NULL if the model has none. */
int pair_read_vector(const struct pair *p, enum tensor_role role, uint32_t layer, float **ret,
	bool *ret_changed, struct reason *reason) _must_check_;

/* Embedding or head of the fine-tune and of the base as bf16 and the rows that differ, added ones
 * included, ascending. All malloc'ed. */
struct pair_rows {
	uint32_t rows, cols; /* of the fine-tune's matrix */
	uint32_t base_rows;  /* rows from this one on were added */
	uint16_t *values;    /* rows x cols */
	uint16_t *base;      /* base_rows x cols */
	uint32_t *changed;
	uint32_t n_changed;
};
int pair_read_rows(const struct pair *p, enum tensor_role role, struct pair_rows *ret,
	struct reason *reason) _must_check_;
/* With the base's rows as they are served, rounded to bf16, in `base`, and in `values` for rows
 * that did not change: what a reader of the changed ones has. */
int pair_rows_serve(const struct pair *p, enum tensor_role role, struct pair_rows *rows,
	struct reason *reason) _must_check_;
/* Counts every row as changed. */
void pair_rows_take_all(struct pair_rows *rows);
void pair_rows_done(struct pair_rows *r);
