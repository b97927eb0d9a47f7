#include "compress/task_text.h"

#include "compress/decode.h"
#include "common/random.h"
#include "engine/added_tokens.h"
#include "engine/buffer.h"

#include <string.h>

#define INVENTED_AT_ONCE 32u    /* conversations */
#define MAX_INVENTED_PROMPT 96u /* tokens of a message */
#define MAX_FRUITLESS 4u        /* rounds of inventing that gain nothing */
#define MARK "x"                /* stands for the message in a chat format */

struct task_text {
	struct task_text_settings settings;
	struct model_config config; /* of the fine-tune */
	struct tokenizer *tokenizer;
	struct chat_format *format; /* or NULL */
	struct answer_end end;
};

struct task_text *task_text_free(struct task_text *t)
{
	if (!t)
		return NULL;
	chat_format_free(t->format);
	tokenizer_free(t->tokenizer);
	free(t);
	return NULL;
}

int task_text_new(
	const struct task_text_settings *settings, struct task_text **ret, struct reason *reason)
{
	_cleanup_(task_textp) struct task_text *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return -ENOMEM;
	t->settings = *settings;
	t->config = *settings->config;
	r = tokenizer_of(settings->base, settings->delta, &t->tokenizer, reason);
	if (r < 0)
		return r;
	r = chat_format_of(settings->base, settings->delta, &t->format, reason);
	if (r < 0 && r != -EOPNOTSUPP)
		return r;
	t->end = answer_end_of(&t->config, t->tokenizer, t->format);
	*ret = take_ptr(t);
	return 0;
}

const struct answer_end *task_text_end(const struct task_text *t)
{
	return &t->end;
}

const char *task_text_format(const struct task_text *t)
{
	return t->format ? chat_format_name(t->format) : NULL;
}

int task_text_answer(
	const struct task_text *t, const uint32_t *ids, size_t n, char **ret, struct reason *reason)
{
	size_t n_text;
	int r = tokenizer_decode(t->tokenizer, ids, n, true, ret, &n_text, reason);

	if (r == 0)
		answer_end_cut(&t->end, *ret);
	return r;
}

/* A prompt on its way to a sequence. */
struct draft {
	uint32_t *prompt;
	size_t n_prompt;
};

static int encode_prompt(const struct task_text *t, const char *text, size_t n, struct draft *ret,
	struct reason *reason)
{
	const struct chat_message message = {.role = CHAT_ROLE_USER, .text = text, .n_text = n};
	struct tokenizer_options options = {.add_specials = true};
	int r;

	if (t->format)
		r = chat_render(
			t->format, t->tokenizer, &message, 1, &ret->prompt, &ret->n_prompt, reason);
	else
		r = tokenizer_encode(
			t->tokenizer, text, n, options, &ret->prompt, &ret->n_prompt, reason);
	return r < 0 ? r : ids_check(ret->prompt, ret->n_prompt, t->config.vocab, reason);
}

/* Prompt, answer, and the id that ends it unless that is negative. What has nothing to judge, or
 * does not fit, is left out. */
static int add_answered(const struct task_text *t, const struct draft *draft,
	const uint32_t *answer, size_t n_answer, int32_t end, struct sequences *ret)
{
	size_t n = draft->n_prompt + n_answer;
	_cleanup_(freep) uint32_t *ids = reallocarray(NULL, n + 1, sizeof(*ids));

	if (!ids)
		return -ENOMEM;
	memcpy(ids, draft->prompt, draft->n_prompt * sizeof(*ids));
	if (n_answer > 0)
		memcpy(ids + draft->n_prompt, answer, n_answer * sizeof(*ids));
	if (end >= 0)
		ids[n++] = (uint32_t)end;
	if (draft->n_prompt == 0 || n == draft->n_prompt || n > t->config.max_positions)
		return 0;
	return sequences_add(ret, ids, n, draft->n_prompt);
}

int task_text_reference(const struct task_text *t, const struct task *task, struct sequences *ret,
	struct reason *reason)
{
	_cleanup_(freep) uint32_t *reference = NULL;
	struct tokenizer_options options = {0};
	struct draft draft = {0};
	size_t n;
	int r;

