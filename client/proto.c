#include "client/proto.h"

#include "client/coder.h"

static void code_hello(struct coder *c, struct proto_hello *m)
{
	code_u32(c, "version", &m->version);
	code_str(c, "client", &m->client, 0, PROTO_MAX_NAME);
}

static void code_hello_reply(struct coder *c, struct proto_hello_reply *m)
{
	code_u32(c, "version", &m->version);
	code_enum(c, "socket", m->socket, PROTO_SOCKET_ADMIN);
	code_u32(c, "max_streams", &m->max_streams);
	code_str(c, "server", &m->server, 0, PROTO_MAX_NAME);
}

/* With a name of one byte and no words. */
#define VARIANT_WIRE_BYTES 109

static void code_variant(struct coder *c, struct proto_variant *v)
{
	code_name(c, "name", &v->name);
	code_enum(c, "residency", v->residency, PROTO_RESIDENCY_FAILED);
	code_flags(c, "flags", &v->flags,
		PROTO_VARIANT_BASE | PROTO_VARIANT_CHAT | PROTO_VARIANT_PINNED);
	code_digest(c, "digest", &v->digest);
	code_u64(c, "file_bytes", &v->file_bytes);
	code_u64(c, "memory_bytes", &v->memory_bytes);
	code_u64(c, "loaded_bytes", &v->loaded_bytes);
	code_u32(c, "context", &v->context);
	code_u32(c, "vocabulary", &v->vocabulary);
	code_u32(c, "streams", &v->streams);
	code_u64(c, "requests", &v->requests);
	code_u64(c, "generated", &v->generated);
	code_u64(c, "idle_ns", &v->idle_ns);
	code_str(c, "words", &v->words, 0, PROTO_MAX_WORDS);
}

static void code_variants(struct coder *c, struct proto_variants *m)
{
	code_array(c, "variants", &m->n, PROTO_MAX_VARIANTS, VARIANT_WIRE_BYTES, &m->items,
		sizeof(*m->items));
	for (uint32_t i = 0; !c->error && i < m->n; i++)
		code_variant(c, &m->items[i]);
}

static void code_sampling(struct coder *c, struct proto_sampling *s)
{
	code_f32(c, "temperature", &s->temperature);
	code_u32(c, "top_k", &s->top_k);
	code_f32(c, "top_p", &s->top_p);
	code_f32(c, "min_p", &s->min_p);
	code_f32(c, "repetition_penalty", &s->repetition_penalty);
	code_f32(c, "presence_penalty", &s->presence_penalty);
	code_f32(c, "frequency_penalty", &s->frequency_penalty);
	code_u64(c, "seed", &s->seed);
	code_limited(c, "n_logprobs", &s->n_logprobs, PROTO_MAX_LOGPROBS);
	code_count(c, "logit_bias", &s->n_logit_bias, PROTO_MAX_LOGIT_BIAS, 8);
	for (uint32_t i = 0; !c->error && i < s->n_logit_bias; i++) {
		code_u32(c, "logit_bias token", &s->logit_bias[i].token);
		code_f32(c, "logit_bias", &s->logit_bias[i].bias);
	}
}

static void code_chat(struct coder *c, struct proto_complete *m)
{
	code_array(c, "messages", &m->n_messages, PROTO_MAX_CHAT_MESSAGES, 8, &m->messages,
		sizeof(*m->messages));
	for (uint32_t i = 0; !c->error && i < m->n_messages; i++) {
		code_enum(c, "role", m->messages[i].role, PROTO_ROLE_ASSISTANT);
		code_str(c, "message text", &m->messages[i].text, 0, PROTO_MAX_TEXT);
	}
}

static void code_prompt(struct coder *c, struct proto_complete *m)
{
	code_enum(c, "prompt kind", m->prompt, PROTO_PROMPT_CHAT);
	if (c->error)
		return;
	switch (m->prompt) {
	case PROTO_PROMPT_TEXT:
		code_str(c, "text", &m->text, 0, PROTO_MAX_TEXT);
		break;
	case PROTO_PROMPT_IDS:
		code_ids(c, "ids", &m->n_ids, &m->ids);
		break;
	case PROTO_PROMPT_CHAT:
		code_chat(c, m);
		break;
	}
}

