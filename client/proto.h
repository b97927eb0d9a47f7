/*
 * THE protocol of deltad: what its two sockets say. deltad-protocol(7) is the same in prose; a test
 * compares the numbers.
 *
 * Both sockets are Unix sockets of type SOCK_SEQPACKET. One packet is one message; a packet is at
 * most PROTO_MAX_PACKET bytes and begins with a header. All numbers are little-endian and
 * unaligned; a float is its IEEE 754 bits; a string is u32 length, then that many bytes, not
 * terminated; an array is u32 count, then its elements; a flag set is u32 and unknown bits are
 * refused.
 *
 *   header   u32 length    of the packet, these 16 bytes included
 *            u16 op        enum proto_op
 *            u16 flags     enum proto_flag
 *            u64 request   chosen by the client, not 0; replies carry the number of their request;
 *                          0 only in an ERROR about the connection or an unreadable header
 *
 * A message whose body does not fit a packet travels as a header alone with PROTO_FLAG_MEMFD and
 * one descriptor: a memfd that holds the body, sealed against writing, shrinking and growing, of at
 * most PROTO_MAX_BODY bytes. No other descriptor is ever sent by this version.
 *
 * The first message of a connection is HELLO. Afterwards a client may have several requests
 * outstanding, each with its own number; replies of different requests interleave. Every request
 * but CANCEL is answered by exactly one reply or ERROR; COMPLETE by any number of TOKEN and one
 * DONE, or by one ERROR. A peer that breaks the format gets ERROR with PROTO_STATUS_BAD_MESSAGE and
 * is then disconnected. Administration is a socket of its own; it takes the inference requests too.
 */
#pragma once

#include "common/digest.h"
#include "common/reason.h"

#define PROTO_VERSION 1u
#define PROTO_HEADER_BYTES 16u
#define PROTO_MAX_PACKET 65536u
#define PROTO_MAX_BODY (16u << 20) /* in a memfd */
#define PROTO_MAX_NAME 128u
#define PROTO_MAX_TEXT PROTO_MAX_BODY
#define PROTO_MAX_WORDS 1024u /* explanations for people */
#define PROTO_MAX_IDS (1u << 20)
#define PROTO_MAX_CHAT_MESSAGES 4096u
#define PROTO_MAX_VARIANTS 65536u
#define PROTO_MAX_STATS 4096u
#define PROTO_MAX_STOPS 8u
#define PROTO_MAX_STOP_BYTES 128u
#define PROTO_MAX_LOGIT_BIAS 256u
#define PROTO_MAX_LOGPROBS 20u

/* Requests are below 128; the reply of a request is its number plus 128, or one of 192 and above.
 * 7 to 11 and 42 are kept for later requests. */
enum proto_op {
	PROTO_HELLO = 1,
	PROTO_MODELS = 2,
	PROTO_COMPLETE = 3,
	PROTO_CANCEL = 4,
	PROTO_TOKENIZE = 5,
	PROTO_DETOKENIZE = 6,

	PROTO_LOAD = 32,
	PROTO_UNLOAD = 33,
	PROTO_PIN = 34,
	PROTO_UNPIN = 35,
	PROTO_PS = 36,
	PROTO_LIST = 37,
	PROTO_SHOW = 38,
	PROTO_STATS = 39,
	PROTO_RELOAD = 40,
	PROTO_DRAIN = 41,

	PROTO_HELLO_REPLY = 129,
	PROTO_MODELS_REPLY = 130,
	PROTO_TOKENIZE_REPLY = 133,
	PROTO_DETOKENIZE_REPLY = 134,
	PROTO_LOAD_REPLY = 160,
	PROTO_PS_REPLY = 164,
	PROTO_LIST_REPLY = 165,
	PROTO_SHOW_REPLY = 166,
	PROTO_STATS_REPLY = 167,

	PROTO_TOKEN = 192,
	PROTO_DONE = 193,
	PROTO_OK = 194,
	PROTO_ERROR = 195,
};

enum proto_flag {
	PROTO_FLAG_MEMFD = 1 << 0, /* the body is in the descriptor that came with the packet */
};

