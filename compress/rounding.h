/*
 * Rounding a whole base to codes with a text in mind: what import does with --calibrate.
 *
 * The text travels through the model one block at a time. In each block the matrices that share
 * their inputs (q, k, v; o; gate, up; down) are rounded together (compress/group_codes.h), with the
 * second moments of the inputs that blocks and matrices rounded before them make; so what is lost
 * early is known later. The text travels through the original model too, one step ahead, so that
 * later matrices may make up for it. Norms, biases and embedding stay as they are; the 8 bits of a
 * head lose too little for this.
 *
 * In memory are one block in f32, and moments of its widest inputs three times, in double; the
 * activations are in files. The codes do not depend on the number of threads, but on the machine's
 * BLAS, and on the text.
 */
#pragma once

#include "common/progress.h"
#include "compress/calibration.h"
#include "engine/pool.h"
#include "foreign/import.h"

#define ROUNDING_STAGE "rounding"
#define ROUNDING_STEPS 4u /* of progress in a block */
#define ROUNDING_DEFAULT_TOKENS 32768u
#define ROUNDING_WINDOW 512u

struct rounding;

struct rounding_settings {
	struct checkpoint *checkpoint;
	const char *text; /* documents separated by blank lines */
	size_t n_text;
	const char *text_name; /* for reasons */
	uint32_t max_tokens;
	struct pool *pool; /* BLAS runs on one thread in each of its workers */
	const struct progress *progress;
	/* To work in, two files: readable and writable, and what they hold is lost. */
	int work_fd, original_fd;
};

/* All is borrowed but the text, which is read at once. -ENOENT if the folder has no tokenizer,
 * -EBADMSG if the text is no text or too short. */
int rounding_new(const struct rounding_settings *settings, struct rounding **ret,
	struct reason *reason) _must_check_;
struct rounding *rounding_free(struct rounding *r);

static inline void roundingp(struct rounding **r)
{
	rounding_free(*r);
}

/* For one import of the checkpoint. */
struct import_rounding rounding_import(struct rounding *r);
