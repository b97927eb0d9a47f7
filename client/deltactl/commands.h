/*
 * The commands, one line each; deltactl.c puts them in the order of the overview.
 */
#pragma once

#include "client/deltactl/command.h"

extern const struct command command_import;
extern const struct command command_compress;
extern const struct command command_eval;
extern const struct command command_verify;
extern const struct command command_inspect;
extern const struct command command_cut;
extern const struct command command_score;
extern const struct command command_bench;
extern const struct command command_tokenize;
extern const struct command command_detokenize;
extern const struct command command_merge;
extern const struct command command_run;
extern const struct command command_chat;
extern const struct command command_models;
extern const struct command command_list;
extern const struct command command_ps;
extern const struct command command_show;
extern const struct command command_load;
extern const struct command command_unload;
extern const struct command command_pin;
extern const struct command command_unpin;
extern const struct command command_stats;
extern const struct command command_top;
extern const struct command command_reload;
extern const struct command command_drain;