enum proto_status {
	PROTO_STATUS_OK = 0,
	PROTO_STATUS_BAD_MESSAGE = 1,     /* breaks the format; the connection ends */
	PROTO_STATUS_BAD_VERSION = 2,     /* HELLO with a version that is not spoken */
	PROTO_STATUS_NOT_SUPPORTED = 3,   /* an op or a reserved field that is not implemented */
	PROTO_STATUS_NOT_PERMITTED = 4,   /* this user, or this socket, may not */
	PROTO_STATUS_BAD_ARGUMENT = 5,    /* a value out of its range, text that is not UTF-8 */
	PROTO_STATUS_UNKNOWN_VARIANT = 6, /* no variant of this name */
	PROTO_STATUS_LOAD_FAILED = 7,     /* its file cannot be read or breaks its format */
	PROTO_STATUS_WRONG_BASE = 8,      /* its file belongs to another base */
	PROTO_STATUS_NOT_RESIDENT = 9,    /* the request needs it in memory and it is not */
	PROTO_STATUS_BUDGET = 10,         /* no room, even after evicting what may be evicted */
	PROTO_STATUS_BUSY = 11,           /* too many requests, of all or of this user */
	PROTO_STATUS_TOO_LONG = 12, /* prompt and answer exceed the context or the KV memory */
	PROTO_STATUS_NO_CHAT_FORMAT = 13, /* chat for a model without a known format */
	PROTO_STATUS_SHUTTING_DOWN = 14,  /* draining: no new requests */
	PROTO_STATUS_INTERNAL = 15,       /* the daemon failed; its journal says why */
};

enum proto_socket {
	PROTO_SOCKET_INFERENCE = 0,
	PROTO_SOCKET_ADMIN = 1,
};

enum proto_residency {
	PROTO_RESIDENCY_DISK = 0,
	PROTO_RESIDENCY_LOADING = 1,
	PROTO_RESIDENCY_RESIDENT = 2,
	PROTO_RESIDENCY_DRAINING = 3, /* takes no new requests, goes when the last one ends */
	PROTO_RESIDENCY_FAILED = 4,   /* the last load failed */
};

enum proto_variant_flag {
	PROTO_VARIANT_BASE = 1 << 0,   /* the base itself, without a delta */
	PROTO_VARIANT_CHAT = 1 << 1,   /* has a chat format */
	PROTO_VARIANT_PINNED = 1 << 2, /* never evicted */
};

enum proto_prompt {
	PROTO_PROMPT_TEXT = 0,
	PROTO_PROMPT_IDS = 1,
	PROTO_PROMPT_CHAT = 2,
};

enum proto_role {
	PROTO_ROLE_SYSTEM = 0,
	PROTO_ROLE_USER = 1,
	PROTO_ROLE_ASSISTANT = 2,
};

enum proto_complete_flag {
	PROTO_COMPLETE_IGNORE_EOS = 1 << 0,     /* end-of-text ids do not end the answer */
	PROTO_COMPLETE_PARSE_SPECIALS = 1 << 1, /* special tokens spelled in a text prompt count */
	PROTO_COMPLETE_NO_SPECIALS = 1 << 2,    /* a text prompt gets no begin-of-text token */
};

enum proto_tokenize_flag {
	PROTO_TOKENIZE_ADD_SPECIALS = 1 << 0,
	PROTO_TOKENIZE_PARSE_SPECIALS = 1 << 1,
};

enum proto_detokenize_flag {
	PROTO_DETOKENIZE_SKIP_SPECIALS = 1 << 0,
};

enum proto_finish {
	PROTO_FINISH_STOP = 0,   /* an end-of-text id, the end of a chat turn, or a stop string */
	PROTO_FINISH_LENGTH = 1, /* max_tokens, or the end of the context */
	PROTO_FINISH_CANCELLED = 2, /* CANCEL came */
	PROTO_FINISH_ERROR = 3,     /* `status` and `words` say what */
};

