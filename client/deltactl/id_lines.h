/*
 * A file with one JSON array of token ids a line, read and checked whole before anything is
 * computed from it. Lines of white space only are skipped.
 */
#pragma once

#include "common/reason.h"

struct id_line {
	size_t number; /* in the file, from 1 */
	uint32_t *ids; /* owned */
	size_t n;      /* at least 1 */
};

struct id_lines {
	struct id_line *lines; /* owned */
	size_t n;
};

/* "-" is standard input. -EBADMSG names the line: not an array of numbers, empty, an id that is not
 * below `vocab`, more than max_ids of them. */
int id_lines_read(const char *path, uint32_t vocab, uint32_t max_ids, struct id_lines *ret,
	struct reason *reason) _must_check_;
void id_lines_done(struct id_lines *lines);
