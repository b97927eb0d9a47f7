/*
 * The file beside an output in which long work is done, OUTPUT.partial: it stays when the work is
 * interrupted, so that the same command can go on with it.
 */
#pragma once

#include "common/reason.h"

struct partial_file {
	int fd;     /* readable and writable, locked; owned */
	char *path; /* owned */
};

#define PARTIAL_FILE_INIT ((struct partial_file){.fd = -1})

/* Opens what is there, or makes it. -EBUSY if another process is at work on it and does not
 * end within ten seconds. */
int partial_file_open(struct partial_file *p, const char *output, struct reason *reason)
	_must_check_;
/* The work is done, or cannot be done: the file is removed. */
void partial_file_remove(struct partial_file *p);
/* Closes it; what is there stays. */
void partial_file_done(struct partial_file *p);
