#include "daemon/ops.h"

#include "daemon/log.h"
#include "daemon/request.h"
#include "daemon/server.h"
#include "daemon/session.h"
#include "daemon/variants.h"

#include <string.h>

#define SERVER_NAME "deltad " DELTAD_VERSION

_Static_assert(STREAM_MAX_STOPS > PROTO_MAX_STOPS, "one more for the chat format");
_Static_assert(STREAM_MAX_STOP_BYTES == PROTO_MAX_STOP_BYTES, "every stop of the protocol fits");
_Static_assert(SAMPLER_MAX_LOGIT_BIAS == PROTO_MAX_LOGIT_BIAS, "same limit");
_Static_assert(SAMPLER_MAX_LOGPROBS == PROTO_MAX_LOGPROBS, "same limit");

void op_hello(struct session *s, const struct proto_message *m)
{
	struct proto_message reply = {.op = PROTO_HELLO_REPLY, .request = m->request};
	struct reason reason;

	if (m->hello.version != PROTO_VERSION) {
		reason_set(&reason, 0, "version %u is not spoken here, version %u is",
			m->hello.version, PROTO_VERSION);
		session_send_error(s, m->request, PROTO_STATUS_BAD_VERSION, &reason);
		return;
	}
	s->greeted = true;
	log_debug("uid %u, pid %d says it is %.*s", s->peer.uid, s->peer.pid,
		(int)m->hello.client.n, m->hello.client.bytes);
	reply.hello_reply = (struct proto_hello_reply){
		.version = PROTO_VERSION,
		.socket = s->socket,
		.max_streams = (uint32_t)s->server->config->limits_requests_per_user,
		.server = proto_str(SERVER_NAME),
	};
	session_send(s, &reply);
}

void op_models(struct session *s, const struct proto_message *m)
{
	variants_send(s, m->request, PROTO_MODELS_REPLY);
}

static uint64_t context_of(const struct request *r)
{
	return loaded_context(r->entry->loaded);
}

/* Positions that one request can ever have. */
static uint64_t room_of(const struct request *r)
{
	return min_u64(context_of(r), server_kv_positions(r->server));
}

/* Limits that need the variant: 0, or a status with its words. */
static enum proto_status check_room(const struct request *r, const struct proto_complete *c,
	size_t n_prompt, uint32_t *ret_max_tokens, struct reason *reason)
{
	uint64_t context = context_of(r), room = room_of(r);

	if (n_prompt == 0) {
		reason_set(reason, 0, "the prompt has no tokens");
		return PROTO_STATUS_BAD_ARGUMENT;
	}
	if (n_prompt >= room || c->max_tokens > room - n_prompt) {
		reason_set(reason, 0,
			"prompt of %zu tokens and answer of %u: the context has %llu, the memory "
			"for "
			"keys and values %llu",
			n_prompt, c->max_tokens ? c->max_tokens : 1, (unsigned long long)context,
			(unsigned long long)server_kv_positions(r->server));
		return PROTO_STATUS_TOO_LONG;
	}
	*ret_max_tokens = c->max_tokens ? c->max_tokens : (uint32_t)(room - n_prompt);
	return PROTO_STATUS_OK;
}

static int check_ids(const uint32_t *ids, size_t n, uint32_t vocabulary, struct reason *reason)
{
	for (size_t i = 0; i < n; i++)
		if (ids[i] >= vocabulary)
			return reason_set(reason, -EINVAL,
				"prompt token %zu is %u, the vocabulary has %u", i, ids[i],
				vocabulary);
	return 0;
}

/* What is cut into tokens or made from them is so on the loop, while other clients wait. So it is
 * no more than one request has room for, and yet enough for whoever only wants to count. */
#define MIN_TEXT_LIMIT 65536
#define MIN_IDS_LIMIT 65536
/* No text has longer tokens than this on average, though it may have some. */
#define MAX_MEAN_TOKEN_BYTES 32