/* Fields kept for later: their place is fixed, their only value is nothing. */
static void code_reserved(struct coder *c)
{
	struct proto_str session = {0};
	uint32_t kv_type = 0;

	code_u32(c, "kv_type", &kv_type);
	code_str(c, "session", &session, 0, PROTO_MAX_NAME);
	if (kv_type != 0)
		coder_fail(c, -EOPNOTSUPP, "kv_type", "only the default is implemented");
	if (session.n != 0)
		coder_fail(c, -EOPNOTSUPP, "session", "sessions are not implemented");
}

static void code_complete(struct coder *c, struct proto_complete *m)
{
	code_name(c, "variant", &m->variant);
	code_flags(c, "flags", &m->flags,
		PROTO_COMPLETE_IGNORE_EOS | PROTO_COMPLETE_PARSE_SPECIALS |
			PROTO_COMPLETE_NO_SPECIALS);
	code_u32(c, "max_tokens", &m->max_tokens);
	code_sampling(c, &m->sampling);
	code_count(c, "stops", &m->n_stops, PROTO_MAX_STOPS, 5);
	for (uint32_t i = 0; !c->error && i < m->n_stops; i++)
		code_str(c, "stop", &m->stops[i], 1, PROTO_MAX_STOP_BYTES);
	code_reserved(c);
	code_prompt(c, m);
}

static void code_token(struct coder *c, struct proto_token *m)
{
	code_u32(c, "token", &m->token);
	code_f32(c, "logprob", &m->logprob);
	code_str(c, "text", &m->text, 0, PROTO_MAX_TEXT);
	code_count(c, "top", &m->n_top, PROTO_MAX_LOGPROBS, 8);
	for (uint32_t i = 0; !c->error && i < m->n_top; i++) {
		code_u32(c, "top token", &m->top[i].token);
		code_f32(c, "top logprob", &m->top[i].logprob);
	}
}

static void code_done(struct coder *c, struct proto_done *m)
{
	code_enum(c, "finish", m->finish, PROTO_FINISH_ERROR);
	code_enum(c, "status", m->status, UINT32_MAX);
	code_u32(c, "prompt tokens", &m->n_prompt);
	code_u32(c, "generated tokens", &m->n_generated);
	code_u64(c, "load_ns", &m->load_ns);
	code_u64(c, "queue_ns", &m->queue_ns);
	code_u64(c, "prompt_ns", &m->prompt_ns);
	code_u64(c, "decode_ns", &m->decode_ns);
	code_str(c, "text", &m->text, 0, PROTO_MAX_TEXT);
	code_str(c, "stop", &m->stop, 0, PROTO_MAX_STOP_BYTES);
	code_str(c, "words", &m->words, 0, PROTO_MAX_WORDS);
	if ((m->finish == PROTO_FINISH_ERROR) != (m->status != PROTO_STATUS_OK))
		coder_fail(c, -EBADMSG, "status", "contradicts the finish");
}

static void code_tokenize(struct coder *c, struct proto_tokenize *m)
{
	code_name(c, "variant", &m->variant);
	code_flags(
		c, "flags", &m->flags, PROTO_TOKENIZE_ADD_SPECIALS | PROTO_TOKENIZE_PARSE_SPECIALS);
	code_str(c, "text", &m->text, 0, PROTO_MAX_TEXT);
}

static void code_detokenize(struct coder *c, struct proto_detokenize *m)
{
	code_name(c, "variant", &m->variant);
	code_flags(c, "flags", &m->flags, PROTO_DETOKENIZE_SKIP_SPECIALS);
	code_ids(c, "ids", &m->n_ids, &m->ids);
}