	r = encode_prompt(t, task->prompt, strlen(task->prompt), &draft, reason);
	if (r == 0)
		r = tokenizer_encode(t->tokenizer, task->reference, strlen(task->reference),
			options, &reference, &n, reason);
	if (r == 0)
		r = ids_check(reference, n, t->config.vocab, reason);
	if (r == 0)
		r = add_answered(t, &draft, reference, n, t->end.id, ret);
	free(draft.prompt);
	return r;
}

int task_text_references(const struct task_text *t, const struct tasks *tasks,
	struct sequences *ret, struct reason *reason)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < tasks->n; i++) {
		r = task_text_reference(t, &tasks->tasks[i], ret, reason);
		if (r < 0)
			return reason_prefix(reason, r, "task %zu", i + 1);
	}
	return 0;
}

/* Prompts that are decoded together. */
struct drafts {
	struct draft *items;
	size_t n;
	uint32_t max_tokens; /* what is made of each */
	struct decode_request *requests;
	uint32_t *ids;
};

static void drafts_done(struct drafts *d)
{
	for (size_t i = 0; d->items && i < d->n; i++)
		free(d->items[i].prompt);
	free(d->items);
	free(d->requests);
	free(d->ids);
	*d = (struct drafts){0};
}

static int drafts_init(struct drafts *d, size_t n, uint32_t max_tokens)
{
	d->n = n;
	d->max_tokens = max_tokens;
	d->items = calloc(n, sizeof(*d->items));
	d->requests = calloc(n, sizeof(*d->requests));
	d->ids = calloc(n * max_tokens + 1, sizeof(*d->ids));
	return d->items && d->requests && d->ids ? 0 : -ENOMEM;
}

/* What is drawn and for what: `first` numbers the drafts among all that a seed makes. */
struct drawing {
	const char *stage;
	uint64_t seed, first;
	const int32_t *stops;
	size_t n_stops;
};

/* Drafts without room for what is to be made stay unanswered (n = 0, stop = -1). */
static int draw(const struct task_text *t, struct drafts *d, const struct drawing *how,
	struct reason *reason)
{
	const struct decode_settings settings = {
		.model = t->settings.model,
		.variant = t->settings.variant,
		.pool = t->settings.pool,
		.progress = t->settings.progress,
		.stage = how->stage,
		.stops = how->stops,
		.n_stops = how->n_stops,
		.max_tokens = d->max_tokens,
	};
	_cleanup_(freep) struct decode_request *fitting = calloc(d->n, sizeof(*fitting));
	size_t n = 0;
	int r;

	if (!fitting)
		return -ENOMEM;
	for (size_t i = 0; i < d->n; i++) {
		d->requests[i] = (struct decode_request){
			.prompt = d->items[i].prompt,
			.n_prompt = (uint32_t)d->items[i].n_prompt,
			.ids = d->ids + i * d->max_tokens,
			.stop = -1,
			.seed = random_at(how->seed, how->first + i),
		};
		if (d->items[i].n_prompt > 0 &&
			d->items[i].n_prompt + d->max_tokens <= t->config.max_positions)
			fitting[n++] = d->requests[i];
	}
	r = decode_sampled(&settings, &t->settings.sampling, fitting, n, reason);
	if (r < 0)
		return r;
	for (size_t i = 0, k = 0; k < n; i++)
		if (d->requests[i].ids == fitting[k].ids)
			d->requests[i] = fitting[k++];
	return 0;
}

/* Those with an answer; one that ends at once says nothing. */
static int add_drawn(const struct task_text *t, const struct drafts *d, struct sequences *ret)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < d->n; i++)
		if (d->requests[i].n > 0)
			r = add_answered(t, &d->items[i], d->requests[i].ids, d->requests[i].n,
				d->requests[i].stop, ret);
	return r;
}

