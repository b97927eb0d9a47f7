#include "client/deltactl/json_line.h"

#include <stdio.h>

int json_line_print(json_t *value, size_t flags, struct reason *reason)
{
	int r;

	if (!value)
		return reason_set(reason, -EBADMSG, "the result cannot be written as JSON");
	r = json_dumpf(value, stdout, JSON_COMPACT | flags);
	json_decref(value);
	if (r < 0 || putchar('\n') == EOF || fflush(stdout) == EOF)
		return reason_set(reason, -EIO, "cannot write standard output");
	return 0;
}
