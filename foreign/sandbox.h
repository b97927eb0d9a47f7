/*
 * Runs a function that reads foreign bytes in a child process that has lost what an exploit would
 * need: no network, no new processes, no tracing or signalling of others, no files but those it may
 * read and those it already holds open for writing; a system-call filter kills it otherwise. Memory
 * is limited. The child shares stdout and stderr, so it draws its own progress and prints its own
 * results.
 */
#pragma once

#include "common/reason.h"

struct sandbox_limits {
	uint64_t memory_bytes; /* address space; 0: no limit */
	/* A folder in which the child may create and write files; a kernel without Landlock cannot
	 * hold it to the folder, there it may write where its user may. NULL: it may only write to
	 * descriptors that are already open. */
	const char *writable_folder;
};

/*
 * Forks, so the caller must have no other threads. While the child runs, SIGINT, SIGTERM, SIGHUP
 * and SIGQUIT end the child and the call, so that the caller can clean up.
 *
 * The system calls of io_uring are refused with EPERM rather than death: who can do without may.
 * Libraries may be loaded and threads made; memory is never writable and executable.
 *
 * Returns what `fn` returned (an int that travels through a pipe with the text of `reason`), or
 * -EPERM if the child was killed by the filter, -ENOMEM if it ran out of memory, -ECANCELED if
 * it ended otherwise; the reason says which.
 */
int sandbox_call(int (*fn)(void *arg, struct reason *reason), void *arg,
	const struct sandbox_limits *limits, struct reason *reason) _must_check_;

/* Ends the text in an array that the child wrote, which it may not have done. */
#define sandbox_end_text(array) ((void)((array)[array_len(array) - 1] = '\0'))

/* Zeroed memory that caller and child share, for results that are more than a number. What the
 * child left there is as untrusted as the bytes that it read. NULL: out of memory. */
void *sandbox_memory_new(size_t n);
void sandbox_memory_free(void *memory, size_t n);
