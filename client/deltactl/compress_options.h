/*
 * The command line of `deltactl compress`: which options there are, and what they set.
 */
#pragma once

#include "client/deltactl/compress_auto.h"
#include "common/digest.h"
#include "compress/compress.h"

struct compress_options {
	const char *base, *tuned, *adapter, *output, *calibrate;
	const char *method; /* NULL: not said */
	struct compress_settings settings;
	struct auto_arguments automatic;
	struct digest_state *said; /* the options that the parts depend on, while they are read */
	bool json, quiet, no_resume;
};

extern const char compress_options_help[];

/* 0: go on. EXIT_USAGE or, for --help, -1 otherwise. */
int compress_options_parse(int argc, char **argv, struct compress_options *o) _must_check_;
/* Is a list of the methods all that is wanted? */
bool compress_options_list(const struct compress_options *o);
