/*
 * libdeltad: programs talk to the deltad daemon with this. libdeltad(3) has an example.
 *
 * Results: 0 is success, negative is an errno; deltad_strerror() puts an errno in words and
 * deltad_reason() tells what the daemon said about the last failure of a connection.
 * A connection belongs to one thread at a time. Strings are UTF-8.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DELTAD_API __attribute__((visibility("default")))
#define DELTAD_CHECK __attribute__((warn_unused_result))

#define DELTAD_SOCKET_PATH "/run/deltad/deltad.sock"

struct deltad; /* a connection */

/* Connects to the socket at `path`; NULL means $DELTAD_SOCKET, or DELTAD_SOCKET_PATH. Blocks until
 * the daemon has answered. -ENOENT or -ECONNREFUSED: there is no daemon. */
DELTAD_API int deltad_connect(const char *path, struct deltad **ret) DELTAD_CHECK;
/* The same over a connected SOCK_SEQPACKET socket, for programs that were given one. Takes `fd`,
 * also on failure. */
DELTAD_API int deltad_connect_fd(int fd, struct deltad **ret) DELTAD_CHECK;
/* Ends its streams and frees it. NULL is allowed. Returns NULL. */
DELTAD_API struct deltad *deltad_close(struct deltad *d);

/* Readable when deltad_next() may have something. Do not read it, do not close it. */
DELTAD_API int deltad_fd(const struct deltad *d);
/* Program and version of the daemon. Valid until deltad_close(). */
DELTAD_API const char *deltad_server(const struct deltad *d);

/* Words for an errno that this library returned; static. */
DELTAD_API const char *deltad_strerror(int error);
/* What the last failed call on this connection was about; "" if it had nothing to say. Valid until
 * the next call. */
DELTAD_API const char *deltad_reason(const struct deltad *d);

enum deltad_residency {
	DELTAD_ON_DISK = 0,
	DELTAD_LOADING = 1,
	DELTAD_RESIDENT = 2,
	DELTAD_DRAINING = 3,
	DELTAD_FAILED = 4,
};

/* A variant that this user may name. The struct may grow at its end. */
struct deltad_model {
	const char *name;
	enum deltad_residency residency;
	int is_base;
	int has_chat;
	uint64_t file_bytes;
	uint64_t memory_bytes; /* 0 unless in memory */
	uint8_t digest[32];    /* identity of its file */
	uint32_t context;      /* most tokens of prompt and answer; 0 unless in memory */
	uint32_t vocabulary;   /* likewise */
};

struct deltad_models; /* a list of them */

DELTAD_API int deltad_models(struct deltad *d, struct deltad_models **ret) DELTAD_CHECK;
DELTAD_API size_t deltad_models_count(const struct deltad_models *models);
/* NULL past the end. Valid until deltad_models_free(). */
DELTAD_API const struct deltad_model *deltad_models_get(
	const struct deltad_models *models, size_t i);
DELTAD_API struct deltad_models *deltad_models_free(struct deltad_models *models);

enum deltad_role {
	DELTAD_SYSTEM = 0,
	DELTAD_USER = 1,
	DELTAD_ASSISTANT = 2,
};

struct deltad_message {
	enum deltad_role role;
	const char *text;
	size_t n_text;
};

struct deltad_bias {
	uint32_t token;
	float bias; /* added to the logit; -INFINITY forbids */
};

enum deltad_complete_flag {
	DELTAD_IGNORE_EOS = 1 << 0,     /* end-of-text tokens do not end the answer */
	DELTAD_PARSE_SPECIALS = 1 << 1, /* special tokens spelled in `text` count as such */
	DELTAD_NO_SPECIALS = 1 << 2,    /* `text` gets no begin-of-text token */
};

/* What to complete and how. Start from DELTAD_COMPLETE_INIT; set `variant` and one of text, ids and
 * messages. Everything is copied by deltad_complete(). */
