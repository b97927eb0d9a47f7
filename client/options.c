#include "client/options.h"

#include <string.h>

/* The size of the struct in the first version of the library. */
#define FIRST_SIZE sizeof(struct deltad_complete_options)

static int copy_known(const struct deltad_complete_options *options,
	struct deltad_complete_options *ret, struct reason *reason)
{
	const struct deltad_complete_options defaults = DELTAD_COMPLETE_INIT;
	const uint8_t *bytes = (const uint8_t *)options;
	size_t size = options->size;

	if (size < FIRST_SIZE)
		return reason_set(reason, -EINVAL, "options: size %zu, expected at least %zu", size,
			FIRST_SIZE);
	for (size_t i = sizeof(*ret); i < size; i++)
		if (bytes[i] != 0)
			return reason_set(reason, -EINVAL,
				"options: a setting that this version of the library lacks");
	*ret = defaults;
	memcpy(ret, options, min_u64(size, sizeof(*ret)));
	return 0;
}

static bool fits_u32(size_t n)
{
	return n <= UINT32_MAX;
}

static struct proto_str str_of(const char *bytes, size_t n)
{
	return (struct proto_str){.bytes = bytes, .n = (uint32_t)n};
}

static int take_stops(
	const struct deltad_complete_options *o, struct proto_complete *c, struct reason *reason)
{
	if (o->n_stops > PROTO_MAX_STOPS)
		return reason_set(
			reason, -EINVAL, "stops: %zu, at most %u", o->n_stops, PROTO_MAX_STOPS);
	c->n_stops = (uint32_t)o->n_stops;
	for (size_t i = 0; i < o->n_stops; i++) {
		size_t n = strlen(o->stops[i]);

		if (n == 0 || n > PROTO_MAX_STOP_BYTES)
			return reason_set(reason, -EINVAL, "stop %zu: %zu bytes, expected 1 to %u",
				i, n, PROTO_MAX_STOP_BYTES);
		c->stops[i] = str_of(o->stops[i], n);
	}
	return 0;
}

static int take_sampling(
	const struct deltad_complete_options *o, struct proto_sampling *s, struct reason *reason)
{
	if (o->n_logprobs > PROTO_MAX_LOGPROBS)
		return reason_set(reason, -EINVAL, "n_logprobs: %u, at most %u", o->n_logprobs,
			PROTO_MAX_LOGPROBS);
	if (o->n_biases > PROTO_MAX_LOGIT_BIAS)
		return reason_set(reason, -EINVAL, "biases: %zu, at most %u", o->n_biases,
			PROTO_MAX_LOGIT_BIAS);
	s->temperature = o->temperature;
	s->top_k = o->top_k;
	s->top_p = o->top_p;
	s->min_p = o->min_p;
	s->repetition_penalty = o->repetition_penalty;
	s->presence_penalty = o->presence_penalty;
	s->frequency_penalty = o->frequency_penalty;
	s->seed = o->seed;
	s->n_logprobs = o->n_logprobs;
	s->n_logit_bias = (uint32_t)o->n_biases;
	for (size_t i = 0; i < o->n_biases; i++)
		s->logit_bias[i] = (struct proto_logit_bias){
			.token = o->biases[i].token, .bias = o->biases[i].bias};
	return 0;
}

static int take_messages(
	const struct deltad_complete_options *o, struct proto_message *m, struct reason *reason)
{
	struct proto_chat_message *messages;

	if (o->n_messages > PROTO_MAX_CHAT_MESSAGES)
		return reason_set(reason, -EINVAL, "messages: %zu, at most %u", o->n_messages,
			PROTO_MAX_CHAT_MESSAGES);
	messages = calloc(o->n_messages, sizeof(*messages));
	if (!messages)
		return -ENOMEM;
	m->owned = messages;
	for (size_t i = 0; i < o->n_messages; i++) {
		if (!fits_u32(o->messages[i].n_text))
			return reason_set(reason, -EINVAL, "message %zu: too long", i);
		messages[i].role = (enum proto_role)o->messages[i].role;
		messages[i].text = str_of(o->messages[i].text, o->messages[i].n_text);
	}
	m->complete.prompt = PROTO_PROMPT_CHAT;
	m->complete.n_messages = (uint32_t)o->n_messages;
	m->complete.messages = messages;
	return 0;
}

static int take_prompt(
	const struct deltad_complete_options *o, struct proto_message *m, struct reason *reason)
{
	struct proto_complete *c = &m->complete;

	if (!!o->text + !!o->ids + !!o->messages != 1)
		return reason_set(
			reason, -EINVAL, "options: exactly one of text, ids and messages");
	if (!fits_u32(o->n_text) || !fits_u32(o->n_ids))
		return reason_set(reason, -EINVAL, "prompt: too long");
	if (o->messages)
		return take_messages(o, m, reason);
	if (o->ids) {
		c->prompt = PROTO_PROMPT_IDS;
		c->n_ids = (uint32_t)o->n_ids;
		c->ids = (uint32_t *)(uintptr_t)o->ids; /* only read by the encoder */
		return 0;
	}
	c->prompt = PROTO_PROMPT_TEXT;
	c->text = str_of(o->text, o->n_text);
	return 0;
}

int options_message(const struct deltad_complete_options *options, struct proto_message *m,
	struct reason *reason)
{
	struct deltad_complete_options o;
	int r = copy_known(options, &o, reason);

	if (r < 0)
		return r;
	if (!o.variant)
		return reason_set(reason, -EINVAL, "options: no variant");
	*m = (struct proto_message){.op = PROTO_COMPLETE};
	m->complete.variant = proto_str(o.variant);
	m->complete.flags = o.flags;
	m->complete.max_tokens = o.max_tokens;
	r = take_stops(&o, &m->complete, reason);
	if (r == 0)
		r = take_sampling(&o, &m->complete.sampling, reason);
	if (r == 0)
		r = take_prompt(&o, m, reason);
	if (r < 0)
		proto_message_done(m);
	return r;
}
