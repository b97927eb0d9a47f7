/*
 * One answer, shown while it is made.
 */
#pragma once

#include "client/deltactl/generation.h"

#include <signal.h>

struct answer {
	bool json;          /* one object a token and a last one with the totals, instead of text */
	int expected_error; /* is not printed: the caller answers it */
	/* A non-zero value cancels the answer; may be NULL. */
	const volatile sig_atomic_t *interrupted;
	/* Results. */
	char *text; /* owned, terminated; NULL if nothing came */
	size_t n_text;
	json_t *ids;       /* owned, with json */
	int error;         /* of the last event */
	char figures[128]; /* "36 prompt tokens in 21.3 ms, ..." of an answer that ended well */
};

/* Asks for g->complete and shows the answer as it comes. Returns an exit code; what went wrong has
 * been printed. */
int answer_run(struct answer *a, struct generation *g, struct deltad *d);
void answer_done(struct answer *a);