static int check_text(const struct request *r, uint64_t n, struct reason *reason)
{
	const struct tokenizer *t = r->entry->loaded->tokenizer;
	uint64_t token_bytes = min_u64(tokenizer_max_token_bytes(t), MAX_MEAN_TOKEN_BYTES);
	uint64_t limit = max_u64(MIN_TEXT_LIMIT, room_of(r) * token_bytes);

	if (n <= limit)
		return 0;
	return reason_set(reason, -E2BIG,
		"text of %llu bytes; the context has room for %llu at most", (unsigned long long)n,
		(unsigned long long)limit);
}

static int check_ids_room(const struct request *r, uint64_t n, struct reason *reason)
{
	uint64_t limit = max_u64(MIN_IDS_LIMIT, room_of(r));

	if (n <= limit)
		return 0;
	return reason_set(reason, -E2BIG, "%llu tokens; the context has room for %llu at most",
		(unsigned long long)n, (unsigned long long)limit);
}

static int copy_ids(const struct proto_complete *c, uint32_t **ret_ids, size_t *ret_n)
{
	uint32_t *copy;

	copy = calloc((size_t)c->n_ids + 1, sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	if (c->n_ids)
		memcpy(copy, c->ids, c->n_ids * sizeof(*copy));
	*ret_ids = copy;
	*ret_n = c->n_ids;
	return 0;
}

static int render_chat(const struct request *r, const struct proto_complete *c, uint32_t **ret_ids,
	size_t *ret_n, struct reason *reason)
{
	_cleanup_(freep) struct chat_message *messages = NULL;
	const struct loaded *l = r->entry->loaded;
	uint64_t n_text = 0;
	int error;

	messages = calloc((size_t)c->n_messages + 1, sizeof(*messages));
	if (!messages)
		return -ENOMEM;
	for (uint32_t i = 0; i < c->n_messages; i++) {
		messages[i] = (struct chat_message){
			.role = (enum chat_role)c->messages[i].role,
			.text = c->messages[i].text.bytes,
			.n_text = c->messages[i].text.n,
		};
		n_text += c->messages[i].text.n;
	}
	error = check_text(r, n_text, reason);
	if (error < 0)
		return error;
	return chat_render(l->chat, l->tokenizer, messages, c->n_messages, ret_ids, ret_n, reason);
}

_Static_assert((int)CHAT_ROLE_SYSTEM == PROTO_ROLE_SYSTEM &&
		       (int)CHAT_ROLE_USER == PROTO_ROLE_USER &&
		       (int)CHAT_ROLE_ASSISTANT == PROTO_ROLE_ASSISTANT,
	"roles are cast");

static int encode_text(const struct request *r, struct proto_str text,
	struct tokenizer_options options, uint32_t **ret_ids, size_t *ret_n, struct reason *reason)
{
	int error = check_text(r, text.n, reason);

	if (error < 0)
		return error;
	return tokenizer_encode(
		r->entry->loaded->tokenizer, text.bytes, text.n, options, ret_ids, ret_n, reason);
}

static int encode_prompt(const struct request *r, const struct proto_complete *c,
	uint32_t **ret_ids, size_t *ret_n, struct reason *reason)
{
	const struct tokenizer_options options = {
		.add_specials = !(c->flags & PROTO_COMPLETE_NO_SPECIALS),
		.parse_specials = c->flags & PROTO_COMPLETE_PARSE_SPECIALS,
	};

	switch (c->prompt) {
	case PROTO_PROMPT_TEXT:
		return encode_text(r, c->text, options, ret_ids, ret_n, reason);
	case PROTO_PROMPT_IDS:
		return copy_ids(c, ret_ids, ret_n);
	case PROTO_PROMPT_CHAT:
		return render_chat(r, c, ret_ids, ret_n, reason);
	}
	return -EINVAL;
}

/* What the variant lacks for this kind of prompt. */
static enum proto_status check_prompt_kind(
	const struct loaded *l, enum proto_prompt kind, struct reason *reason)
{
	if (kind != PROTO_PROMPT_IDS && !l->tokenizer) {
		reason_set(reason, 0,
			"the base image has no tokenizer: only token ids can be completed");
		return PROTO_STATUS_NOT_SUPPORTED;
	}
	if (kind == PROTO_PROMPT_CHAT && !l->chat) {
		*reason = l->no_chat;
		return PROTO_STATUS_NO_CHAT_FORMAT;
	}
	return PROTO_STATUS_OK;
}

static void sampling_of(const struct proto_sampling *p, struct sampler_settings *ret)
{
	*ret = (struct sampler_settings){
		.temperature = p->temperature,
		.top_k = p->top_k,
		.top_p = p->top_p,
		.min_p = p->min_p,
		.repetition_penalty = p->repetition_penalty,
		.presence_penalty = p->presence_penalty,
		.frequency_penalty = p->frequency_penalty,
		.seed = p->seed,
		.n_logprobs = p->n_logprobs,
		.n_logit_bias = p->n_logit_bias,
	};
	for (uint32_t i = 0; i < p->n_logit_bias; i++)
		ret->logit_bias[i] =
			(struct logit_bias){p->logit_bias[i].token, p->logit_bias[i].bias};
}

static int check_sampling(
	const struct sampler_settings *s, uint32_t vocabulary, struct reason *reason)
{
	for (uint32_t i = 0; i < s->n_logit_bias; i++)
		if (s->logit_bias[i].token >= vocabulary)
			return reason_set(reason, -EBADMSG,
				"logit bias for token %u, the vocabulary has %u",
				s->logit_bias[i].token, vocabulary);
	return sampler_settings_check(s, reason);
}

/* The stops that the client named, and for a chat that which ends the assistant's turn. */
static int add_stops(struct stream *stream, const struct loaded *l, const struct proto_complete *c)
{
	const char *turn_end;
	int64_t id;
	int r;

	for (uint32_t i = 0; i < c->n_stops; i++) {
		r = stream_add_stop(stream, c->stops[i].bytes, c->stops[i].n);
		if (r < 0)
			return r;
	}
	if (c->prompt != PROTO_PROMPT_CHAT || (c->flags & PROTO_COMPLETE_IGNORE_EOS))
		return 0;
	turn_end = chat_format_stop(l->chat);
	if (!turn_end)
		return 0;
	id = tokenizer_find(l->tokenizer, turn_end, strlen(turn_end));
	if (id < 0)
		return stream_add_stop(stream, turn_end, strlen(turn_end));
	stream_set_stop_token(stream, (uint32_t)id);
	return 0;
}

static void fail_with_errno(struct request *r, int error, struct reason *reason)
{
	enum proto_status status = error == -ENOMEM  ? PROTO_STATUS_INTERNAL
				   : error == -E2BIG ? PROTO_STATUS_TOO_LONG
						     : PROTO_STATUS_BAD_ARGUMENT;

	if (!reason->text[0])
		reason_set(reason, 0, "%s", strerror(-error));
	request_fail(r, status, reason);
}

static void complete_ready(struct request *r, const struct proto_message *m)
{
	const struct proto_complete *c = &m->complete;
	const struct loaded *l = r->entry->loaded;
	uint32_t vocabulary = variant_config(l->variant)->vocab;
	_cleanup_(stream_freep) struct stream *stream = NULL;
	_cleanup_(freep) uint32_t *ids = NULL;
	struct reason reason = {""};
	struct job_spec spec = {.ignore_eos = c->flags & PROTO_COMPLETE_IGNORE_EOS};
	enum proto_status status;
	size_t n_ids = 0;
	int error;

	status = check_prompt_kind(l, c->prompt, &reason);
	if (status) {
		request_fail(r, status, &reason);
		return;
	}
	sampling_of(&c->sampling, &spec.sampling);
	error = check_sampling(&spec.sampling, vocabulary, &reason);
	if (error == 0)
		error = encode_prompt(r, c, &ids, &n_ids, &reason);
	/* A tokenizer may know more tokens than its model. */
	if (error == 0)
		error = check_ids(ids, n_ids, vocabulary, &reason);
	if (error == 0)
		error = stream_new(l->tokenizer, &stream);
	if (error == 0)
		error = add_stops(stream, l, c);
	if (error < 0) {
		fail_with_errno(r, error, &reason);
		return;
	}
	status = check_room(r, c, n_ids, &spec.max_tokens, &reason);
	if (status) {
		request_fail(r, status, &reason);
		return;
	}
	spec.prompt = ids;
	spec.n_prompt = (uint32_t)n_ids;
	request_submit(r, &spec, take_ptr(stream));
}

void op_complete(struct session *s, const struct proto_message *m)
{
	request_begin(s, m, m->complete.variant, false, complete_ready);
}

void op_cancel(struct session *s, const struct proto_message *m)
{
	for (struct request *r = s->requests; r; r = r->next) {
		if (r->number == m->request && r->ready == complete_ready) {
			request_cancel(r);
			return;
		}
	}
}

static void fail_without_tokenizer(struct request *r)
{
	struct reason reason;

	reason_set(&reason, 0, "the base image has no tokenizer");
	request_fail(r, PROTO_STATUS_NOT_SUPPORTED, &reason);
}

static void tokenize_ready(struct request *r, const struct proto_message *m)
{
	const struct proto_tokenize *t = &m->tokenize;
	const struct loaded *l = r->entry->loaded;
	const struct tokenizer_options options = {
		.add_specials = t->flags & PROTO_TOKENIZE_ADD_SPECIALS,
		.parse_specials = t->flags & PROTO_TOKENIZE_PARSE_SPECIALS,
	};
	struct proto_message reply = {.op = PROTO_TOKENIZE_REPLY, .request = r->number};
	_cleanup_(freep) uint32_t *ids = NULL;
	struct reason reason = {""};
	size_t n = 0;
	int error;

	if (!l->tokenizer) {
		fail_without_tokenizer(r);
		return;
	}
	error = encode_text(r, t->text, options, &ids, &n, &reason);
	if (error == 0 && n > PROTO_MAX_IDS)
		error = reason_set(
			&reason, -EMSGSIZE, "%zu tokens, a reply has at most %u", n, PROTO_MAX_IDS);
	if (error < 0) {
		fail_with_errno(r, error, &reason);
		return;
	}
	reply.ids = (struct proto_ids){.n = (uint32_t)n, .ids = ids};
	session_send(r->session, &reply);
	request_end(r);
}

void op_tokenize(struct session *s, const struct proto_message *m)
{
	request_begin(s, m, m->tokenize.variant, false, tokenize_ready);
}

static void detokenize_ready(struct request *r, const struct proto_message *m)
{
	const struct proto_detokenize *d = &m->detokenize;
	const struct tokenizer *tokenizer = r->entry->loaded->tokenizer;
	struct proto_message reply = {.op = PROTO_DETOKENIZE_REPLY, .request = r->number};
	_cleanup_(freep) char *text = NULL;
	struct reason reason = {""};
	size_t n = 0;
	int error;

	if (!tokenizer) {
		fail_without_tokenizer(r);
		return;
	}
	error = check_ids_room(r, d->n_ids, &reason);
	if (error == 0)
		error = tokenizer_decode(tokenizer, d->ids, d->n_ids,
			d->flags & PROTO_DETOKENIZE_SKIP_SPECIALS, &text, &n, &reason);
	if (error == 0 && n > PROTO_MAX_TEXT / 2)
		error = reason_set(&reason, -EMSGSIZE, "%zu bytes, a reply has at most %u", n,
			PROTO_MAX_TEXT / 2);
	if (error < 0) {
		fail_with_errno(r, error, &reason);
		return;
	}
	reply.text.text = (struct proto_str){text, (uint32_t)n};
	session_send(r->session, &reply);
	request_end(r);
}

void op_detokenize(struct session *s, const struct proto_message *m)
{
	request_begin(s, m, m->detokenize.variant, false, detokenize_ready);
}
