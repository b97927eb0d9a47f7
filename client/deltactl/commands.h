/*
 * The commands, one line each; deltactl.c puts them in the order of the overview.
 */
#pragma once

#include "client/deltactl/command.h"

extern const struct command command_import;
