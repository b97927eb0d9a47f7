#include "daemon/stream.h"

#include <assert.h>
#include <string.h>

struct stop {
	size_t n;
	char bytes[STREAM_MAX_STOP_BYTES];
};

struct stream {
	const struct tokenizer *tokenizer;
	struct token_stream decoder;
	struct stop stops[STREAM_MAX_STOPS];
	size_t n_stops;
	int64_t stop_token; /* -1: none */
	const struct stop *found;
	/* text[0, n_given) was handed out by the last call; text[n_given, n) is held back. */
	size_t n_given;
	size_t n;
	size_t room;
	char text[];
};

int stream_new(const struct tokenizer *tokenizer, struct stream **ret)
{
	size_t token_room = tokenizer ? tokenizer_max_token_bytes(tokenizer) + 16 : 0;
	size_t room = STREAM_MAX_STOP_BYTES + token_room;
	struct stream *s = calloc(1, sizeof(*s) + room);

	if (!s)
		return -ENOMEM;
	s->tokenizer = tokenizer;
	s->room = room;
	s->stop_token = -1;
	*ret = s;
	return 0;
}

struct stream *stream_free(struct stream *s)
{
	free(s);
	return NULL;
}

int stream_add_stop(struct stream *s, const char *bytes, size_t n)
{
	if (s->n_stops == STREAM_MAX_STOPS)
		return -ENOSPC;
	if (n == 0 || n > STREAM_MAX_STOP_BYTES)
		return -EINVAL;
	s->stops[s->n_stops].n = n;
	memcpy(s->stops[s->n_stops].bytes, bytes, n);
	s->n_stops++;
	return 0;
}

void stream_set_stop_token(struct stream *s, uint32_t id)
{
	s->stop_token = id;
}

/* Where the first stop begins; of several at one place the one that was added first. s->n if none.
 */
static size_t find_stop(struct stream *s)
{
	size_t first = s->n;

	for (size_t i = 0; i < s->n_stops; i++) {
		const struct stop *stop = &s->stops[i];
		const char *at = memmem(s->text, s->n, stop->bytes, stop->n);

		if (at && (size_t)(at - s->text) < first) {
			first = (size_t)(at - s->text);
			s->found = stop;
		}
	}
	return first;
}

/* How many of the last bytes may be the beginning of a stop. */
static size_t may_become_stop(const struct stream *s)
{
	size_t most = min_u64(s->n, STREAM_MAX_STOP_BYTES - 1);

	for (size_t held = most; held > 0; held--)
		for (size_t i = 0; i < s->n_stops; i++)
			if (s->stops[i].n > held &&
				memcmp(s->text + s->n - held, s->stops[i].bytes, held) == 0)
				return held;
	return 0;
}

static void give(struct stream *s, size_t n, const char **ret_text, size_t *ret_n)
{
	s->n_given = n;
	*ret_text = s->text;
	*ret_n = n;
}

/* Forgets what the last call gave, to make room. */
static void forget_given(struct stream *s)
{
	s->n -= s->n_given;
	memmove(s->text, s->text + s->n_given, s->n);
	s->n_given = 0;
}

int stream_push(struct stream *s, uint32_t id, const char **ret_text, size_t *ret_n)
{
	size_t stop;

	assert(!s->found);
	forget_given(s);
	if (s->stop_token == (int64_t)id) {
		give(s, s->n, ret_text, ret_n);
		return STREAM_E_STOP;
	}
	if (s->tokenizer)
		s->n += token_stream_push(
			s->tokenizer, &s->decoder, id, s->text + s->n, s->room - s->n);
	stop = find_stop(s);
	if (s->found) {
		give(s, stop, ret_text, ret_n);
		return STREAM_E_STOP;
	}
	give(s, s->n - may_become_stop(s), ret_text, ret_n);
	return 0;
}

int stream_end(struct stream *s, const char **ret_text, size_t *ret_n)
{
	size_t stop;

	forget_given(s);
	if (s->tokenizer)
		s->n += token_stream_end(s->tokenizer, &s->decoder, s->text + s->n, s->room - s->n);
	stop = find_stop(s);
	give(s, stop, ret_text, ret_n);
	return s->found ? STREAM_E_STOP : 0;
}

const char *stream_stop(const struct stream *s, size_t *ret_n)
{
	if (!s->found)
		return NULL;
	*ret_n = s->found->n;
	return s->found->bytes;
}