int task_text_answers(const struct task_text *t, const struct tasks *tasks, struct sequences *ret,
	struct reason *reason)
{
	const struct drawing how = {
		.stage = "answering",
		.seed = t->settings.sampling.seed,
		.stops = t->end.stops,
		.n_stops = t->end.n_stops,
	};
	_cleanup_(drafts_done) struct drafts d = {0};
	int r = drafts_init(&d, tasks->n, t->settings.max_answer);

	for (size_t i = 0; r == 0 && i < tasks->n; i++) {
		const char *prompt = tasks->tasks[i].prompt;

		r = encode_prompt(t, prompt, strlen(prompt), &d.items[i], reason);
		if (r < 0)
			return reason_prefix(reason, r, "task %zu", i + 1);
	}
	if (r == 0)
		r = draw(t, &d, &how, reason);
	return r < 0 ? r : add_drawn(t, &d, ret);
}

/* How a conversation begins before the user's first message, and how that message ends. */
struct opening {
	uint32_t *ids;
	size_t n;
	int32_t stops[FORMAT_MAX_EOS + 2];
	size_t n_stops;
	struct text end; /* what follows the message; terminated; empty without a format */
};

static void opening_done(struct opening *o)
{
	free(o->ids);
	text_done(&o->end);
}

/* The ids of `text`, after those that begin every text. */
static int encode_opening(const struct task_text *t, const char *text, size_t n,
	struct opening *ret, struct reason *reason)
{
	_cleanup_(freep) uint32_t *ids = NULL;
	const struct tokenizer_input input = {.text = text, .n = n};
	size_t n_ids, n_prefix;
	const uint32_t *prefix = tokenizer_prefix(t->tokenizer, &n_prefix);
	int r;

	r = tokenizer_encode_guarded(t->tokenizer, &input, &ids, &n_ids, reason);
	if (r < 0)
		return r;
	if (n_ids >= n_prefix && memcmp(ids, prefix, n_prefix * sizeof(*ids)) == 0)
		n_prefix = 0;
	ret->ids = calloc(n_prefix + n_ids + 1, sizeof(*ret->ids));
	if (!ret->ids)
		return -ENOMEM;
	memcpy(ret->ids, prefix, n_prefix * sizeof(*ids));
	memcpy(ret->ids + n_prefix, ids, n_ids * sizeof(*ids));
	ret->n = n_prefix + n_ids;
	return ids_check(ret->ids, ret->n, t->config.vocab, reason);
}

/* A message ends where the format goes on; if that begins with a special token, there. */
static int set_end(const struct task_text *t, const char *text, size_t n, struct opening *ret,
	struct reason *reason)
{
	const struct tokenizer_input input = {.text = text, .n = n};
	_cleanup_(freep) uint32_t *ids = NULL;
	size_t n_ids;
	int r = tokenizer_encode_guarded(t->tokenizer, &input, &ids, &n_ids, reason);

	if (r < 0)
		return r;
	if (n_ids > 0 && tokenizer_is_special(t->tokenizer, ids[0]))
		ret->stops[ret->n_stops++] = (int32_t)ids[0];
	ret->end.items = strndup(text, n);
	ret->end.n = n;
	return ret->end.items ? 0 : -ENOMEM;
}

static int make_opening(const struct task_text *t, struct opening *ret, struct reason *reason)
{
	const struct chat_message message = {
		.role = CHAT_ROLE_USER, .text = MARK, .n_text = strlen(MARK)};
	_cleanup_(text_done) struct text text = {0};
	struct guard guards[2];
	size_t n_guards;
	int r;

	memcpy(ret->stops, t->end.stops, t->end.n_stops * sizeof(*ret->stops));
	ret->n_stops = t->end.n_stops;
	if (!t->format)
		return encode_opening(t, "", 0, ret, reason);
	r = chat_format_text(t->format, &message, 1, true, &text, guards, &n_guards, reason);
	if (r < 0)
		return r;
	if (n_guards != 1)
		return reason_set(
			reason, -EOPNOTSUPP, "the chat format has no place for a message");
	r = encode_opening(t, text.items, guards[0].start, ret, reason);
	if (r == 0)
		r = set_end(t, text.items + guards[0].end, text.n - guards[0].end, ret, reason);
	return r;
}