struct deltad_complete_options {
	size_t size; /* of this struct, as the program knows it */
	const char *variant;
	const char *text;
	size_t n_text;
	const uint32_t *ids;
	size_t n_ids;
	const struct deltad_message *messages;
	size_t n_messages;
	uint32_t flags;           /* enum deltad_complete_flag */
	uint32_t max_tokens;      /* 0: up to the end of the context */
	float temperature;        /* 0: always the most probable token */
	uint32_t top_k;           /* 0: off */
	float top_p;              /* 1: off */
	float min_p;              /* 0: off */
	float repetition_penalty; /* 1: off */
	float presence_penalty;   /* 0: off */
	float frequency_penalty;  /* 0: off */
	uint32_t n_logprobs;      /* most probable tokens to report with each, at most 20 */
	uint64_t seed;
	const char *const *stops; /* strings that end the answer, at most 8 of at most 128 bytes */
	size_t n_stops;
	const struct deltad_bias *biases; /* at most 256 */
	size_t n_biases;
};

#define DELTAD_COMPLETE_INIT                                                                       \
	{                                                                                          \
		.size = sizeof(struct deltad_complete_options), .top_p = 1,                        \
		.repetition_penalty = 1                                                            \
	}

/* Asks for a completion and returns at once with the stream's number, which is never 0. A request
 * that the daemon refuses ends its stream with an error. Several streams may run at once. */
DELTAD_API int deltad_complete(struct deltad *d, const struct deltad_complete_options *options,
	uint64_t *ret_stream) DELTAD_CHECK;

enum deltad_event_kind {
	DELTAD_TOKEN = 0,
	DELTAD_DONE = 1, /* the last event of its stream */
};

enum deltad_finish {
	DELTAD_FINISH_STOP = 0,      /* the model ended its answer, or a stop string came */
	DELTAD_FINISH_LENGTH = 1,    /* max_tokens, or the end of the context */
	DELTAD_FINISH_CANCELLED = 2, /* deltad_cancel() */
	DELTAD_FINISH_ERROR = 3,     /* `error` and `words` */
};

struct deltad_logprob {
	uint32_t token;
	float logprob; /* natural logarithm */
};

/* The struct may grow at its end. */
struct deltad_event {
	enum deltad_event_kind kind;
	uint64_t stream;
	/* The next piece of the answer: whole characters, terminated, often empty. DONE may bring
	 * the last piece. */
	const char *text;
	size_t n_text;
	/* TOKEN */
	uint32_t token;
	float logprob;
	const struct deltad_logprob *top;
	size_t n_top;
	/* DONE */
	enum deltad_finish finish;
	int error; /* negative errno with DELTAD_FINISH_ERROR, else 0 */
	const char *words;
	const char *stop; /* the stop string that ended it, or "" */
	uint32_t n_prompt;
	uint32_t n_generated;
	uint64_t load_ns;   /* waited for the variant to come into memory */
	uint64_t queue_ns;  /* waited for its turn */
	uint64_t prompt_ns; /* until the first token */
	uint64_t decode_ns; /* all others */
};

/*
 * The next event of a stream, or of any stream if `stream` is 0. timeout_ms -1 waits for ever, 0
 * does not wait. *ret is valid until the next call on this connection.
 * -ETIMEDOUT: nothing yet; -ENOENT: no such stream is running, or none at all, which is told
 * without waiting; -ECONNRESET: the daemon is gone and so are all streams.
 */
DELTAD_API int deltad_next(struct deltad *d, uint64_t stream, int timeout_ms,
	const struct deltad_event **ret) DELTAD_CHECK;
/* Asks the daemon to end a stream; its last event still comes. -ENOENT as above. */
DELTAD_API int deltad_cancel(struct deltad *d, uint64_t stream) DELTAD_CHECK;

enum deltad_tokenize_flag {
	DELTAD_TOKENIZE_ADD_SPECIALS = 1 << 0,
	DELTAD_TOKENIZE_PARSE_SPECIALS = 1 << 1,
};

enum deltad_detokenize_flag {
	DELTAD_DETOKENIZE_SKIP_SPECIALS = 1 << 0,
};

/* Text to token ids; the caller frees *ret with free(). */
DELTAD_API int deltad_tokenize(struct deltad *d, const char *variant, const char *text,
	size_t n_text, uint32_t flags, uint32_t **ret, size_t *ret_n) DELTAD_CHECK;
/* Token ids to text, terminated; the caller frees *ret with free(). */
DELTAD_API int deltad_detokenize(struct deltad *d, const char *variant, const uint32_t *ids,
	size_t n_ids, uint32_t flags, char **ret, size_t *ret_n) DELTAD_CHECK;

#ifdef __cplusplus
}
#endif