static void code_show_reply(struct coder *c, struct proto_show_reply *m)
{
	code_variant(c, &m->variant);
	code_digest(c, "model", &m->model);
	code_digest(c, "tuned", &m->tuned);
	code_str(c, "chat_format", &m->chat_format, 0, PROTO_MAX_NAME);
	code_str(c, "method", &m->method, 0, PROTO_MAX_NAME);
	code_digest(c, "calibration", &m->calibration);
	code_u64(c, "n_calibration_tokens", &m->n_calibration_tokens);
	code_u64(c, "n_eval_tokens", &m->n_eval_tokens);
	code_f64(c, "kl", &m->kl);
	code_f64(c, "agreement", &m->agreement);
	code_f64(c, "perplexity_base", &m->perplexity_base);
	code_f64(c, "perplexity_tuned", &m->perplexity_tuned);
	code_f64(c, "perplexity_delta", &m->perplexity_delta);
	code_u64(c, "projection_bytes", &m->projection_bytes);
	code_u64(c, "projection_original_bytes", &m->projection_original_bytes);
}

static void code_stats_reply(struct coder *c, struct proto_stats_reply *m)
{
	code_array(c, "stats", &m->n, PROTO_MAX_STATS, 17, &m->items, sizeof(*m->items));
	for (uint32_t i = 0; !c->error && i < m->n; i++) {
		code_name(c, "stat name", &m->items[i].name);
		code_enum(c, "stat kind", m->items[i].kind, PROTO_STAT_NANOSECONDS);
		code_u64(c, "stat value", &m->items[i].value);
	}
}

static void code_error(struct coder *c, struct proto_error *m)
{
	code_enum(c, "status", m->status, UINT32_MAX);
	code_str(c, "words", &m->words, 0, PROTO_MAX_WORDS);
	if (m->status == PROTO_STATUS_OK)
		coder_fail(c, -EBADMSG, "status", "an error cannot be OK");
}

static void code_load_reply(struct coder *c, struct proto_load_reply *m)
{
	code_u64(c, "memory_bytes", &m->memory_bytes);
	code_u64(c, "load_ns", &m->load_ns);
}

static bool op_known(uint32_t op)
{
	return (op >= PROTO_HELLO && op <= PROTO_DETOKENIZE) ||
	       (op >= PROTO_LOAD && op <= PROTO_DRAIN) || op == PROTO_HELLO_REPLY ||
	       op == PROTO_MODELS_REPLY || op == PROTO_TOKENIZE_REPLY ||
	       op == PROTO_DETOKENIZE_REPLY || op == PROTO_LOAD_REPLY ||
	       (op >= PROTO_PS_REPLY && op <= PROTO_STATS_REPLY) ||
	       (op >= PROTO_TOKEN && op <= PROTO_ERROR);
}

static void code_body(struct coder *c, struct proto_message *m)
{
	switch (m->op) {
	case PROTO_HELLO:
		return code_hello(c, &m->hello);
	case PROTO_HELLO_REPLY:
		return code_hello_reply(c, &m->hello_reply);
	case PROTO_MODELS_REPLY:
	case PROTO_PS_REPLY:
	case PROTO_LIST_REPLY:
		return code_variants(c, &m->variants);
	case PROTO_COMPLETE:
		return code_complete(c, &m->complete);
	case PROTO_TOKENIZE:
		return code_tokenize(c, &m->tokenize);
	case PROTO_TOKENIZE_REPLY:
		return code_ids(c, "ids", &m->ids.n, &m->ids.ids);
	case PROTO_DETOKENIZE:
		return code_detokenize(c, &m->detokenize);
	case PROTO_DETOKENIZE_REPLY:
		return code_str(c, "text", &m->text.text, 0, PROTO_MAX_TEXT);
	case PROTO_LOAD:
	case PROTO_UNLOAD:
	case PROTO_PIN:
	case PROTO_UNPIN:
	case PROTO_SHOW:
		return code_name(c, "name", &m->name.name);
	case PROTO_LOAD_REPLY:
		return code_load_reply(c, &m->load_reply);
	case PROTO_SHOW_REPLY:
		return code_show_reply(c, &m->show_reply);
	case PROTO_STATS_REPLY:
		return code_stats_reply(c, &m->stats_reply);
	case PROTO_TOKEN:
		return code_token(c, &m->token);
	case PROTO_DONE:
		return code_done(c, &m->done);
	case PROTO_OK:
		return code_str(c, "words", &m->ok.words, 0, PROTO_MAX_WORDS);
	case PROTO_ERROR:
		return code_error(c, &m->error);
	case PROTO_MODELS:
	case PROTO_CANCEL:
	case PROTO_PS:
	case PROTO_LIST:
	case PROTO_STATS:
	case PROTO_RELOAD:
	case PROTO_DRAIN:
		return;
	}
}

