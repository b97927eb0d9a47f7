/*
 * deltactl is a table of commands; each lives in a file cmd_NAME.c and parses its own options.
 */
#pragma once

#include "common/progress.h"
#include "common/reason.h"

#include <stdio.h>

/* Exit codes of deltactl, as deltactl(1) documents them. */
enum exit_code {
	EXIT_OK = 0,
	EXIT_FAILED = 1,        /* the machine said no: I/O, memory, permissions */
	EXIT_USAGE = 2,         /* wrong options or arguments */
	EXIT_BAD_INPUT = 3,     /* a file breaks its format (-EBADMSG) */
	EXIT_NOT_SUPPORTED = 4, /* a well-formed file asks for what we lack (-EOPNOTSUPP) */
	EXIT_MISMATCH = 5,  /* does not fit its partner, or verification failed (-EMEDIUMTYPE) */
	EXIT_NO_DAEMON = 6, /* cannot reach the daemon */
	EXIT_REFUSED = 7,   /* the daemon refused */
};

struct command {
	const char *name;
	const char *arguments; /* "DIR -o FILE [--weights bf16]" */
	const char *summary;   /* one line */
	/* argv[0] is the command's own name. Returns an exit code. */
	int (*run)(int argc, char **argv);
};

extern const struct command *const commands[]; /* NULL-terminated; deltactl.c */

/* Prints "deltactl NAME: reason" on stderr and gives the exit code that belongs to the errno. */
int command_fail(const char *name, int error, const struct reason *reason);
/* The same for a wrong call, with a hint at --help. Returns EXIT_USAGE. */
int command_usage(const struct command *command, const char *fmt, ...) _printf_(2, 3);
/* The same for the option at which getopt_long() has just given '?', with opterr 0. */
int command_bad_option(const struct command *command, char **argv);
/* Prints usage, summary and the given text of options on stdout. Returns EXIT_OK. */
int command_help(const struct command *command, const char *options);

/* A progress bar with rate and time left on a terminal, a plain line now and then elsewhere, always
 * on stderr. progress_bar() binds it; `quiet` draws nothing. progress_bar_end() finishes the line.
 */
struct progress_bar {
	struct progress progress;
	bool quiet;
	bool terminal;
	const char *unit; /* "bytes" scales to MiB; otherwise the word is printed, with a count */
	uint32_t steps;   /* of progress in one unit; 0: 1 */
	char stage[64];
	uint64_t first, done; /* where the stage began, and is */
	uint64_t started_ns, drawn_ns;
};
const struct progress *progress_bar(struct progress_bar *bar, const char *unit, bool quiet);
void progress_bar_end(struct progress_bar *bar);

/* "31.5 MB" into a caller's buffer. */
const char *human_bytes(uint64_t bytes, char ret[static 16]);
/* "1.52 s", "38 ms" into a caller's buffer. */
const char *human_duration(uint64_t ns, char ret[static 16]);
/* "12.345", or "unknown" for NaN: what was not measured. */
const char *human_figure(double value, int n_digits, char ret[static 16]);
