/*
 * What ends an answer: the model's end-of-text ids and what the chat format writes after an
 * assistant's text, as the daemon has it.
 */
#pragma once

#include "engine/chat.h"

struct answer_end {
	int32_t stops[FORMAT_MAX_EOS + 1]; /* ids of which any ends it */
	size_t n_stops;
	/* The id that a good answer ends with: the chat format's, for some models list as their
	 * first end what no turn ends with; else the first end-of-text id. -1: there is none. */
	int32_t id;
	/* What ends an answer where the format's end is no token; borrowed from the format. Or
	 * NULL. */
	const char *text;
};

/* `format` may be NULL. */
struct answer_end answer_end_of(const struct model_config *config,
	const struct tokenizer *tokenizer, const struct chat_format *format);

/* Cuts an answer where `end->text` begins. */
void answer_end_cut(const struct answer_end *end, char *answer);