enum proto_stat_kind {
	PROTO_STAT_COUNTER = 0, /* only grows while the daemon runs */
	PROTO_STAT_GAUGE = 1,
	PROTO_STAT_BYTES = 2,
	PROTO_STAT_NANOSECONDS = 3,
};

/* Borrowed, not terminated. */
struct proto_str {
	const char *bytes;
	uint32_t n;
};

/* HELLO: u32 version, string client. The daemon answers with the same version or refuses with
 * BAD_VERSION, whose words name the version that it speaks. */
struct proto_hello {
	uint32_t version;
	struct proto_str client; /* program and version, for the journal; at most PROTO_MAX_NAME */
};

/* HELLO_REPLY: u32 version, u32 socket, u32 max_streams, string server. */
struct proto_hello_reply {
	uint32_t version;
	enum proto_socket socket;
	uint32_t max_streams;    /* that this connection may have at once */
	struct proto_str server; /* "deltad 0.1.0" */
};

/* An element of MODELS_REPLY, of PS_REPLY and LIST_REPLY, and the beginning of SHOW_REPLY:
 *   string name, u32 residency, u32 flags, 32 bytes digest, u64 file_bytes, u64 memory_bytes,
 *   u64 loaded_bytes, u32 context, u32 vocabulary, u32 streams, u64 requests, u64 generated,
 *   u64 idle_ns, string words
 * MODELS_REPLY leaves streams, requests, generated and idle_ns zero: they tell about others. */
struct proto_variant {
	struct proto_str name;
	enum proto_residency residency;
	uint32_t flags;       /* enum proto_variant_flag */
	struct digest digest; /* the root of its file, which is its identity */
	uint64_t file_bytes;
	uint64_t memory_bytes;  /* 0 unless in memory */
	uint64_t loaded_bytes;  /* of file_bytes, while loading */
	uint32_t context;       /* most positions of prompt and answer; 0 unless in memory */
	uint32_t vocabulary;    /* likewise */
	uint32_t streams;       /* running or waiting now */
	uint64_t requests;      /* since the daemon started */
	uint64_t generated;     /* tokens, likewise */
	uint64_t idle_ns;       /* since the last use */
	struct proto_str words; /* why it failed, or nothing; at most PROTO_MAX_WORDS */
};

/* MODELS_REPLY: what this user may name. PS_REPLY: what is in memory or on its way.
 * LIST_REPLY: the whole catalogue. Each: array of proto_variant. */
struct proto_variants {
	uint32_t n;
	struct proto_variant *items;
};

struct proto_chat_message {
	enum proto_role role;
	struct proto_str text;
};

struct proto_logit_bias {
	uint32_t token;
	float bias; /* added to the logit; -infinity forbids */
};

/* f32 temperature, u32 top_k, f32 top_p, f32 min_p, f32 repetition_penalty, f32 presence_penalty,
 * f32 frequency_penalty, u64 seed, u32 n_logprobs, array of (u32 token, f32 bias).
 * Applied in this order: bias, repetition, presence and frequency penalties, temperature, top-k,
 * top-p, min-p, draw. The daemon checks the ranges (BAD_ARGUMENT). */
struct proto_sampling {
	float temperature;        /* 0: the most probable token */
	uint32_t top_k;           /* 0: off */
	float top_p;              /* 1: off */
	float min_p;              /* 0: off */
	float repetition_penalty; /* 1: off */
	float presence_penalty;   /* 0: off */
	float frequency_penalty;  /* 0: off */
	uint64_t seed;
	uint32_t n_logprobs; /* most probable tokens to report with each; 0 .. PROTO_MAX_LOGPROBS */
	uint32_t n_logit_bias;
	struct proto_logit_bias logit_bias[PROTO_MAX_LOGIT_BIAS];
};

/*
 * COMPLETE: string variant, u32 flags, u32 max_tokens, sampling, array of string stops, u32
 * kv_type, string session, u32 prompt kind, then by kind: string text; array of u32 ids; array of
 * (u32 role, string text). kv_type must be 0 and session empty (NOT_SUPPORTED otherwise).
 */
