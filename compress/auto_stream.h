/*
 * Method "auto" for models that do not fit into memory, one block at a time:
 *
 *   forward    the fine-tune reads the text; the inputs of each block go to a file
 *              (compress/block_inputs.h)
 *   coding     from the last block to the first: the gradient comes back through the block, its
 *              Fisher factors are made, and each of its projections is coded at several lambdas
 *              (compress/ladder.h); parts and gradient go to a file of work (compress/work_file.h)
 *   choosing   one lambda for all projections, and what is left of the budget step by step
 *              (compress/menu.h)
 *   levels     what is worth most a byte comes first (compress/auto_levels.h)
 *
 * All files are one, the walk's (compress/walk.h), whose own work stands behind. What is there of
 * an earlier run is gone on with.
 *
 * Against the way in memory (compress/auto_run.h): the codec is chosen for each projection, by the
 * Fisher estimate; no answers of the fine-tune's own are drawn; nothing is trained, nothing of the
 * whole model is measured. The KL of --max-kl is the estimate.
 */
#pragma once

#include "compress/auto_levels.h"
#include "compress/auto_text.h"
#include "compress/backward.h"
#include "compress/block_inputs.h"
#include "compress/fisher.h"
#include "compress/menu.h"
#include "compress/work_file.h"

/* Stages of progress: in blocks, and in projections. */
#define STREAM_FORWARD "reading forward"
#define STREAM_CODING "coding"
#define STREAM_CODING_STEPS DENSE_N_PROJECTIONS /* of a block */
#define STREAM_CHUNK 1024u                      /* tokens that go through a block together */

/* One projection, when its block is done. */
struct stream_tensor {
	struct menu menu; /* entries are owned; none: it did not change */
	struct work_part *parts;
};

struct auto_stream {
	const struct method_model *model;
	const struct model_config *config; /* the fine-tune's */
	enum auto_text_kind kind;
	struct sequences text;
	struct block_inputs *inputs;
	struct work_file *work;
	int fd;             /* of the files */
	uint32_t n_resumed; /* blocks that were there */

	/* While blocks are coded. */
	struct dense_model *tuned;
	struct backward *backward;
	struct fisher_settings sensing;
	struct fisher *fisher;
	struct fisher_block block;

	struct stream_tensor *tensors; /* n_layers x DENSE_N_PROJECTIONS */
	size_t n_tensors;
	uint32_t n_done;  /* blocks whose tensors are there: the last ones of the model */
	double n_weights; /* numbers of projections that changed, in them */

	/* In the end. */
	size_t *picks; /* of all tensors */
	struct menu_choice choice;
	double budget; /* 0: a KL is the goal */
	double reserve; /* bytes beside it, for levels */
	struct auto_levels *levels;
	struct rate_loss outer; /* of embedding and head, where they are chosen here */
};

/* Tokens that are read: enough for steady factors, fewer where they are costly. */
size_t stream_tokens(const struct model_config *c);
/* The files, and what is in them. */
int stream_open(struct auto_stream *s, struct reason *reason) _must_check_;
/* Inputs of all blocks. */
int stream_forward(struct auto_stream *s, struct reason *reason) _must_check_;
/* Menus of all blocks. */
int stream_code(struct auto_stream *s, struct reason *reason) _must_check_;
/* 1 from each of the three: what is in the files is damaged, all begins anew with stream_restart().
 */
int stream_restart(struct auto_stream *s, struct reason *reason) _must_check_;

/* The menus of the next block, from the file. */
int stream_take_block(struct auto_stream *s, struct reason *reason) _must_check_;
/* What the blocks that are done would be coded with for their share of the budget; 0: nobody knows
 * yet. */
int stream_lambda(const struct auto_stream *s, double *ret) _must_check_;
/* A number's bits, about, where that is known; else 0. */
double stream_bits(const struct auto_stream *s);
/* May projections be in components? */
bool stream_takes_components(const struct auto_stream *s);
int stream_choose(struct auto_stream *s, struct reason *reason) _must_check_;

static inline struct stream_tensor *stream_tensor(
	const struct auto_stream *s, uint32_t layer, size_t projection)
{
	return &s->tensors[(size_t)layer * DENSE_N_PROJECTIONS + projection];
}
