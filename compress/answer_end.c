#include "compress/answer_end.h"

#include <string.h>

struct answer_end answer_end_of(const struct model_config *config,
	const struct tokenizer *tokenizer, const struct chat_format *format)
{
	struct answer_end end = {.id = config->n_eos > 0 ? config->eos[0] : -1};
	const char *stop = format ? chat_format_stop(format) : NULL;
	int64_t id = stop ? tokenizer_find(tokenizer, stop, strlen(stop)) : -1;

	for (size_t i = 0; i < config->n_eos; i++)
		end.stops[end.n_stops++] = config->eos[i];
	if (id < 0)
		end.text = stop;
	/* A model cannot make a token that it has no embedding for. */
	else if (id < config->vocab)
		end.stops[end.n_stops++] = end.id = (int32_t)id;
	return end;
}

void answer_end_cut(const struct answer_end *end, char *answer)
{
	char *at = end->text ? strstr(answer, end->text) : NULL;

	if (at)
		*at = '\0';
}