struct proto_complete {
	struct proto_str variant;
	uint32_t flags;      /* enum proto_complete_flag */
	uint32_t max_tokens; /* 0: up to the end of the context */
	struct proto_sampling sampling;
	uint32_t n_stops;
	struct proto_str stops[PROTO_MAX_STOPS]; /* each 1 .. PROTO_MAX_STOP_BYTES */
	enum proto_prompt prompt;
	struct proto_str text; /* PROTO_PROMPT_TEXT */
	uint32_t n_ids;        /* PROTO_PROMPT_IDS */
	uint32_t *ids;
	uint32_t n_messages; /* PROTO_PROMPT_CHAT */
	struct proto_chat_message *messages;
};

struct proto_logprob {
	uint32_t token;
	float logprob; /* natural logarithm, of the unmodified distribution */
};

/* TOKEN: u32 token, f32 logprob, string text, array of (u32 token, f32 logprob). The text is what
 * became certain with this token: it may be empty, and it is held back while it could be the
 * beginning of a stop string or of an unfinished character. */
struct proto_token {
	uint32_t token;
	float logprob;
	struct proto_str text;
	uint32_t n_top;
	struct proto_logprob top[PROTO_MAX_LOGPROBS];
};

/* DONE: u32 finish, u32 status, u32 prompt tokens, u32 generated tokens, u64 load_ns, u64 queue_ns,
 * u64 prompt_ns, u64 decode_ns, string text, string stop, string words. */
struct proto_done {
	enum proto_finish finish;
	enum proto_status status; /* not OK only with PROTO_FINISH_ERROR */
	uint32_t n_prompt;
	uint32_t n_generated;
	uint64_t load_ns;       /* waited for the variant to come into memory */
	uint64_t queue_ns;      /* waited for the engine */
	uint64_t prompt_ns;     /* until the first token */
	uint64_t decode_ns;     /* the others */
	struct proto_str text;  /* the end of the answer, held back until now */
	struct proto_str stop;  /* the stop string that ended it, or nothing */
	struct proto_str words; /* for a person; at most PROTO_MAX_WORDS */
};

/* TOKENIZE: string variant, u32 flags, string text. */
struct proto_tokenize {
	struct proto_str variant;
	uint32_t flags; /* enum proto_tokenize_flag */
	struct proto_str text;
};

/* TOKENIZE_REPLY: array of u32 ids. */
struct proto_ids {
	uint32_t n;
	uint32_t *ids;
};

/* DETOKENIZE: string variant, u32 flags, array of u32 ids. */
struct proto_detokenize {
	struct proto_str variant;
	uint32_t flags; /* enum proto_detokenize_flag */
	uint32_t n_ids;
	uint32_t *ids;
};

/* DETOKENIZE_REPLY: string text. */
struct proto_text {
	struct proto_str text;
};

/* LOAD, UNLOAD, PIN, UNPIN, SHOW: string name.
 * LOAD is answered when the variant is in memory. UNLOAD refuses a pinned variant (NOT_PERMITTED),
 * lets no new request in and is answered by OK when the last stream has ended and its memory is
 * given back. PIN loads if need be and is answered by OK when done; UNPIN at once. */
struct proto_name {
	struct proto_str name;
};

/* LOAD_REPLY: u64 memory_bytes, u64 load_ns. */
struct proto_load_reply {
	uint64_t memory_bytes;
	uint64_t load_ns; /* 0 if it was there already */
};

/* SHOW_REPLY: proto_variant, 32 bytes model, 32 bytes tuned, string chat_format, string method,
 * 32 bytes calibration, u64 n_calibration_tokens, u64 n_eval_tokens, f64 kl, agreement,
 * perplexity_base, perplexity_tuned, perplexity_delta, u64 projection_bytes,
 * u64 projection_original_bytes. Method is empty where the file carries no certificate; numbers
 * that were not measured are NaN. */
