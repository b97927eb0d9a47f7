/*
 * The options that run and chat share.
 */
#pragma once

#include "client/deltactl/remote.h"
#include "client/deltad.h"

#include <getopt.h>

#define GENERATION_SOCKET_OPTION                                                                   \
	"  --socket PATH   the daemon's socket; else $DELTAD_SOCKET, else\n"                       \
	"                  " DELTAD_SOCKET_PATH "\n"

#define GENERATION_HELP                                                                            \
	GENERATION_SOCKET_OPTION                                                                   \
	"  --max-tokens N  at most so many tokens (256); 0: up to the end of the context\n"        \
	"  --stop TEXT     end the answer before this text; up to 8 times\n"                       \
	"  --seed N        of the random choice (0)\n"                                             \
	"  --temperature X 0 always takes the most probable token (0)\n"                           \
	"  --top-k N, --top-p X, --min-p X\n"                                                      \
	"                  choose among the most probable tokens only (0, 1, 0: all)\n"            \
	"  --repetition-penalty X, --presence-penalty X, --frequency-penalty X\n"                  \
	"                  discourage tokens that were seen (1, 0, 0: off)\n"                      \
	"  --logit-bias ID=X\n"                                                                    \
	"                  add X to a token's logit, -inf forbids it; up to 256 times\n"           \
	"  --ignore-eos    go on after an end-of-text token\n"

enum generation_option {
	GENERATION_SOCKET = 1000,
	GENERATION_MAX_TOKENS,
	GENERATION_STOP,
	GENERATION_SEED,
	GENERATION_TEMPERATURE,
	GENERATION_TOP_K,
	GENERATION_TOP_P,
	GENERATION_MIN_P,
	GENERATION_REPETITION,
	GENERATION_PRESENCE,
	GENERATION_FREQUENCY,
	GENERATION_LOGIT_BIAS,
	GENERATION_IGNORE_EOS,
};

/* Elements of a getopt_long() table. */
/* clang-format off */
#define GENERATION_LONG_OPTIONS                                                                    \
	{"socket", required_argument, NULL, GENERATION_SOCKET},                                    \
	{"max-tokens", required_argument, NULL, GENERATION_MAX_TOKENS},                            \
	{"stop", required_argument, NULL, GENERATION_STOP},                                        \
	{"seed", required_argument, NULL, GENERATION_SEED},                                        \
	{"temperature", required_argument, NULL, GENERATION_TEMPERATURE},                          \
	{"top-k", required_argument, NULL, GENERATION_TOP_K},                                      \
	{"top-p", required_argument, NULL, GENERATION_TOP_P},                                      \
	{"min-p", required_argument, NULL, GENERATION_MIN_P},                                      \
	{"repetition-penalty", required_argument, NULL, GENERATION_REPETITION},                    \
	{"presence-penalty", required_argument, NULL, GENERATION_PRESENCE},                        \
	{"frequency-penalty", required_argument, NULL, GENERATION_FREQUENCY},                      \
	{"logit-bias", required_argument, NULL, GENERATION_LOGIT_BIAS},                            \
	{"ignore-eos", no_argument, NULL, GENERATION_IGNORE_EOS}
/* clang-format on */

struct generation {
	const struct command *command;
	const char *socket;
	struct deltad_complete_options complete;
	const char *stops[PROTO_MAX_STOPS];
	struct deltad_bias biases[PROTO_MAX_LOGIT_BIAS];
};

void generation_init(struct generation *g, const struct command *command);
/* Takes one option that getopt_long() returned. EXIT_OK, or prints and returns EXIT_USAGE. */
int generation_take(struct generation *g, int option, const char *value);

/* Connects, or prints why not and returns the exit code. */
int generation_connect(const struct command *command, const char *socket, struct deltad **ret);
