/*
 * The text side of one generation, on the loop's thread: tokens become text, and text is held back
 * while it may turn out to be the beginning of a stop string. Allocates only when it is made.
 */
#pragma once

#include "common/reason.h"
#include "engine/tokenizer.h"

#define STREAM_MAX_STOPS 9 /* PROTO_MAX_STOPS and that of the chat format */
#define STREAM_MAX_STOP_BYTES 128

struct stream;

/* Expected conditions. */
enum {
	STREAM_E_STOP = 1, /* a stop string, or the stop token, has come */
};

/* `tokenizer` is borrowed; NULL for a model without one, whose streams have no text. */
int stream_new(const struct tokenizer *tokenizer, struct stream **ret) _must_check_;
struct stream *stream_free(struct stream *s);

/* Before the first token. The bytes are copied. -ENOSPC past STREAM_MAX_STOPS, -EINVAL if it is
 * empty or longer than STREAM_MAX_STOP_BYTES. */
int stream_add_stop(struct stream *s, const char *bytes, size_t n) _must_check_;
/* A token that ends the text and is not part of it. */
void stream_set_stop_token(struct stream *s, uint32_t id);

/*
 * The next token. *ret_text (borrowed until the next call, not terminated) is what became certain,
 * perhaps nothing. STREAM_E_STOP: the text ended before a stop; nothing may be pushed afterwards.
 */
int stream_push(struct stream *s, uint32_t id, const char **ret_text, size_t *ret_n) _must_check_;

/* The rest, at the end of a generation that found no stop. STREAM_E_STOP if the rest has one. */
int stream_end(struct stream *s, const char **ret_text, size_t *ret_n) _must_check_;

/* After STREAM_E_STOP: the stop string that was found; NULL for the stop token. */
const char *stream_stop(const struct stream *s, size_t *ret_n);

static inline void stream_freep(struct stream **s)
{
	stream_free(*s);
}