struct proto_show_reply {
	struct proto_variant variant;
	struct digest model; /* of the base, as deltad-format(5) defines the model digest */
	struct digest tuned; /* of the fine-tune; zero for the base */
	struct proto_str chat_format;
	struct proto_str method;
	struct digest calibration;
	uint64_t n_calibration_tokens;
	uint64_t n_eval_tokens;
	double kl;
	double agreement;
	double perplexity_base;
	double perplexity_tuned;
	double perplexity_delta;
	uint64_t projection_bytes;
	uint64_t projection_original_bytes;
};

struct proto_stat {
	struct proto_str name; /* "kv_bytes" */
	enum proto_stat_kind kind;
	uint64_t value;
};

/* STATS_REPLY: array of (string name, u32 kind, u64 value). */
struct proto_stats_reply {
	uint32_t n;
	struct proto_stat *items;
};

/* OK, the reply to UNLOAD, PIN, UNPIN, RELOAD and DRAIN: string words. RELOAD reads the
 * configuration again; its words say what changed. DRAIN is answered when it has begun: no new
 * requests, running ones end, then the daemon exits. */
struct proto_ok {
	struct proto_str words; /* may be empty; at most PROTO_MAX_WORDS */
};

/* ERROR: u32 status, string words. */
struct proto_error {
	enum proto_status status; /* never OK */
	struct proto_str words;   /* at most PROTO_MAX_WORDS */
};

/* A checked message. MODELS, CANCEL, PS, LIST, STATS, RELOAD and DRAIN have no body. CANCEL carries
 * the number of the COMPLETE to end, which then gets its DONE; an unknown number is ignored. */
struct proto_message {
	enum proto_op op;
	uint64_t request;
	union {
		struct proto_hello hello;
		struct proto_hello_reply hello_reply;
		struct proto_variants variants; /* MODELS_REPLY, PS_REPLY, LIST_REPLY */
		struct proto_complete complete;
		struct proto_token token;
		struct proto_done done;
		struct proto_tokenize tokenize;
		struct proto_ids ids; /* TOKENIZE_REPLY */
		struct proto_detokenize detokenize;
		struct proto_text text; /* DETOKENIZE_REPLY */
		struct proto_name name; /* LOAD, UNLOAD, PIN, UNPIN, SHOW */
		struct proto_load_reply load_reply;
		struct proto_show_reply show_reply;
		struct proto_stats_reply stats_reply;
		struct proto_ok ok;
		struct proto_error error;
	};
	void *owned; /* set by proto_decode(): where the arrays lie */
};

struct proto_header {
	uint32_t length;
	uint16_t op; /* not checked against enum proto_op */
	uint16_t flags;
	uint64_t request;
};

/* The header of a packet of n bytes. -EBADMSG if it is short, long, lies about its length, has
 * unknown flags, request 0 in other than ERROR, or PROTO_FLAG_MEMFD with a body in the packet. */
int proto_decode_header(const void *packet, size_t n, struct proto_header *ret) _must_check_;

/*
 * A checked message from its header and the n bytes of its body. Strings borrow from the body;
 * arrays are allocated and go with proto_message_done(). -EBADMSG names the field in `reason`,
 * which may be NULL; -EOPNOTSUPP for an unknown op or a reserved field in use; -ENOMEM.
 */
int proto_decode(const struct proto_header *header, const void *body, size_t n,
	struct proto_message *ret, struct reason *reason) _must_check_;
void proto_message_done(struct proto_message *m);

/*
 * Header and body into `packet`. *ret_n is the size of the message, also when it exceeds `room`,
 * which is -ENOBUFS. Nothing is allocated. -EINVAL for a value that the receiver would refuse;
 * -EMSGSIZE past PROTO_MAX_BODY.
 */
int proto_encode(const struct proto_message *m, void *packet, size_t room, size_t *ret_n)
	_must_check_;

/* A string of a literal or a terminated buffer. */
struct proto_str proto_str(const char *terminated);
bool proto_str_equal(struct proto_str a, const char *terminated);

/* "busy": the word for a status, as the manual has it; "unknown status" for one of a later daemon.
 */
const char *proto_status_name(uint32_t status);
const char *proto_residency_name(enum proto_residency residency);
