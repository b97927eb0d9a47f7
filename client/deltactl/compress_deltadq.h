/*
 * The options of `deltactl compress` that method deltadq alone knows.
 */
#pragma once

#include "compress/deltadq.h"

#include <getopt.h>

enum {
	OPTION_DELTADQ_FIRST = 512,
	OPTION_CLAIMED_RATIO = OPTION_DELTADQ_FIRST,
	OPTION_ALPHA,
	OPTION_CODE_BITS,
	OPTION_PARTS,
	OPTION_GROUP,
	OPTION_GROUP_SEARCH,
	OPTION_GRID,
	OPTION_RESCALE,
	OPTION_SEEDS,
	OPTION_SEED,
	OPTION_DELTADQ_END,
};

/* clang-format off */
#define COMPRESS_DELTADQ_OPTIONS                                       \
	{"claimed-ratio", required_argument, NULL, OPTION_CLAIMED_RATIO}, \
	{"alpha", required_argument, NULL, OPTION_ALPHA},                 \
	{"code-bits", required_argument, NULL, OPTION_CODE_BITS},         \
	{"parts", required_argument, NULL, OPTION_PARTS},                 \
	{"group", required_argument, NULL, OPTION_GROUP},                 \
	{"group-search", required_argument, NULL, OPTION_GROUP_SEARCH},   \
	{"grid", required_argument, NULL, OPTION_GRID},                   \
	{"rescale", required_argument, NULL, OPTION_RESCALE},             \
	{"seeds", required_argument, NULL, OPTION_SEEDS},                 \
	{"seed", required_argument, NULL, OPTION_SEED}

#define COMPRESS_DELTADQ_HELP                                                                  \
	"method deltadq:\n"                                                                    \
	"  --claimed-ratio N        what the paper counts, alpha * 16 / (k - log2 m), instead\n" \
	"                           of --ratio\n"                                              \
	"  --alpha A --code-bits K --parts M\n"                                                \
	"                           one number of A stays, as K bits, claimed in M parts\n"    \
	"  --group H                columns of a group, else the best of each tensor\n"        \
	"  --group-search WHERE     each-tensor (default), first-layer: the paper's\n"         \
	"  --grid NAME              clipped (default), min-max: the paper's\n"                 \
	"  --rescale NAME           model (default), tensor: by whose error; alpha: the paper's\n" \
	"  --seeds N                tried for a tensor (default 4)\n"                          \
	"  --seed N                 that they begin with (default 0)\n"
/* clang-format on */

/* True if the value is understood. */
bool compress_deltadq_option(int option, const char *value, struct deltadq_options *o);