/* The message that was drawn as a prompt; none if there is nothing in it. */
static int take_message(const struct task_text *t, const struct opening *opening,
	const struct decode_request *drawn, struct draft *ret, struct reason *reason)
{
	_cleanup_(freep) char *text = NULL;
	char *end;
	size_t n;
	int r = tokenizer_decode(t->tokenizer, drawn->ids, drawn->n, true, &text, &n, reason);

	if (r < 0)
		return r;
	end = opening->end.n > 0 ? strstr(text, opening->end.items) : NULL;
	n = end ? (size_t)(end - text) : strlen(text);
	if (text[strspn(text, " \t\r\n")] == '\0' || n == 0)
		return 0;
	return encode_prompt(t, text, n, ret, reason);
}

/* Copies of the opening, and what the fine-tune goes on with. */
static int draw_openings(const struct task_text *t, const struct opening *opening, uint64_t first,
	struct drafts *ret, struct reason *reason)
{
	const struct drawing how = {
		.stage = "inventing prompts",
		.seed = t->settings.sampling.seed,
		.first = 2 * first,
		.stops = opening->stops,
		.n_stops = opening->n_stops,
	};
	uint32_t most = t->format ? MAX_INVENTED_PROMPT : t->settings.max_answer;
	int r = drafts_init(ret, INVENTED_AT_ONCE, most);

	for (size_t i = 0; r == 0 && i < ret->n; i++) {
		ret->items[i].prompt = calloc(opening->n + 1, sizeof(uint32_t));
		if (!ret->items[i].prompt)
			return -ENOMEM;
		memcpy(ret->items[i].prompt, opening->ids, opening->n * sizeof(uint32_t));
		ret->items[i].n_prompt = opening->n;
	}
	return r < 0 ? r : draw(t, ret, &how, reason);
}

static int answer_messages(const struct task_text *t, const struct opening *opening, uint64_t first,
	const struct drafts *messages, struct sequences *ret, struct reason *reason)
{
	const struct drawing how = {
		.stage = "inventing answers",
		.seed = t->settings.sampling.seed,
		.first = 2 * first + INVENTED_AT_ONCE,
		.stops = t->end.stops,
		.n_stops = t->end.n_stops,
	};
	_cleanup_(drafts_done) struct drafts d = {0};
	int r = drafts_init(&d, messages->n, t->settings.max_answer);

	for (size_t i = 0; r == 0 && i < d.n; i++)
		r = take_message(t, opening, &messages->requests[i], &d.items[i], reason);
	if (r == 0)
		r = draw(t, &d, &how, reason);
	return r < 0 ? r : add_drawn(t, &d, ret);
}

/* Conversations number `first` and on. */
static int invent_some(const struct task_text *t, const struct opening *opening, uint64_t first,
	struct sequences *ret, struct reason *reason)
{
	_cleanup_(drafts_done) struct drafts d = {0};
	int r = draw_openings(t, opening, first, &d, reason);

	if (r < 0)
		return r;
	if (!t->format)
		return add_drawn(t, &d, ret);
	return answer_messages(t, opening, first, &d, ret, reason);
}

int task_text_invent(
	const struct task_text *t, size_t n_tokens, struct sequences *ret, struct reason *reason)
{
	_cleanup_(opening_done) struct opening opening = {0};
	size_t wanted = sequences_read(ret) + n_tokens;
	unsigned int n_fruitless = 0;
	int r;

	if (t->settings.sampling.temperature <= 0)
		return reason_set(reason, -EINVAL,
			"temperature is 0, expected more: a greedy model writes one text only");
	r = make_opening(t, &opening, reason);
	for (uint64_t first = 0; r == 0 && sequences_read(ret) < wanted;
		first += INVENTED_AT_ONCE) {
		size_t before = ret->n;

		r = invent_some(t, &opening, first, ret, reason);
		n_fruitless = ret->n == before ? n_fruitless + 1 : 0;
		if (r == 0 && n_fruitless == MAX_FRUITLESS)
			r = reason_set(reason, -EOPNOTSUPP,
				"the model writes nothing that can be used as a prompt");
	}
	return r;
}