int proto_decode_header(const void *packet, size_t n, struct proto_header *ret)
{
	struct cursor c = cursor_over(packet, n);
	struct proto_header h;

	h.length = cursor_u32(&c);
	h.op = cursor_u16(&c);
	h.flags = cursor_u16(&c);
	h.request = cursor_u64(&c);
	if (c.failed || n > PROTO_MAX_PACKET || h.length != n)
		return -EBADMSG;
	if (h.flags & ~PROTO_FLAG_MEMFD)
		return -EBADMSG;
	if ((h.flags & PROTO_FLAG_MEMFD) && n != PROTO_HEADER_BYTES)
		return -EBADMSG;
	if (h.request == 0 && h.op != PROTO_ERROR)
		return -EBADMSG;
	*ret = h;
	return 0;
}

int proto_decode(const struct proto_header *header, const void *body, size_t n,
	struct proto_message *ret, struct reason *reason)
{
	struct coder c = {.reading = true, .in = cursor_over(body, n), .reason = reason};
	struct proto_message m = {.op = header->op, .request = header->request};

	if (!op_known(header->op))
		return reason_set(reason, -EOPNOTSUPP, "op %u: not known", header->op);
	if (n > PROTO_MAX_BODY)
		return reason_set(
			reason, -EBADMSG, "body: %zu bytes, at most %u", n, PROTO_MAX_BODY);
	code_body(&c, &m);
	if (!c.error && !cursor_end(&c.in))
		coder_fail(&c, -EBADMSG, "body", "has bytes after its last field");
	if (c.error) {
		free(c.owned);
		return c.error;
	}
	m.owned = c.owned;
	*ret = m;
	return 0;
}

void proto_message_done(struct proto_message *m)
{
	free(m->owned);
	m->owned = NULL;
}

static void code_header(struct coder *c, uint32_t length, const struct proto_message *m)
{
	uint32_t op_and_flags = m->op; /* two u16, the flags zero */
	uint64_t request = m->request;

	code_u32(c, "length", &length);
	code_u32(c, "op", &op_and_flags);
	code_u64(c, "request", &request);
}

int proto_encode(const struct proto_message *m, void *packet, size_t room, size_t *ret_n)
{
	struct coder c = {.out = packet, .room = room, .n = PROTO_HEADER_BYTES};
	struct coder head = {.out = packet, .room = room};
	struct proto_message walked = *m; /* the walk takes what it could also fill in */

	if (!op_known(m->op))
		return -EINVAL;
	code_body(&c, &walked);
	if (c.error)
		return -EINVAL;
	if (c.n > PROTO_HEADER_BYTES + (size_t)PROTO_MAX_BODY)
		return -EMSGSIZE;
	code_header(&head, (uint32_t)c.n, m);
	*ret_n = c.n;
	return c.n > room ? -ENOBUFS : 0;
}

struct proto_str proto_str(const char *terminated)
{
	return (struct proto_str){.bytes = terminated, .n = (uint32_t)strlen(terminated)};
}

bool proto_str_equal(struct proto_str a, const char *terminated)
{
	return a.n == strlen(terminated) && memcmp(a.bytes, terminated, a.n) == 0;
}
