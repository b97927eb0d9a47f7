/*
 * The programs under test, as built beside the test that asks.
 */
#pragma once

#include <limits.h>

#define PROGRAM_PATH_MAX (PATH_MAX + 64)

/* BUILD/tests/FOLDER/test_NAME is this program; BUILD/bin/NAME is the one asked for. */
void program_path(const char *name, char ret[static PROGRAM_PATH_MAX]);

/* Runs deltactl with arguments that end with NULL. What it printed, malloc'ed; fails the running
 * test with what it said if it does not succeed. */
char *program_deltactl(const char *const *arguments);
